from __future__ import annotations

import json

import pytest

from tests.tokenizer.chats import FAITHFUL, SPECIAL, conversation, family
from wordmill.core.errors import DataError, ModelError
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from wordmill.tokenizer.chat import Chat, RewritingTemplate, save_chat
from wordmill.tokenizer.template import CHATML, PLAIN


@pytest.fixture(scope="module")
def families():
    return {name: family(name) for name in SPECIAL}


def words(tokenizer, turns):
    return [tokenizer.decode(turns.ids[a.start : a.stop], skip_special=False) for a in turns.answers]


def theirs(tokenizer, folder):
    """`transformers`' tokenizer over the same files."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))


TOOLS = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("name", SPECIAL)
def test_ids_are_those_of_transformers(families, tmp_path, name):
    tokenizer = families[name]
    other, chat = theirs(tokenizer, tmp_path), Chat(tokenizer)
    for messages in (conversation(name), conversation(name, answers=1, system=False), conversation(name, answers=3)):
        whole = other.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert chat.encode(messages, only_last=True).ids == whole
        assert chat.render(messages) == other.apply_chat_template(messages, tokenize=False)
        asked = other.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
        assert chat.encode(messages[:-1], prompt=True).ids == asked


def test_tools_are_written_as_transformers_writes_them(families, tmp_path):
    tokenizer = families["qwen"]
    other, chat = theirs(tokenizer, tmp_path), Chat(tokenizer)
    call = {"type": "function", "function": {"name": "count", "arguments": {"of": "sacks <b> 磨"}}}
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "42"}, {"role": "assistant", "content": "42 sacks."}]  # fmt: skip
    assert chat.encode(messages, TOOLS).ids == other.apply_chat_template(messages, tools=TOOLS, return_dict=False)
    said = words(tokenizer, chat.encode(messages, TOOLS))
    assert said == ['<tool_call>\n{"name": "count", "arguments": {"of": "sacks <b> 磨"}}\n</tool_call><|im_end|>', "42 sacks.<|im_end|>"]


def test_marked_answers_are_those_that_transformers_counts(families, tmp_path):
    tokenizer, messages = families["marked"], conversation()
    found = theirs(tokenizer, tmp_path).apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    turns = Chat(tokenizer).encode(messages)
    mask = [int(any(a.start <= i < a.stop for a in turns.answers)) for i in range(len(turns.ids))]
    assert mask == found["assistant_masks"]


@pytest.mark.parametrize("name", FAITHFUL)
def test_answers_are_the_words_and_the_end_token(families, name):
    tokenizer = families[name]
    chat = Chat(tokenizer)
    turns = chat.encode(conversation(name))
    end = {"llama": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>", "phi": "<|end|>"}.get(name, "<|im_end|>")
    before = " " if name == "mistral" else ""
    assert words(tokenizer, turns) == [f"{before}There are {n} sacks. 磨坊{end}" for n in range(2)]
    assert [a.bytes for a in turns.answers] == [len(f"{before}There are {n} sacks. 磨坊".encode()) for n in range(2)]
    assert chat.end_ids == {tokenizer.token_id(end)}


def test_a_template_that_rewrites_earlier_turns_is_said_and_served_one_answer_at_a_time(families):
    tokenizer = families["forgetful"]
    chat, messages = Chat(tokenizer), conversation()
    with pytest.raises(RewritingTemplate, match=r"writes turn 3 in another way.*answers=each"):
        chat.encode(messages)
    assert words(tokenizer, chat.encode(messages, only_last=True)) == ["<think>\n\n</think>\n\nThere are 1 sacks. 磨坊<|im_end|>"]
    assert words(tokenizer, chat.encode(messages[:3])) == ["<think>\n\n</think>\n\nThere are 0 sacks. 磨坊<|im_end|>"]


def test_answers_without_weight_are_read_and_not_learned(families):
    messages = conversation()
    messages[2]["weight"] = 0
    chat = Chat(families["qwen"])
    turns = chat.encode(messages)
    assert [a.turn for a in turns.answers] == [4]
    assert turns.ids == chat.encode(conversation()).ids


@pytest.mark.parametrize("kind", ["bpe", "byte", "char", "unigram"])
def test_the_default_template(kind):
    text = "How many sacks are there? system user assistant\n"
    tokenizer = train_tokenizer([text] * 9, TokenizerConfig(kind=kind, vocab=340, allow_smaller=True))
    chat = Chat(tokenizer)
    assert not chat.trained and chat.template.source == CHATML
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "there are sacks"}]
    turns = chat.encode(messages)
    assert chat.render(messages) == "<|endoftext|><|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nthere are sacks<|im_end|>\n"
    assert turns.ids.count(tokenizer.bos_id) == 1
    assert words(tokenizer, turns) == ["there are sacks<|im_end|>"]


def test_the_default_template_writes_tools_and_thoughts(families):
    chat = Chat(families["qwen"], CHATML)
    call = {"type": "function", "function": {"name": "count", "arguments": {}}}
    said = {"content": "Yes.", "reasoning_content": "Hm.", "tool_calls": [call, call]}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", **said}]
    said = words(families["qwen"], chat.encode(messages, TOOLS))
    one = '<tool_call>{"name": "count", "arguments": {}}</tool_call>'
    assert said == [f"<think>\nHm.\n</think>\nYes.\n{one}\n{one}<|im_end|>"]
    assert '<|im_start|>tools\n[{"type": "function"' in chat.render(messages, TOOLS)


def test_without_marks_of_turns_an_answer_ends_with_the_end_token(families):
    spec = json.loads(families["mistral"]._json)
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<|im_")]
    tokenizer = Tokenizer(json.dumps(spec), {"bos_token": "<s>", "eos_token": "</s>"})
    chat = Chat(tokenizer)
    assert chat.template.source == PLAIN
    assert words(tokenizer, chat.encode(conversation())) == [f"There are {n} sacks. 磨坊</s>" for n in range(2)]
    assert chat.encode(conversation()).ids[0] == tokenizer.bos_id
    with pytest.raises(ModelError, match="no token that could end an answer"):
        Chat(Tokenizer(json.dumps({**spec, "added_tokens": []}), {}))


def test_what_a_template_refuses_or_gets_wrong_is_said(families):
    qwen = families["qwen"]
    with pytest.raises(DataError, match="refuses this conversation: roles must alternate"):
        Chat(families["gemma"]).encode([{"role": "user", "content": "a"}] * 2, prompt=True)
    with pytest.raises(ModelError, match="the chat template is broken"):
        Chat(qwen, "{% for %}").encode(conversation())
    with pytest.raises(ModelError, match="no special token at an answer's end"):
        Chat(qwen, "{% for m in messages %}{{ m.content }}\n{% endfor %}").encode(conversation())
    odd = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    odd += "{% if add_generation_prompt %}<|im_start|>think{% endif %}"
    with pytest.raises(ModelError, match="asks for an answer in one way and writes it in another"):
        Chat(qwen, odd).encode(conversation())


def test_templates_run_in_a_sandbox(families):
    with pytest.raises(DataError, match="refuses"):
        Chat(families["qwen"], "{{ ''.__class__.__mro__[1].__subclasses__() }}").encode(conversation())


def test_the_template_and_its_end_token_are_stored_with_the_model(tmp_path):
    tokenizer = train_tokenizer(["a b c"] * 9, TokenizerConfig(kind="byte"))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0, "bos_token_id": 0}')
    save_chat(Chat(tokenizer), tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == CHATML
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [0, 3], "bos_token_id": 0}
    again = Chat(Tokenizer.load(tmp_path))
    assert again.trained and again.encode(conversation()) == Chat(tokenizer).encode(conversation())


@pytest.mark.parametrize(("files", "kind"), [("llama", "LlamaTokenizer"), ("gemma", "GemmaTokenizer"), ("qwen2", "Qwen2Tokenizer")])
def test_ids_are_those_of_transformers_with_their_vocabularies_too(own, tmp_path, files, kind):
    """SentencePiece puts a space before a text, and another after some special tokens; the marks of turns may be plain text."""
    ends = {"llama": {"bos_token": "<s>", "eos_token": "</s>"}, "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
            "qwen2": {"eos_token": "<|endoftext|>"}}[files]  # fmt: skip
    template = SPECIAL["mistral"][0].replace("{{- bos_token }}", "{{- bos_token or '' }}")
    tokenizer = Tokenizer.load(own.folder(files, kind, chat_template=template, **ends))
    other, chat = theirs(tokenizer, tmp_path), Chat(tokenizer)
    messages = conversation("mistral", answers=3)
    assert chat.encode(messages).ids == other.apply_chat_template(messages, return_dict=False)
    asked = chat.encode(messages[:-1], prompt=True).ids
    assert asked == other.apply_chat_template(messages[:-1], return_dict=False, add_generation_prompt=True)
    for answer in chat.encode(messages).answers:
        assert chat.encode(messages).ids[: answer.start] == chat.encode(messages[: answer.turn], prompt=True).ids
