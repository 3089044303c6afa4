from __future__ import annotations

import pytest

from wordmill.batches.conversations import ConversationRows, Limits, encode_conversations
from wordmill.corpus.conversations import Conversation
from wordmill.evaluate.answers import exact_match, score_answers
from wordmill.generate import Dialogue, Loaded, SamplingConfig
from wordmill.tokenizer.chat import Chat, save_chat
from wordmill.train.loop import TrainConfig, Training, fit
from wordmill.train.objectives import causal

TALKS = {"How many sacks?": "There are 42.", "Who stands there?": "The miller.", "磨坊在哪里？": "河边。"}


@pytest.mark.parametrize("shape", ["qwen3", "gru"])
def test_a_model_learns_to_answer_and_to_stop(make_model, tiny_tokenizer, tmp_path, shape):
    """The whole way: conversations, rows, the loop, the folder, the dialogue."""
    chat = Chat(tiny_tokenizer)
    talks = [Conversation([{"role": "user", "content": ask}, {"role": "assistant", "content": say}], "here") for ask, say in TALKS.items()]
    examples = encode_conversations(talks, chat, Limits(max_tokens=64)).examples
    rows = ConversationRows(examples, 96, 2, seed=0)
    model = make_model(shape, vocab_size=tiny_tokenizer.vocab_size, **({} if shape == "gru" else {"max_positions": 128}))
    before = score_answers(model, examples).bits_per_byte
    config = TrainConfig.of({"rows": 2, "micro_rows": 1, "context": 96, "steps": 80, "optim": {"kind": "adamw", "lr": 1e-2}})
    fit(Training(model.train(), causal, rows, config))
    assert score_answers(model, examples).bits_per_byte < 0.05 * before
    Loaded(model.eval(), tiny_tokenizer).save(tmp_path)
    save_chat(chat, tmp_path)
    from wordmill.generate import load

    talk = Dialogue(load(tmp_path, device="cpu"), SamplingConfig(max_tokens=40, temperature=0.0))
    assert talk.chat.trained
    answers = []
    for ask in TALKS:
        answers.append("".join(talk.say(ask)))
        assert talk.reason == "eos"
        talk.reset()
    assert answers == list(TALKS.values())
    assert exact_match(answers, list(TALKS.values())) == 1.0
