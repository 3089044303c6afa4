"""Small texts in several languages, and one tokenizer of each kind trained on them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


# ── folders of other people's models ────────────────────────────────────────────────────────────────────────────

TWELVE_LANGUAGES = [
    "The mill stands by the river; its wheel turns slowly, and the miller's daughter counts 1,984 sacks of flour. Who'd have thought it?",
    "磨坊在河边，水车慢慢地转。２０２４年，磨坊主数了三百袋面粉（白色的），谁也不知道粮食从哪里来！",
    "Die Mühle steht am Fluß, und das Rad dreht sich langsam. Der Müller zählt Säcke: eins, zwei, drei – dann vergißt er alles.",
    "El molino está junto al río. ¿Quién cuenta los sacos de harina? El niño pequeño, mañana por la mañana, con su corazón tranquilo.",
    "Мельница стоит у реки, колесо медленно вертится. Ёжик считает мешки: один, два, три — и забывает всё сначала.",
    "Ο μύλος στέκει δίπλα στο ποτάμι. Ποιος μετράει τα σακιά με το αλεύρι; Ο μυλωνάς, κάθε πρωί, ύστερα τα ξεχνάει όλα.",
    "الطاحونة بجانب النهر، والعجلة تدور ببطء. كم كيسًا من الدقيق عند الطحّان؟ عدّ ١٢٣ كيسًا ثم نسي كلّ شيء.",
    "चक्की नदी के किनारे खड़ी है और पहिया धीरे-धीरे घूमता है। चक्की वाला आटे की बोरियाँ गिनता है: एक, दो, तीन।",
    "โรงสีตั้งอยู่ริมแม่น้ำ กังหันหมุนช้า ๆ คนเฝ้าโรงสีนับกระสอบแป้งทุกเช้า แล้วก็ลืมทั้งหมด",
    "Değirmen ırmağın kıyısında duruyor; çark yavaşça dönüyor. Değirmenci un çuvallarını sayar: bir, iki, üç, sonra İSTANBUL'a gider.",
    "Cối xay đứng bên bờ sông, bánh xe quay chậm rãi. Người thợ xay đếm những bao bột mỗi buổi sáng rồi quên hết tất cả.",
    "Moara stă lângă râu, iar roata se învârte încet. Morarul numără sacii de făină: unu, doi, trei, și apoi îi uită pe toți.",
]
ODDITIES = [
    "", " ", "a", " leading", "trailing ", "two  spaces", "a\tb\nc\r\nd", "½ ﬁ Ⅷ ａｂｃ １２",
    "e\u0301 n\u0303 é ñ", "😀👩\u200d👩\u200d👧 \u00a0\u3000x\u200b",
    "## x ##y", "don't I'LL WE'VE", "100000000 $3.50 x=10%", "\u4e00\U00020000語カタ한국", "İıſK", "\ufffd\x00\x7f", "a_b-c/d\\e",
]  # fmt: skip


@dataclass
class Languages:
    """Texts in twelve languages, and folders whose vocabularies are learned from them."""

    name: str
    texts: list[str]
    root: Path
    made: dict[str, Any] = field(default_factory=dict)

    def folder(self, files: str, tokenizer_class: str | None = None, **settings: Any) -> Path:
        """A new folder with these vocabulary files (a key of `FILES`) and a tokenizer_config.json."""
        if files not in self.made:
            self.made[files] = FILES[files](self.texts)
        folder = self.root / f"{files}-{len(list(self.root.iterdir()))}"
        folder.mkdir()
        for name, content in self.made[files].items():
            (folder / name).write_bytes(content)
        if tokenizer_class or settings:
            values = {**({"tokenizer_class": tokenizer_class} if tokenizer_class else {}), **settings}
            (folder / "tokenizer_config.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return folder


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Languages:
    """Our own texts."""
    return Languages("own", [*TWELVE_LANGUAGES, *ODDITIES], tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session", params=["own", "xquad"])
def languages(request: pytest.FixtureRequest, own: Languages, tmp_path_factory: pytest.TempPathFactory) -> Languages:
    """Our own texts, and those of XQuAD where they are there."""
    if request.param == "own":
        return own
    folder = Path(os.environ.get("WORDMILL_TEST_DATA", "")) / "xquad"
    files = sorted(folder.glob("xquad.*.json"))
    if len(files) < 12:
        pytest.skip("no XQuAD: WORDMILL_TEST_DATA names no folder that holds xquad/xquad.*.json in twelve languages")
    articles = [article for file in files for article in json.loads(file.read_text(encoding="utf-8"))["data"][::20]]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"][:2]]
    texts = [text for each in paragraphs for text in (each["context"], each["qas"][0]["question"])]
    return Languages("xquad", texts, tmp_path_factory.mktemp("xquad"))


def _wordpiece(texts: list[str]) -> dict[str, bytes]:
    made = train_tokenizer(texts, TokenizerConfig(kind="wordpiece", vocab=3000, allow_smaller=True, lowercase=True, min_count=1))
    names = [made.token_text(index) for index in range(made.vocab_size)]
    # As in BERT's own file, the special tokens are not the first, and a separator of Unicode is a token.
    names = [names[0], "[unused0]", "\u2028", *names[1:]]
    return {"vocab.txt": "\n".join(names).encode() + b"\n"}


def _bytes(special: list[str]) -> Callable[[list[str]], dict[str, bytes]]:
    def make(texts: list[str]) -> dict[str, bytes]:
        made = json.loads(train_tokenizer(texts, TokenizerConfig(vocab=2000, allow_smaller=True))._json)["model"]
        names = [*special, *list(made["vocab"])[4:]]
        pairs = "".join(f"{left} {right}\n" for left, right in made["merges"])
        vocab = json.dumps({name: index for index, name in enumerate(names)}, ensure_ascii=False)
        return {"vocab.json": vocab.encode(), "merges.txt": f"#version: 0.2\n{pairs}".encode()}

    return make


def _sentencepiece(name: str, **settings: Any) -> Callable[[list[str]], dict[str, bytes]]:
    def make(texts: list[str]) -> dict[str, bytes]:
        sentencepiece = pytest.importorskip("sentencepiece")
        model = io.BytesIO()
        lines = [line for text in texts for line in text.split("\n") if line.strip() and "\x00" not in line]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, minloglevel=2, num_threads=1,
            **{"model_type": "unigram", "vocab_size": 1200, "hard_vocab_limit": False, "character_coverage": 0.998, **settings},
        )  # fmt: skip
        return {name: model.getvalue()}

    return make


_BPE: dict[str, Any] = {
    "model_type": "bpe", "byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "hard_vocab_limit": True,
}  # fmt: skip
FILES: dict[str, Callable[[list[str]], dict[str, bytes]]] = {
    "wordpiece": _wordpiece,
    "gpt2": _bytes(["<|endoftext|>"]),
    "roberta": _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
    "qwen2": _bytes([]),
    "t5": _sentencepiece("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "fairseq": _sentencepiece("sentencepiece.bpe.model"),
    "fairseq-plain": _sentencepiece("sentencepiece.bpe.model", normalization_rule_name="identity"),
    "llama": _sentencepiece("tokenizer.model", **_BPE),
    "gemma": _sentencepiece(
        "tokenizer.model", add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n"], **_BPE,
    ),
    "any": _sentencepiece("any.model", user_defined_symbols=["<sep>"]),
    "any-bpe": _sentencepiece("any.model", model_type="bpe", hard_vocab_limit=True),
}  # fmt: skip
