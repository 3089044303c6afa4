"""One record type for the whole package, and the batches in which it travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """A text with its origin.

    `id` is the first half of the SHA-256 of the text (32 hex digits), so equal texts have equal ids; `source` names the file;
    `language` is what the script tells (see language.py), or None.
    """

    id: str
    text: str
    source: str
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class RawBatch:
    """Texts as they were read: three parallel lists. `metadata` holds JSON objects as text, "" for none."""

    texts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)


@dataclass
class CleanBatch:
    """Texts ready to be written: parallel lists. `encoded` is the text in UTF-8; `ids` are filled in by the deduplication."""

    encoded: list[bytes]
    characters: list[int]
    sources: list[str]
    languages: list[str | None]
    metadata: list[str]
    ids: list[str] = field(default_factory=list)

    def take(self, rows: Iterable[int]) -> CleanBatch:
        """The batch that has only these rows."""
        rows = list(rows)
        columns = (self.encoded, self.characters, self.sources, self.languages, self.metadata, self.ids)
        return CleanBatch(*([column[row] for row in rows] if column else [] for column in columns))  # type: ignore[attr-defined, arg-type]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(map(len, self.encoded))


BATCH_CHARACTERS, BATCH_DOCUMENTS = 2_000_000, 8192


def regroup(batches: Iterable[RawBatch]) -> Iterator[RawBatch]:
    """Merge small batches (a file each, in a folder of short files) until they are worth the overhead of a batch."""
    group, characters = RawBatch(), 0
    for batch in batches:
        group.texts += batch.texts
        group.sources += batch.sources
        group.metadata += batch.metadata
        characters += sum(map(len, batch.texts))
        if characters >= BATCH_CHARACTERS or len(group.texts) >= BATCH_DOCUMENTS:
            yield group
            group, characters = RawBatch(), 0
    if group.texts:
        yield group
