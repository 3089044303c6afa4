from __future__ import annotations

import math

import pytest
import torch

from tests.tokenizer.chats import conversation
from wordmill.batches.conversations import Limits, encode_conversations
from wordmill.corpus.conversations import Conversation
from wordmill.evaluate.answers import exact_match, final_answer, score_answers
from wordmill.tokenizer.chat import Chat


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_only_the_assistants_words_and_end_tokens_cost(make_loaded, shape):
    loaded = make_loaded(shape, **({} if shape == "lstm" else {"max_positions": 256}))
    chat = Chat(loaded.tokenizer)
    talks = [Conversation(conversation(answers=n), "here") for n in (1, 2, 1)]
    examples = encode_conversations(talks, chat, Limits(max_tokens=256)).examples
    nats, tokens, size = 0.0, 0, 0
    for talk in talks:
        turns = chat.encode(talk.messages)
        losses = -torch.log_softmax(loaded.logits(turns.ids)[0].double(), -1)
        for answer in turns.answers:
            nats += sum(float(losses[i - 1, turns.ids[i]]) for i in range(answer.start, answer.stop))
            tokens += answer.stop - answer.start
        size += sum(len(turn["content"].encode()) for turn in talk.messages if turn["role"] == "assistant")
    for batch_tokens in (1, 1000):
        score = score_answers(loaded.model, examples, batch_tokens=batch_tokens)
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert (score.tokens, score.bytes) == (tokens, size)
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18", "18"), ("#### 1,080.00 dollars", "1080"), ("It is $2,125.50.", "2125.5"),
        ("first 3, then -4", "-4"), ("#### 7 (of 12)", "7"), (" no  number ", "no number"), ("100", "100"), ("+5", "5"),
    ],
)  # fmt: skip
def test_the_final_answer_of_a_worked_one(text, result):
    assert final_answer(text) == result


def test_exact_match():
    assert exact_match(["so 18", "#### 3", "4"], ["#### 18", "#### 3", "#### 5"]) == pytest.approx(2 / 3)
