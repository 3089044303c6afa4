from __future__ import annotations

import json

import pytest

from wordmill.core.errors import UsageError
from wordmill.core.progress import Reporter
from wordmill.corpus.conversations import read_conversations
from wordmill.generate import Dialogue, SamplingConfig, engine
from wordmill.generate.chat import Memory

GREEDY = SamplingConfig(max_tokens=12, temperature=0.0)
SHAPES = ["qwen3", "gpt2", "gemma3_text", "qwen3-windowed", "lstm", "gru"]


@pytest.fixture
def make_dialogue(make_loaded):
    def make(shape="qwen3", config=GREEDY, **settings):
        return Dialogue(make_loaded(shape, **({} if shape in ("lstm", "gru") else {"max_positions": 512})), config, **settings)

    return make


def whole(dialogue, text):
    return "".join(dialogue.say(text))


@pytest.mark.parametrize("shape", SHAPES)
def test_going_on_is_the_same_as_reading_all_anew(make_model, shape):
    """A row of tokens that grows, is cut back and goes on elsewhere: always the tokens that the engine draws from the whole."""
    model = make_model(shape)
    memory = Memory(model, 64)
    first = [0, 5, 6, 7]
    drawn = [token.id for token in memory.answer(first, GREEDY, frozenset())]
    onward = [*first, *drawn, 9, 8]  # the usual: the answer, and a new message
    changed = [*first, *drawn[:3], 11, 12, 13]  # the answer reads otherwise than it was drawn
    other = [0, 5, 20, 21, 22, 23]
    fresh = []
    for prompt in (onward, changed, other, other):
        found = [token.id for token in memory.answer(prompt, GREEDY, frozenset())]
        expected = [step[0].id for step in engine.run(model, [prompt], GREEDY)]
        assert found == expected
        fresh.append(memory.fresh)
    # The last token drawn was never read, so three are new at first.
    # A recurrent state can't go back, so what reads otherwise than it did is read from its start.
    assert fresh == ([3, 10, 6, 6] if shape in ("lstm", "gru") else [3, 3, 4, 1])


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_the_history_is_not_read_again(make_dialogue, shape):
    dialogue = make_dialogue(shape)
    for number in range(4):
        whole(dialogue, f"the mill {number}")
    prompt = len(dialogue.chat.encode(dialogue.messages[:-1], prompt=True).ids)
    assert dialogue.prompt == dialogue.chat.encode(dialogue.messages[:-1], prompt=True).ids
    # Random weights draw tokens that no text would be cut into; what was drawn as text is cut is not read again.
    assert dialogue.memory.fresh < prompt / 2


def test_answers_are_kept_and_streamed(make_dialogue):
    dialogue = make_dialogue(system="Be short.")
    pieces = list(dialogue.say("the river"))
    assert len(pieces) > 1 or dialogue.reason == "eos"
    said = [turn["content"] for turn in dialogue.messages]
    assert said == ["Be short.", "the river", "".join(pieces)]
    assert [turn["role"] for turn in dialogue.messages] == ["system", "user", "assistant"]
    again = make_dialogue(system="Be short.")
    assert whole(again, "the river") == "".join(pieces)
    dialogue.reset()
    assert dialogue.messages == [{"role": "system", "content": "Be short."}]
    assert whole(dialogue, "the river") == "".join(pieces)
    dialogue.system("")
    assert [turn["role"] for turn in dialogue.messages] == ["user", "assistant"]


def test_an_answer_broken_off_is_what_was_said_so_far(make_dialogue):
    dialogue = make_dialogue()
    pieces = dialogue.say("the river")
    first = next(pieces)
    pieces.close()
    assert dialogue.messages[-1] == {"role": "assistant", "content": first}
    assert dialogue.reason is None
    expected = make_dialogue()
    expected.messages = list(dialogue.messages)
    assert whole(dialogue, "and?") == whole(expected, "and?")


def test_an_answer_ends_with_the_end_of_its_turn(make_dialogue, monkeypatch):
    dialogue = make_dialogue()
    end = dialogue.loaded.tokenizer.token_id("<|im_end|>")
    assert end in dialogue.ends
    monkeypatch.setattr("wordmill.generate.sampling.Sampler.draw", lambda *_: [end])
    assert whole(dialogue, "hi") == "" and dialogue.reason == "eos"


def test_the_oldest_turns_are_forgotten_with_a_notice(make_dialogue, capsys):
    dialogue = make_dialogue(context=120, reporter=Reporter())
    for number in range(8):
        whole(dialogue, f"the mill stands by the river {number}")
        assert len(dialogue.prompt) + GREEDY.max_tokens <= 120
    assert "turns are forgotten" in capsys.readouterr().err
    assert len(dialogue.messages) == 16  # all of it can still be saved
    text = dialogue.loaded.tokenizer.decode(dialogue.prompt)
    assert "river 7" in text and "river 0" not in text
    with pytest.raises(UsageError, match="this message has .* tokens, and 108 fit"):
        whole(dialogue, "the mill 1234567890 " * 40)
    assert len(dialogue.messages) == 16


def test_a_saved_conversation_can_be_trained_on(make_dialogue, tmp_path):
    dialogue = make_dialogue()
    whole(dialogue, "the river")
    dialogue.messages[-1]["content"] = "磨坊"
    dialogue.save(tmp_path / "talk.jsonl")
    assert json.loads((tmp_path / "talk.jsonl").read_text("utf-8")) == {"messages": dialogue.messages}
    assert read_conversations([tmp_path / "talk.jsonl"]).conversations[0].messages == dialogue.messages
    with pytest.raises(UsageError, match="there already"):
        dialogue.save(tmp_path / "talk.jsonl")
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        dialogue.save(tmp_path / "nowhere" / "talk.json")


def test_a_model_without_a_template_is_said_to_be_no_chat_model(make_dialogue, capsys):
    make_dialogue(reporter=Reporter())
    assert "was not trained to chat" in capsys.readouterr().err


def test_models_that_cannot_chat_are_refused(make_loaded):
    with pytest.raises(UsageError, match="an encoder can't chat"):
        Dialogue(make_loaded("bert"))
    with pytest.raises(UsageError, match="64 positions"):
        Dialogue(make_loaded(), context=100)
