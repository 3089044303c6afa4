"""From a conversation to token ids: the one way, for training, for `wordmill chat` and for a server.

    messages ─ guard people's words ─ the template writes one string ─ its special tokens get names that no text holds ─ ids, and where the
    assistant speaks

What a person typed stays text, though it look like a special token: before a template sees it, such text is broken up by a mark, and only
what the template itself wrote is then taken for special tokens. Ids are those of `transformers`' `apply_chat_template`, but for one case,
where training and use would differ there: a token never reaches from a prompt into the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from wordmill.core.errors import DataError, ModelError
from wordmill.core.files import read_json, write_json
from wordmill.tokenizer.config import TURN_END, TURN_START
from wordmill.tokenizer.template import CHATML, CLOSE, OPEN, PLAIN, Template
from wordmill.tokenizer.tokenizer import Tokenizer, _valid

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None

MARK = "\ufdd1"
"""A noncharacter that breaks up what looks like a special token; it is gone before anything is encoded."""
_OURS = dict.fromkeys(range(0xFDD0, 0xFDD4), "\ufffd")
_SPACE = re.compile(r"\s*")
_KNOWN_ROLES = frozenset(("system", "user", "assistant", "tool"))


class RewritingTemplate(ModelError):
    """A template that writes earlier turns in another way once others follow: no single row of tokens has all answers as at use."""


class Answer(NamedTuple):
    """What the assistant says in one turn: ids `start`…`stop`, its end token last."""

    start: int
    stop: int
    turn: int
    """Which of the messages it is, from 0."""
    bytes: int
    """UTF-8 bytes of its words, special tokens not counted."""


@dataclass(frozen=True)
class Turns:
    """A conversation as the model reads it."""

    ids: list[int]
    answers: list[Answer]
    """What is to be learned, in order; empty for a prompt."""


class _Written(NamedTuple):
    """What the template wrote, special tokens under their hidden names; and the stretches that it marks as the assistant's."""

    text: str
    blocks: list[tuple[int, int]]


