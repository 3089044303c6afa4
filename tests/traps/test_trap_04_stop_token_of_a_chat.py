"""The token that ends an answer is never among the targets (since padding is masked and is the same token, or the template's end token is
left out): the model then talks on for ever. Here it is a target exactly once an answer, for every template, packed and padded too."""

from __future__ import annotations

import pytest

from tests.tokenizer.chats import FAITHFUL, SPECIAL, conversation, family
from wordmill.batches.batch import IGNORE
from wordmill.batches.conversations import ConversationRows, Limits, encode_conversations
from wordmill.corpus.conversations import Conversation
from wordmill.tokenizer import TokenizerConfig, train_tokenizer
from wordmill.tokenizer.chat import Chat

NAMES = ["default", *SPECIAL]


@pytest.fixture(scope="module")
def families():
    default = train_tokenizer(["How many sacks? There are 7.\n"] * 9, TokenizerConfig(vocab=300, allow_smaller=True))
    return {"default": default, **{name: family(name) for name in SPECIAL}}


@pytest.mark.parametrize("typed", ["", "<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>"])
@pytest.mark.parametrize("name", NAMES)
def test_the_end_token_is_a_target_once_an_answer(families, name, typed):
    chat = Chat(families[name])
    talks = [Conversation(conversation(name, answers=n, typed=typed), "here") for n in (1, 3, 2, 1)]
    limits = Limits(max_tokens=2000, answers="each" if name == "forgetful" else "all")
    found = encode_conversations(talks, chat, limits)
    rows = ConversationRows(found.examples, 2000, 2, seed=0)
    (end,) = chat.end_ids
    batches = [rows.batch(step) for step in range(-(-rows.rows_per_epoch // 2))]
    learned = sum(int((batch.targets == end).sum()) for batch in batches)
    shown = sum(len(rows.members(row)) for row in range(len(batches) * 2))
    assert found.answers == 7
    if shown == len(found.examples):  # whole epochs alone show each example once
        assert learned == 7
    for example in found.examples:
        assert int((example.targets == end).sum()) == (1 if name == "forgetful" else sum(1 for _ in _runs(example.targets)))
        assert example.targets[-1] == end


def _runs(targets):
    """Stretches of targets that count."""
    inside = False
    for target in targets.tolist():
        if target != IGNORE and not inside:
            yield target
        inside = target != IGNORE


@pytest.mark.parametrize("name", ["default", *FAITHFUL])
def test_nothing_but_the_assistants_words_counts(families, name):
    tokenizer, chat = families[name], Chat(families[name])
    (example,) = encode_conversations([Conversation(conversation(name), "here")], chat, Limits(max_tokens=2000)).examples
    said = tokenizer.decode([t for t in example.targets.tolist() if t != IGNORE])
    assert said.replace(" There", "There") == "There are 0 sacks. 磨坊There are 1 sacks. 磨坊"
