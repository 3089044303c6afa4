"""Templates in the manner of well-known families, written for these tests, and a small tokenizer for each."""

from __future__ import annotations

import json
from typing import Any

from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- ('\\n' if message.content else '') + '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
LLAMA = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content'] + '\\n\\n' %}{%- set rest = messages[1:] %}
{%- else %}
    {%- set first = '' %}{%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{%- endif %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
    {{- (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""
MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
    {%- else %}{{ raise_exception('only user and assistant speak here') }}
    {%- endif %}
{%- endfor %}
"""
PHI = """
{%- for message in messages %}{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}
"""
MARKED = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
FORGETFUL = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""It writes an answer in another way once another turn follows, as models that think aloud do."""

SPECIAL: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "qwen": (QWEN, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ()),
    "llama": (LLAMA, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
              ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")),
    "gemma": (GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>"}, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")),
    "mistral": (MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}, ("<s>", "</s>", "[INST]", "[/INST]")),
    "phi": (PHI, {"eos_token": "<|endoftext|>"}, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "marked": (MARKED, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, ()),
    "forgetful": (FORGETFUL, {"eos_token": "<|im_end|>"}, ()),
}  # fmt: skip
FAITHFUL = [name for name in SPECIAL if name != "forgetful"]

TEXT = (
    "The mill stands by the river, and the river never asks where the grain came from. 磨坊在河边。system user assistant model tool\n\n"
    "How many sacks are there? There are 42 sacks, I think. <tool_call> {\"name\": \"count\", \"arguments\": {}} [INST] You help.\n"
)


def family(name: str, kind: str = "bpe") -> Tokenizer:
    """A small tokenizer with a template like that family's; phi's marks of turns eat the space behind them, as there."""
    template, settings, special = SPECIAL[name]
    made = train_tokenizer([TEXT] * 4, TokenizerConfig(kind=kind, vocab=420, allow_smaller=True, extra_special=special))
    spec = json.loads(made._json)
    if name == "phi":
        for token in spec["added_tokens"]:
            token["rstrip"] = token["content"] in special
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    return Tokenizer(json.dumps(spec), settings, {"default": template})


def conversation(name: str = "", *, answers: int = 2, system: bool = True, typed: str = "") -> list[dict[str, Any]]:
    """A conversation with that many answers, in which `typed` is typed by everybody."""
    messages = [{"role": "system", "content": f"Be short.{typed}"}] if system and name != "mistral" else []
    for number in range(answers):
        messages.append({"role": "user", "content": f"How many sacks{typed} are there, {number}?"})
        messages.append({"role": "assistant", "content": f"There are {number} sacks{typed}. 磨坊"})
    return messages
