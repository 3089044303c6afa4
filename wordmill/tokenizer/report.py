"""How well a tokenizer fits a text: counts on documents that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from wordmill.core.progress import human_bytes
from wordmill.tokenizer.tokenizer import Tokenizer

SAMPLE_BYTES = 20_000_000
"""Text that a report reads at most."""
SHOWN = 20
UNSPACED = ("zh", "ja", "yue", "wuu", "th", "lo", "km", "my", "bo")
"""Languages written without spaces between words, for which tokens are counted per character."""


class DocumentLike(Protocol):
    """What is needed of a document (`wordmill.corpus.Document`)."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def language(self) -> str | None:
        """Its language's code, if known."""


@dataclass
class _Counts:
    documents: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    exact: int = 0

    def plain(self, language: str) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": _ratio(self.bytes, self.tokens),
            "tokens_per_character": _ratio(self.tokens, self.characters),
            "tokens_per_word": None if language in UNSPACED else _ratio(self.tokens, self.words),
            "unknown": _ratio(self.unknown, self.tokens),
            "round_trip": _ratio(self.exact, self.documents),
        }


@dataclass
class _Tally:
    all: _Counts = field(default_factory=_Counts)
    by_language: dict[str, _Counts] = field(default_factory=dict)
    tokens: Counter[int] = field(default_factory=Counter)


def report(tokenizer: Tokenizer, documents: Iterable[DocumentLike], *, max_bytes: int = SAMPLE_BYTES) -> dict[str, Any]:
    """Counts, JSON-ready, over the first `max_bytes` (UTF-8) of the documents.

    `all` and, under `languages`, each language ("unknown" where a document names none): documents, bytes, tokens, bytes_per_token,
    tokens_per_character, tokens_per_word (fertility; a word is what stands between white space; None for languages written without it),
    unknown (share of tokens that are the unknown token), round_trip (share of documents that decode to themselves). Further: `used`, the
    share of the vocabulary that occurs, `frequent` (token, count) and `longest` (token, bytes; only those with letters). None where there
    is nothing to divide by.
    """
    tally = _Tally()
    for batch in _batches(documents, max_bytes):
        for document, ids in zip(batch, tokenizer.encode_arrays([document.text for document in batch])):
            _count(tally, tokenizer, document, ids)
    languages = sorted(tally.by_language.items(), key=lambda item: -item[1].bytes)
    return {
        "all": tally.all.plain("") if len(languages) != 1 else tally.all.plain(languages[0][0]),
        "languages": {name: counts.plain(name) for name, counts in languages},
        "used": _ratio(len(tally.tokens), tokenizer.vocab_size - len(tokenizer.special_tokens)),
        "frequent": [[tokenizer.token_text(index), count] for index, count in tally.tokens.most_common(SHOWN)],
        "longest": _longest(tokenizer),
    }


def report_text(values: Mapping[str, Any]) -> str:
    """A report as people read it: a table of languages, then tokens."""
    rows = [("language", "documents", "text", "bytes/token", "tokens/word", "tokens/character", "unknown", "exact")]
    parts = dict(values["languages"])
    if len(parts) != 1:
        parts["all"] = values["all"]
    for name, one in parts.items():
        rows.append((
            name, f"{one['documents']:,}", human_bytes(one["bytes"]), _shown(one["bytes_per_token"]), _shown(one["tokens_per_word"]),
            _shown(one["tokens_per_character"]), _percent(one["unknown"]), _percent(one["round_trip"]),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths)))
             for row in rows]  # fmt: skip
    frequent = " ".join(visible(token) for token, _ in values["frequent"])
    longest = " ".join(visible(token) for token, _ in values["longest"])
    return "\n".join([*table, f"vocabulary used here: {_percent(values['used'])}", f"most frequent: {frequent}", f"longest: {longest}"])


def _batches(documents: Iterable[DocumentLike], max_bytes: int) -> Iterator[list[DocumentLike]]:
    iterator, left = iter(documents), max_bytes
    while left > 0 and (batch := list(islice(iterator, 64))):
        left -= sum(len(document.text.encode("utf-8", "replace")) for document in batch)
        yield batch


def _count(tally: _Tally, tokenizer: Tokenizer, document: DocumentLike, ids: np.ndarray[Any, Any]) -> None:
    text = document.text
    exact = tokenizer.decode(ids.tolist()) == text
    unknown = 0 if tokenizer.unk_id is None else int(np.count_nonzero(ids == tokenizer.unk_id))
    for counts in (tally.all, tally.by_language.setdefault(document.language or "unknown", _Counts())):
        counts.documents += 1
        counts.bytes += len(text.encode("utf-8", "replace"))
        counts.characters += len(text)
        counts.words += len(text.split())
        counts.tokens += len(ids)
        counts.unknown += unknown
        counts.exact += exact
    found, times = np.unique(ids, return_counts=True)
    tally.tokens.update(dict(zip(found.tolist(), times.tolist())))


def _longest(tokenizer: Tokenizer) -> list[list[Any]]:
    special = set(tokenizer.special_tokens.values())
    ids = [index for index in range(tokenizer.vocab_size) if index not in special and tokenizer.has_id(index)]
    size = (lambda n: len(tokenizer.token_bytes(n))) if tokenizer.byte_level else (lambda n: len(tokenizer.token_text(n).encode()))
    sized = [(size(index), tokenizer.token_text(index)) for index in ids]
    # Runs of spaces and the like are no news.
    words = [pair for pair in sized if any(map(str.isalnum, pair[1]))]
    return [[text, size] for size, text in sorted(words, key=lambda pair: (-pair[0], pair[1]))[:SHOWN]]


def _ratio(a: float, b: float) -> float | None:
    return round(a / b, 4) if b else None


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"


def visible(token: str) -> str:
    """A token between brackets, with spaces as dots and what can't be printed escaped."""
    return "[" + "".join("·" if char == " " else char if char.isprintable() else repr(char)[1:-1] for char in token) + "]"
