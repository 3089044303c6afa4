"""Small texts in several languages, and one tokenizer of each kind trained on them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from wordmill.tokenizer.config import KINDS

# A busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

ENGLISH = "The mill grinds words into models. It's quick, and the miller's daughter doesn't mind: 1984 sacks, 37 carts!\n"
CHINESE = "语言模型学习文字的规律。我们在2024年训练了三个模型，效果很好！磨坊把词语磨成模型。\n"
CODE = "def grind(words, size=16):\n    for word in words:\n        if len(word) > size:\n            yield word\n\n    return None\n"
OTHERS = "Мельница мелет слова. Η μυλόπετρα αλέθει λέξεις. 言葉を挽くミルです。단어를 갈아요. चक्की शब्द पीसती है। طاحونة الكلمات.\n"
SAMPLES = [ENGLISH, CHINESE, CODE, OTHERS, "naïve café Ⅷ ½ ﬁ — 😀👩‍👩‍👧 é ٣٤ <|endoftext|><|im_start|>user"]


def texts() -> list[str]:
    """Text enough to learn some hundred tokens from: every sentence cut at different places."""
    return [(text * 3)[start:] for text in SAMPLES for start in range(0, 40, 2)]


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    made = {}
    for kind in KINDS:
        made[kind] = train_tokenizer(texts(), TokenizerConfig(kind=kind, vocab=700, allow_smaller=True))
    return made


@pytest.fixture(scope="session")
def bpe(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["bpe"]
