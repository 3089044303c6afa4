"""Conversations: who said what, read from the layouts that they are published in.

    messages   a list of turns: OpenAI's {"role", "content"} (tool_calls and tool messages kept) or ShareGPT's {"from", "value"}
    alpaca     instruction, input, output; with system and history where they are there
    pairs      a prompt and a response under any of their usual names

Which one a file is in follows from its first record, and is said. All become one thing: messages as OpenAI writes them, which is what chat
templates take.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.encoding import UNDECODABLE
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.read import Reading
from wordmill.corpus.rows import read_rows
from wordmill.corpus.sources import find_sources

Message = dict[str, Any]
"""One turn: `role` (of `ROLES`), `content` (text), and where there are any `tool_calls`, `tool_call_id`, `name`, `reasoning_content`;
`weight` 0 for an answer that is read and not learned."""

ROLES = ("system", "user", "assistant", "tool")
_SPEAKERS = {
    **{role: role for role in ROLES}, "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "function_call": "assistant", "function": "tool",
    "observation": "tool", "ipython": "tool", "function_response": "tool",
}  # fmt: skip
_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
_PROMPTS = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem", "问题", "提问")
_ANSWERS = ("response", "completion", "answer", "output", "assistant", "reply", "solution", "target", "回答", "答案")
_GOOD = ("label", "kto_tag", "desirable")
"""Fields that say `false` of an answer that is a bad example (KTO): nothing is to be learned from it here."""
_FIX = "Mend it, or go on without such conversations: skip_bad"
SHOWN = 5


@dataclass(frozen=True)
class Conversation:
    """One conversation to learn from: it starts with the user (after what the system says) and ends with the assistant."""

    messages: list[Message]
    where: str
    """FILE:LINE, for messages to people (of a list in JSON with the record's number)."""
    tools: list[dict[str, Any]] | None = None
    """What the assistant may call, as OpenAI describes functions."""


@dataclass(frozen=True)
class Format:
    """Which fields hold what."""

    kind: str
    """messages, alpaca or pairs."""
    fields: Mapping[str, str]
    """Our name for a part → the name of the field that holds it."""
    said: str
    """What was taken for what, for people."""


@dataclass
class Conversations:
    """All conversations of some files, and an account of them."""

    conversations: list[Conversation] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    """File → what was taken for what."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Conversations left out under skip_bad, by reason."""
    trailing: int = 0
    """Turns after the assistant's last, of which nothing is learned: left out."""


class Record(Protocol):
    """What is needed of a record, wherever it was read."""

    @property
    def values(self) -> dict[str, Any]:
        """Its fields by name."""

    @property
    def where(self) -> str:
        """FILE:LINE, for messages."""


@dataclass(frozen=True)
class _Asked:
    """A record to which an empty answer was added."""

    values: dict[str, Any]
    where: str


class Unfit(Exception):
    """A conversation that nothing can be learned from; `reason` is for counting."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason, self.what = reason, what


def read_conversations(paths: Sequence[str | Path], *, skip_bad: bool = False, reporter: Reporter = SILENT) -> Conversations:
    """The conversations of some files (.jsonl, .json, .csv, .tsv, .parquet, each also .gz or .zst), in order. Says which format it found.

    Raises `DataError` with file:line for a conversation that can't be learned from; `skip_bad` counts those, by reason.
    """
    found = Conversations()
    ledger = Ledger(reporter, skip_bad=skip_bad)
    reading = Reading(CorpusConfig(skip_bad=skip_bad), ledger, lambda _: None)
    for source in find_sources(paths).files:
        form: Format | None = None
        for row in read_rows(source, reading):
            if form is None:
                form = look(row)
                found.formats[str(source.path)] = form.said
                reporter.note(f"{source.path}: {form.said}")
            if any(row.values.get(name) is False for name in _GOOD):
                found.dropped["marked as a bad answer"] += 1
                continue
            try:
                one, trailing = conversation(row, form)
            except Unfit as error:
                if not skip_bad:
                    raise DataError(error.what, where=row.where, fix=_FIX) from None
                found.dropped[error.reason] += 1
                if found.dropped[error.reason] <= SHOWN:
                    reporter.warn(f"{row.where}: {error.what}; left out")
                continue
            found.conversations.append(one)
            found.trailing += trailing
    found.dropped.update(ledger.drops)
    _account(found, paths, reporter)
    return found


def _account(found: Conversations, paths: Sequence[str | Path], reporter: Reporter) -> None:
    if found.dropped:
        reporter.warn(f"{found.dropped.total():,} left out: " + ", ".join(f"{why} {n:,}" for why, n in sorted(found.dropped.items())))
    if found.trailing:
        reporter.note(f"{plural(found.trailing, 'turn')} after the assistant's last word {verb(found.trailing, 'are')} left out: "
                      f"nothing would be learned")
    if not found.conversations:
        raise DataError("there is no conversation in these files", where=", ".join(map(str, paths)))


# ── which format ───────────────────────────────────────────────────────────────────────────────────────────────


def look(row: Record) -> Format:
    """The format of a file, from its first record. Raises `DataError`, with the fields that there are, for one that isn't known."""
    values = row.values
    lower = {name.lower(): name for name in reversed(values)}
    taken: dict[str, str] = {part: lower[part] for part in ("system", "tools", "history") if part in lower}
    taken |= {} if "system" in taken or "system_prompt" not in lower else {"system": lower["system_prompt"]}
    if {"chosen", "rejected"} <= lower.keys() or {"chosen_messages", "rejected_messages"} <= lower.keys():
        raise DataError("this record holds preferences, a chosen and a rejected answer; chat learns from one answer", where=row.where)
    turns = next((lower[name] for name in _LISTS if name in lower and _turns(values[lower[name]]) is not None), None)
    if turns is not None:
        first: dict[str, Any] = next(iter(_turns(values[turns]) or []), {})
        style = "ShareGPT (from, value)" if isinstance(first, dict) and "from" in first else "messages (role, content)"
        taken = {name: column for name, column in taken.items() if name != "history"}
        return _format("messages", {"messages": turns, **taken}, values, f"{style} in the field {turns!r}")
    if {"instruction", "output"} <= lower.keys():
        parts: dict[str, str] = {part: lower[part] for part in ("instruction", "input", "output") if part in lower}
        return _format("alpaca", {**parts, **taken}, values, "Alpaca (instruction, input, output)")
    prompt = next((lower[name] for name in _PROMPTS if name in lower), None)
    answer = next((lower[name] for name in _ANSWERS if name in lower and lower[name] != prompt), None)
    if prompt is not None and answer is not None:
        return _format("pairs", {"prompt": prompt, "response": answer, **taken}, values, f"pairs: {prompt!r} asks, {answer!r} answers")
    fields = ", ".join(list(values)[:20]) or "none"
    known = "Known are messages (role, content), ShareGPT (from, value), Alpaca (instruction, output), and prompt with response"
    raise DataError(f"no conversation is to be found in this record; fields here: {fields}", where=row.where, fix=known)


def _format(kind: str, fields: dict[str, str], values: Mapping[str, Any], said: str) -> Format:
    extra = [f"{part} from {name!r}" for part, name in fields.items() if part in ("system", "tools", "history")]
    unused = [name for name in values if name not in fields.values()]
    said += f"; {', '.join(extra)}" if extra else ""
    said += f"; not used: {', '.join(unused[:8])}{' …' if len(unused) > 8 else ''}" if unused else ""
    return Format(kind, fields, said)


def _turns(value: Any) -> list[Any] | None:
    """A list of turns, also written as JSON in a table's cell; None for anything else."""
    value = _parsed(value)
    return value if isinstance(value, list) and all(isinstance(item, dict) for item in value) else None


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# ── one record ─────────────────────────────────────────────────────────────────────────────────────────────────


def conversation(row: Record, form: Format) -> tuple[Conversation, int]:
    """The conversation in a record, and how many turns after the assistant's last one were left out. Raises `Unfit`."""
    values = row.values
    part = {name: values.get(column) for name, column in form.fields.items()}
    messages = [_message(turn, number) for number, turn in enumerate(_raw(form, part), 1)]
    system = _text(part.get("system"), "the system's words") if part.get("system") is not None else ""
    if system.strip() and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    # An empty system text is how many files say that there is none.
    messages = [turn for turn in messages if turn["role"] != "system" or turn["content"].strip()]
    last = max((number for number, turn in enumerate(messages, 1) if turn["role"] == "assistant"), default=0)
    check(messages)
    return Conversation(messages[:last], row.where, _tools(part.get("tools"))), len(messages) - last


class Question(NamedTuple):
    """What is to be answered."""

    messages: list[Message]
    """The turns up to the last that is not the assistant's."""
    tools: list[dict[str, Any]] | None
    rest: dict[str, Any]
    """The fields of its record that are no part of the conversation."""


def question(row: Record) -> Question:
    """What a record asks (of any format, its answer there or not). Raises `Unfit` where nobody asks, `DataError` for a record of no known
    format."""
    given = row.values
    try:
        form = look(row)
    except DataError as error:
        row = _Asked({**row.values, "output": "", "response": ""}, row.where)
        try:
            form = look(row)
        except DataError:
            raise error from None
    part = {name: row.values.get(column) for name, column in form.fields.items()}
    messages = [_message(turn, number) for number, turn in enumerate(_raw(form, part), 1)]
    system = part.get("system")
    if system is not None and str(system).strip() and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": _text(system, "the system's words")})
    messages = [turn for turn in messages if turn["role"] != "system" or turn["content"].strip()]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    spoken = [turn for turn in messages if turn["role"] != "system"]
    if not spoken or spoken[0]["role"] != "user":
        raise Unfit("no_question", "nobody asks anything here: the first to speak must be the user")
    if not spoken[-1]["content"].strip():
        raise Unfit("empty_turn", "the last turn is empty")
    used = form.fields.values()
    return Question(messages, _tools(part.get("tools")), {name: value for name, value in given.items() if name not in used})


def check(messages: Sequence[Message]) -> None:
    """Raises `Unfit` for turns that nothing can be learned from, with the turn's number."""
    spoken = [turn for turn in messages if turn["role"] != "system"]
    if not spoken:
        raise Unfit("no_turns", "this conversation has no turns")
    if spoken[0]["role"] != "user":
        raise Unfit(f"{spoken[0]['role']}_first", f"this conversation starts with the {spoken[0]['role']}: nobody has asked anything")
    if not any(turn["role"] == "assistant" for turn in spoken):
        raise Unfit("no_assistant", "the assistant says nothing in this conversation, so there is nothing to learn")
    for number, turn in enumerate(messages, 1):
        if turn["role"] in ("user", "assistant") and not turn["content"].strip() and not turn.get("tool_calls"):
            raise Unfit("empty_turn", f"turn {number} ({turn['role']}) is empty")
        if UNDECODABLE in turn["content"]:
            raise Unfit("undecodable", f"turn {number} holds bytes that are no text in the file's encoding")
    if all(turn.get("weight") == 0 for turn in spoken if turn["role"] == "assistant"):
        raise Unfit("no_weight", "all answers of this conversation have the weight 0, so there is nothing to learn")


def _raw(form: Format, part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The turns as they stand, of whatever format."""
    if form.kind == "messages":
        turns = _turns(part["messages"])
        if turns is None:
            raise Unfit("no_turns", f"the field {form.fields['messages']!r} holds no list of turns")
        yield from turns
        return
    asks, answers = ("instruction", "output") if form.kind == "alpaca" else ("prompt", "response")
    for earlier in _parsed(part.get("history")) or []:
        if not isinstance(earlier, list | tuple) or len(earlier) != 2:
            raise Unfit("bad_history", "history is a list of pairs: what was asked, and the answer")
        yield {"role": "user", "content": earlier[0]}
        yield {"role": "assistant", "content": earlier[1]}
    said, answer, more = (_content(part.get(name), form.fields.get(name, "")) for name in (asks, answers, "input"))
    if more and (isinstance(more, list) or more.strip()):
        said = [*_listed(said), "\n", *_listed(more)]
    yield from _spoken(part[asks]) or [{"role": "user", "content": said}]
    yield from _spoken(part[answers]) or [{"role": "assistant", "content": answer}]


def _spoken(value: Any) -> list[Any] | None:
    """A list of turns that say who speaks; None for anything else, such as an answer in JSON."""
    turns = _turns(value)
    return turns if turns and all({"role", "from"} & turn.keys() for turn in turns) else None


def _content(value: Any, column: str) -> str | list[Any] | None:
    """What a column holds for a turn: a text, or parts as a turn's content may have them. Raises `Unfit` for another list or an object."""
    if value is None or (isinstance(value, list) and all(isinstance(part, dict) for part in value)):
        return value
    return _text(value, f"the field {column!r}")


def _listed(content: str | list[Any] | None) -> list[Any]:
    return content if isinstance(content, list) else [content or ""]


def _message(turn: Mapping[str, Any], number: int) -> Message:
    """A turn in OpenAI's layout. Raises `Unfit`."""
    named = turn.get("role", turn.get("from"))
    role = _SPEAKERS.get(str(named).strip().lower())
    if role is None:
        raise Unfit("unknown_role", f"turn {number} is of {named!r}; known roles: {', '.join(sorted(_SPEAKERS))}")
    content = next((turn[name] for name in ("content", "value", "text") if name in turn), None)
    known = ("role", "from", "content", "value", "text", "weight", "loss_weight", "function_call", "tool_calls")
    rest = {name: value for name, value in turn.items() if name not in known and value is not None}
    found: Message = {"role": role, "content": "", **rest}
    calls = [_call(call, number) for call in _parsed(turn.get("tool_calls")) or []]
    if turn.get("function_call"):
        calls.append(_call(turn["function_call"], number))
    if named == "function_call":
        said = _parsed(content)
        calls += [_call(call, number) for call in (said if isinstance(said, list) else [said])]
    elif isinstance(content, list):
        calls += _parts(content, found, number)
    elif content is not None:
        found["content"] = _text(content, f"turn {number}")
    if calls:
        found["tool_calls"] = calls
    weight = turn.get("weight", turn.get("loss_weight"))
    if role == "assistant" and weight is not None:
        if weight not in (0, 1):
            raise Unfit("bad_weight", f"turn {number} has the weight {weight!r}; a weight is 0 (read, not learned) or 1")
        if weight == 0:
            found["weight"] = 0
    return found


def _parts(content: list[Any], found: Message, number: int) -> list[dict[str, Any]]:
    """Content in parts: texts are joined, reasoning and tool calls kept as such. Raises `Unfit` for pictures and the like."""
    texts, thoughts, calls = [], [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        value = part.get("text", part.get("value")) if isinstance(part, dict) else part
        if kind == "text":
            texts.append(_text(value, f"turn {number}"))
        elif kind in ("reasoning", "thinking"):
            thoughts.append(_text(part.get("thinking") if value is None else value, f"turn {number}"))
        elif kind in ("tool_call", "function_call"):
            calls.append(_call(_parsed(value), number))
        elif kind == "tools":
            continue
        else:
            raise Unfit("not_text", f"turn {number} holds a part of type {kind!r}; wordmill reads text")
    found["content"] = "".join(texts)
    if thoughts:
        found["reasoning_content"] = "".join(thoughts)
    return calls


def _call(call: Any, number: int) -> dict[str, Any]:
    """A call of a tool as OpenAI writes it, with its arguments as an object: templates turn them into JSON themselves."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unfit("bad_tool_call", f"turn {number} calls a tool without naming it")
    arguments = _parsed(function.get("arguments", {}))
    kept = {name: value for name, value in call.items() if name in ("id", "index") and value is not None}
    return {**kept, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: Any) -> list[dict[str, Any]] | None:
    """Descriptions of tools: a list, or JSON, of OpenAI's {"type": "function", "function": …} or of bare functions. Raises `Unfit`."""
    value = _parsed(value)
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Unfit("bad_tools", "the tools are no list of descriptions")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise Unfit("not_text", f"{what} holds {'nothing' if value is None else type(value).__name__}, not text")
    return str(value)
