"""Chat templates: Jinja programs that write a conversation as one string. They come with models from anywhere, so they run in a sandbox.

A template sees what it sees in `transformers`: `messages`, `tools`, `add_generation_prompt`, the names of the special tokens, `tojson`,
`raise_exception`, `strftime_now`, and may mark what the assistant says with `{% generation %}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wordmill.core.errors import DataError, ModelError

OPEN, CLOSE = "\ufdd2", "\ufdd3"
"""Noncharacters of Unicode: they stand around what a template marks as the assistant's."""

_SAID = """\
{%- if message.reasoning_content -%}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n' -}}
{%- endif -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- ('\\n' if message.content or not loop.first else '') + '<tool_call>' + (call.function | tojson) + '</tool_call>' -}}
{%- endfor -%}
"""
"""What a message says: its thoughts, its text, its calls of tools."""

CHATML = """\
{{- bos_token or '' -}}
{%- if tools -%}
{{- '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
""" + _SAID + """\
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Our own, for tokenizers with the marks of turns: those that wordmill trains, and many others."""

PLAIN = """\
{{- bos_token or '' -}}
{%- if tools -%}
{{- 'tools:\\n' + (tools | tojson) + '\\n\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- message.role + ':\\n' -}}
""" + _SAID + """\
{{- (eos_token if message.role == 'assistant' else '\\n') + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'assistant:\\n' -}}
{%- endif -%}
"""
"""For tokenizers without such marks: the turns are told apart by plain text, and an answer ends with the end token."""


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what is inside is what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (that is how jinja2 has it)

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of `marked` with the block's text."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        """The text between its marks."""
        return f"{OPEN}{caller()}{CLOSE}"


class Template:
    """One template, compiled once."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """`tokens` are the special tokens by what templates call them (`bos_token`, …)."""
        self.source, self.tokens = source, dict(tokens)

    @cached_property
    def _compiled(self) -> Any:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            return environment.from_string(self.source)
        except TemplateError as error:
            raise ModelError(f"the chat template is broken: {error}", fix="Mend chat_template.jinja in the model's folder") from error

    def check(self) -> None:
        """Raises `ModelError` for a template that can't be compiled."""
        _ = self._compiled

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, *, prompt: bool) -> str:
        """The conversation as one string; `prompt`: up to where the assistant is to speak next.

        Raises `DataError` with the template's own words where it refuses the conversation.
        """
        compiled = self._compiled
        values = {"messages": list(messages), "tools": tools, "documents": None, "add_generation_prompt": prompt}
        try:
            return str(compiled.render(**self.tokens, **values))
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise DataError(f"the model's chat template refuses this conversation: {error}") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As `transformers` has it: the usual filter would write `<` as `\\u003c`."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
