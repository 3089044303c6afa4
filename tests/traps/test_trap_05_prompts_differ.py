"""Training and serving build different prompts, or the start token stands there twice: the model is then asked something that it was never
taught. For one conversation the ids of the trainer, of the terminal chat and of whoever serves are the same, and `transformers`' too."""

from __future__ import annotations

import pytest

from tests.tokenizer.chats import FAITHFUL, SPECIAL, conversation, family
from wordmill.batches.conversations import Limits, encode_conversations
from wordmill.corpus.conversations import Conversation
from wordmill.generate import Loaded, SamplingConfig
from wordmill.generate.chat import Dialogue
from wordmill.tokenizer import TokenizerConfig, train_tokenizer
from wordmill.tokenizer.chat import Chat


@pytest.fixture(scope="module")
def families():
    default = train_tokenizer(["How many sacks? There are 7.\n"] * 9, TokenizerConfig(vocab=300, allow_smaller=True))
    return {"default": default, **{name: family(name) for name in SPECIAL}}


def trained(chat, messages, answers="all"):
    """The conversation's tokens as the trainer has them: what is read, and the last target."""
    found = encode_conversations([Conversation(messages, "here")], chat, Limits(max_tokens=10_000, answers=answers))
    return [[*example.ids.tolist(), int(example.targets[-1])] for example in found.examples]


# An answer that begins with a line end or a space would grow together with the prompt, if it could.
ANSWERS = ["There are 7.", "\n\nThere are 7.", " 7", "sacks", "磨坊", "\t"]


@pytest.mark.parametrize("name", ["default", *SPECIAL])
def test_what_is_asked_is_what_was_learned(families, name):
    chat = Chat(families[name])
    for answer in ANSWERS:
        messages = conversation(name)
        messages[-1]["content"] = messages[-3]["content"] = answer
        turns = chat.encode(messages, only_last=name == "forgetful")
        for a in turns.answers:
            assert chat.encode(messages[: a.turn], prompt=True).ids == turns.ids[: a.start]


@pytest.mark.parametrize("name", ["default", *SPECIAL])
def test_trainer_terminal_and_transformers_read_the_same(families, name, make_model, tmp_path):
    tokenizer = families[name]
    chat, messages = Chat(tokenizer), conversation(name)
    learned = trained(chat, messages, "each" if name == "forgetful" else "all")[-1]
    model = make_model(vocab_size=tokenizer.vocab_size, max_positions=512)
    talk = Dialogue(Loaded(model, tokenizer), SamplingConfig(max_tokens=1, temperature=0.0))
    talk.messages = messages[:-2]
    for _ in talk.say(messages[-2]["content"]):
        pass
    asked = talk.prompt
    assert learned[: len(asked)] == asked
    assert asked == chat.encode(messages[:-1], prompt=True).ids
    if name != "default":
        transformers = pytest.importorskip("transformers")
        tokenizer.save(tmp_path)
        other = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
        assert asked == other.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        assert other.apply_chat_template(messages, return_dict=False)[: len(learned)] == learned


@pytest.mark.parametrize("name", ["default", *FAITHFUL])
def test_the_start_token_stands_there_once(families, name):
    tokenizer = families[name]
    ids = Chat(tokenizer).encode(conversation(name)).ids
    if name not in ("qwen", "phi"):  # these have none
        assert ids[0] == tokenizer.bos_id
        assert ids.count(tokenizer.bos_id) == 1
    else:
        assert tokenizer.bos_id is None
