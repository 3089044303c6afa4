"""From tokens back to text, piece by piece: no piece ever splits a character or shows the start of a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character: what is still no character after so many tokens is not going to be one."""
CONTEXT = 6
"""Tokens of the prompt that are decoded with the first new ones: some tokenizers write a space by what stands before."""


class Decodes(Protocol):
    """What we need of a tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name → id of the tokens that are not text."""

    @property
    def byte_level(self) -> bool:
        """Whether every token is a string of bytes."""

    def token_bytes(self, index: int) -> bytes:
        """The bytes of a token, where `byte_level`."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of some tokens."""


class TextStream:
    """The text of a growing list of tokens.

    `add` returns the text that is certain after one more token ("" while a character or a possible stop text is
    incomplete), `end` what is left. `stopped` is the stop text that ended it, and `text` all that was returned so far.
    """

    def __init__(self, tokenizer: Decodes, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.stopped: str | None = None
        self.text = ""
        # Tokens that are bytes are put together exactly; of others we only see what a whole list of them decodes to.
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace") if tokenizer.byte_level else None
        self._special = frozenset(tokenizer.special_tokens.values())
        self._known = list(prompt[-CONTEXT:])  # tokens whose text is settled
        self._fresh: list[int] = []  # tokens whose text ends inside a character
        self._shown = 0  # characters of the fresh tokens' text that went on already
        self._held = ""  # text that may be the start of a stop text

    def add(self, token: int) -> str:
        """The text that became certain with `token`."""
        assert self.stopped is None, "text goes on after a stop"
        if self._bytes is not None:
            return self._emit("" if token in self._special else self._bytes.decode(self.tokenizer.token_bytes(token)))
        self._fresh.append(token)
        return self._emit(self._new_text(final=False))

    def end(self) -> str:
        """What was held back: no more tokens come."""
        if self._bytes is not None:
            new = self._bytes.decode(b"", final=True)
        else:
            new = self._new_text(final=True) if self._fresh else ""
        rest = self._emit(new)
        if self.stopped is None:
            held, self._held = self._held, ""
            self.text += held
            rest += held
        return rest

    def _new_text(self, *, final: bool) -> str:
        before = self.tokenizer.decode(self._known)
        after = self.tokenizer.decode(self._known + self._fresh)[len(before) :]
        whole = final or not after.endswith(REPLACEMENT) or len(self._fresh) >= LONGEST_CHARACTER
        sure = after if whole else after.rstrip(REPLACEMENT)
        new = sure[self._shown :]
        if whole:
            self._known, self._fresh, self._shown = (self._known + self._fresh)[-CONTEXT:], [], 0
        else:
            self._shown = len(sure)
        return new

    def _emit(self, new: str) -> str:
        pending = self._held + new
        found = [(place, text) for text in self.stop if (place := pending.find(text)) >= 0]
        if found:
            place, self.stopped = min(found)
            out, self._held = pending[:place], ""
        else:
            keep = max((_overlap(pending, text) for text in self.stop), default=0)
            out, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += out
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
