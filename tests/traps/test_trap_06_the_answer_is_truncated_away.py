"""A prompt longer than the limit pushes its answer out of the example, which then teaches nothing and dilutes every average. It is an error
that names the conversation, or a counted drop; answers that lose a part are counted."""

from __future__ import annotations

import pytest

from tests.tokenizer.chats import conversation, family
from wordmill.batches.batch import IGNORE
from wordmill.batches.conversations import Limits, encode_conversations
from wordmill.core.errors import DataError
from wordmill.core.progress import Reporter
from wordmill.corpus.conversations import Conversation
from wordmill.tokenizer.chat import Chat


@pytest.fixture(scope="module")
def chat():
    return Chat(family("qwen"))


TALKS = [Conversation(conversation(answers=2), f"talks.jsonl:{n}") for n in (1, 2)]
LONG = Conversation([{"role": "user", "content": "How many? " * 200}, *conversation(answers=1)[2:]], "talks.jsonl:3")


def test_it_is_an_error_that_names_the_conversation(chat):
    with pytest.raises(DataError, match=r"talks.jsonl:3: the answer begins at token .* at most 200 are read: nothing would be left"):
        encode_conversations([*TALKS, LONG], chat, Limits(max_tokens=200))


def test_or_a_counted_drop(chat, capsys):
    found = encode_conversations([*TALKS, LONG], chat, Limits(max_tokens=200, skip_bad=True), reporter=Reporter())
    assert len(found.examples) == 2 and found.dropped == {"answer_cut_away": 1}
    assert "talks.jsonl:3" in capsys.readouterr().err
    with pytest.raises(DataError, match="no conversation is left"):
        encode_conversations([LONG], chat, Limits(max_tokens=200, skip_bad=True))


def test_at_every_length_something_is_learned_and_all_that_is_lost_is_counted(chat):
    turns = chat.encode(TALKS[0].messages)
    first, second = turns.answers
    for most in range(first.start, second.stop):
        found = encode_conversations(TALKS[:1], chat, Limits(max_tokens=most))
        (example,) = found.examples
        learned = [t for t in example.targets.tolist() if t != IGNORE]
        kept = min(most + 1, second.stop)
        expected = [turns.ids[i] for a in turns.answers for i in range(a.start, min(a.stop, kept))]
        assert learned == expected and learned
        assert len(example.ids) <= most
        assert found.answers == sum(a.stop <= kept for a in turns.answers)
        assert found.answers_lost == (second.start >= kept)
        assert found.answers + found.answers_cut + found.answers_lost == 2
        assert example.cut == second.stop - 1 - len(example.ids)
        assert found.cut == (kept < second.stop)
    with pytest.raises(DataError, match="nothing would be left"):
        encode_conversations(TALKS[:1], chat, Limits(max_tokens=first.start - 1))