class Chat:
    """A tokenizer with the template that its model was trained with, or with the default one."""

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        """`template` replaces the tokenizer's own. Raises `ModelError` where there is none, and no end token for the default one."""
        own = template or tokenizer.chat_template
        self.tokenizer = tokenizer
        self.trained = own is not None
        """Whether the template came with the model: otherwise the model was not trained to chat."""
        self.backend, self.names = tokenizer.written_special
        self.template = Template(own or default_template(tokenizer), _named_tokens(tokenizer))
        names = sorted(self.names, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, names)) or r"(?!)"
        self._special = re.compile(alternatives)
        self._typed = re.compile(f"(?=(?:{alternatives}))(.)", re.DOTALL)
        self._hidden = re.compile("|".join(re.escape(self.names[name]) for name in names) or r"(?!)")
        self._begins = frozenset(name[:n] for name in names for n in range(1, len(name)))
        self._ends = frozenset(name[-n:] for name in names for n in range(1, len(name)))
        self._longest = max(map(len, names), default=0)

    # ── the one way ────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, messages: Messages, tools: Tools = None, *, prompt: bool = False, only_last: bool = False) -> Turns:
        """The conversation's ids, and which of them the assistant says.

        `prompt`: for use; everything up to where the assistant speaks next. Otherwise for training: `answers` are the stretches to be
        learned, those of turns with the weight 0 left out; `only_last`: the last one alone.
        For every answer, the ids before it are exactly those of the prompt that it answers.
        Raises `DataError` where the template refuses the conversation, `RewritingTemplate` where it has answers look different once other
        turns follow (then `only_last` serves, one example an answer), `ModelError` where it writes nothing at an answer's end.
        """
        whole = self._write(messages, tools, prompt=prompt)
        speaks = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [] if prompt else [i for i in speaks if messages[i].get("weight") != 0][-1 if only_last else 0 :]
        prompts = {i: self._prompt_of(i, messages, tools, whole, needed=i in wanted) for i in speaks}
        spans = [self._span(i, messages, tools, whole, prompts[i] or 0, speaks) for i in wanted]
        cuts = {at for at in prompts.values() if at} | {start for start, _ in spans} | {stop for _, stop in spans}
        ids, places = self._tokens(whole.text, sorted(cuts - {len(whole.text)}))
        places[len(whole.text)] = len(ids)
        answers = []
        for turn, (start, stop) in zip(wanted, spans, strict=True):
            words = self._hidden.sub("", whole.text[start:stop])
            answers.append(Answer(places[start], places[stop], turn, len(words.encode())))
        return Turns(ids, answers)

    def render(self, messages: Messages, tools: Tools = None, *, prompt: bool = False) -> str:
        """What the template writes, for people to look at."""
        text = self._write(messages, tools, prompt=prompt).text
        back = {hidden: name for name, hidden in self.names.items()}
        return self._hidden.sub(lambda found: back[found[0]], text)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        turns = self.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], only_last=True)
        return frozenset(turns.ids[answer.stop - 1] for answer in turns.answers)

    @cached_property
    def lead(self) -> str:
        """What the template puts between asking for an answer and its words: a space in some, an empty thought in others."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        whole, asked = self._write(messages, None, prompt=False).text, self._write(messages[:1], None, prompt=True).text
        return self._hidden.sub("", whole[len(asked) :]).partition("b")[0]

    # ── what the template writes ───────────────────────────────────────────────────────────────────────────────

    def _write(self, messages: Messages, tools: Tools, *, prompt: bool) -> _Written:
        kept = ("weight",)
        guarded = [{key: self._guard(value, key) for key, value in message.items() if key not in kept} for message in messages]
        text = self.template.render(guarded, None if tools is None else self._guard(list(tools)), prompt=prompt)
        text = self._special.sub(lambda found: self.names[found[0]], text).replace(MARK, "")
        parts = re.split(f"([{OPEN}{CLOSE}])", text)
        clean, blocks, opened = "", [], 0
        for part in parts:
            if part == OPEN:
                opened = len(clean)
            elif part == CLOSE:
                blocks.append((opened, len(clean)))
            else:
                clean += part
        return _Written(clean, blocks)

    def _guard(self, value: Any, key: str = "") -> Any:
        """A value in which no text is, or becomes together with what stands around it, a special token."""
        if isinstance(value, str):
            return value if key == "role" and value in _KNOWN_ROLES else self._guarded(value)
        if isinstance(value, Mapping):
            return {self._guard(name): self._guard(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._guard(inner) for inner in value]
        return value

    def _guarded(self, text: str) -> str:
        text = _valid(text)
        if not text.isascii():
            text = text.translate(_OURS)
        text = self._typed.sub(rf"\1{MARK}", text)
        reach = range(1, min(self._longest, len(text) + 1))
        # Half a special token at either end could be made whole by what the template writes next to it.
        if any(text[:n] in self._ends for n in reach):
            text = text[0] + MARK + text[1:]
        if any(text[-n:] in self._begins for n in reach):
            text += MARK
        return text

    # ── where the assistant speaks ─────────────────────────────────────────────────────────────────────────────

    def _prompt_of(self, turn: int, messages: Messages, tools: Tools, whole: _Written, *, needed: bool) -> int | None:
        """Where the answer of a turn starts: the length of its prompt, which the whole must begin with."""
        try:
            text = self._write(messages[:turn], tools, prompt=True).text
        except DataError:
            if needed:
                raise
            return None
        if whole.text.startswith(text):
            return len(text)
        if not needed:
            return None
        alone = self._write(messages[: turn + 1], tools, prompt=False).text
        if alone.startswith(text):
            raise _rewrites(turn)
        raise ModelError(
            f"the chat template asks for an answer in one way and writes it in another (turn {turn + 1}), so what is learned would not be "
            "what is asked for",
            fix="Give another template",
        )

    def _span(self, turn: int, messages: Messages, tools: Tools, whole: _Written, start: int, speaks: list[int]) -> tuple[int, int]:
        """From the first of the assistant's words in a turn to the end of its end token, in the whole's text."""
        if len(whole.blocks) == len(speaks):
            start, stop = whole.blocks[speaks.index(turn)]
            found = self._end(whole.text, start, stop)
            if found is None:  # some templates mark the words, and write the end token behind them
                after = self._hidden.match(whole.text, _SPACE.match(whole.text, stop).end())  # type: ignore[union-attr]
                found = None if after is None else after.end()
            if found is None:
                raise _endless()
            return start, found
        alone = whole.text if turn == len(messages) - 1 else self._write(messages[: turn + 1], tools, prompt=False).text
        found = self._end(alone, start, len(alone))
        if found is None:
            raise _endless()
        if whole.text[start:found] != alone[start:found]:
            raise _rewrites(turn)
        return start, found

    def _end(self, text: str, start: int, stop: int) -> int | None:
        """The end of the first special token after the last word between `start` and `stop`; None where none is."""
        found, last = None, start
        for match in self._hidden.finditer(text, start, stop):
            if text[last : match.start()].strip() or found is None:
                found = match.end()
            last = match.end()
        return None if found is None or text[last:stop].strip() else found

    # ── ids ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tokens(self, text: str, cuts: Sequence[int]) -> tuple[list[int], dict[int, int]]:
        """Ids of what a template wrote, and for each of `cuts` (places in the text) the number of ids before it.

        What stands before a cut has the ids that it has when nothing follows: what is asked at use is what was asked in training.
        """
        encoding = self.backend.encode(text, add_special_tokens=False)
        ids, offsets, places = encoding.ids, encoding.offsets, {}
        specials = [match.start() for match in self._hidden.finditer(text)]
        number = dict(_tokens_at(specials, offsets))
        for cut in cuts:
            # Text between special tokens is encoded on its own, so only the stretch since the last one needs a look.
            before = max((at for at in specials if at < cut), default=0)
            first = number.get(before, 0)
            alone = self.backend.encode(text[before:cut], add_special_tokens=False).ids
            places[cut] = first + len(alone)
            if ids[first : places[cut]] != alone:
                rest, later = self._tokens(text[cut:], [c - cut for c in cuts if c > cut])
                head = [*ids[:first], *alone]
                return head + rest, places | {cut + at: len(head) + place for at, place in later.items()}
        return ids, places


def _tokens_at(starts: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """For each place in a text, in order, the number of the token that it lies in."""
    index = 0
    for at in starts:
        while index < len(offsets) and offsets[index][1] <= at:
            index += 1
        yield at, index


def _rewrites(turn: int) -> RewritingTemplate:
    return RewritingTemplate(
        f"the chat template writes turn {turn + 1} in another way once other turns follow, so the answers of a conversation can't all be "
        "learned from one row of tokens",
        fix="Learn them one at a time: answers=each",
    )


def _endless() -> ModelError:
    return ModelError(
        "the chat template writes no special token at an answer's end, so a model would never learn to stop",
        fix="Give a template that ends answers with an end token",
    )


def default_template(tokenizer: Tokenizer) -> str:
    """Our own template for a tokenizer: ChatML where it has the marks of turns. Raises `ModelError` where nothing could end an answer."""
    if {TURN_START, TURN_END} <= set(tokenizer.special_tokens):
        return CHATML
    if tokenizer.eos_id is None:
        raise ModelError("this tokenizer has no token that could end an answer", fix="Name one as eos_token in tokenizer_config.json")
    return PLAIN


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens by the names that templates use."""
    named = {key: value for key, value in tokenizer.settings.items() if key.endswith("_token")}
    found = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    found = {key: value for key, value in found.items() if isinstance(value, str)}
    if not found:
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id, "unk_token": tokenizer.unk_id}
        by_id = {index: name for name, index in tokenizer.special_tokens.items()}
        found = {key: by_id[index] for key, index in ids.items() if index in by_id}
    return found


def save_chat(chat: Chat, folder: Any) -> None:
    """Store the template with the model in a folder that its tokenizer and weights were written to: chat_template.jinja, and among the
    end tokens of generation_config.json the one that ends an answer. Then every tool that opens the folder talks as this one does."""
    tokenizer = chat.tokenizer
    tokenizer.templates["default"] = chat.template.source
    tokenizer.save(folder)
    path = folder / "generation_config.json"
    settings = read_json(path) if path.exists() else {}
    named = settings.get("eos_token_id", [])
    ends = [named] if isinstance(named, int) else list(named or [])
    write_json(path, {**settings, "eos_token_id": [*ends, *sorted(chat.end_ids - set(ends))]})
