"""How fast each stage is: seconds spent in it, documents and bytes that went through."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from wordmill.core.progress import human_bytes, human_count

T = TypeVar("T")


@dataclass
class StageTime:
    """What one stage did so far; `bytes` are UTF-8 bytes of text."""

    seconds: float = 0.0
    documents: int = 0
    bytes: int = 0

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count the time spent inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def count(self, documents: int, size: int) -> None:
        """Count what went through."""
        self.documents += documents
        self.bytes += size

    def around(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, counting the time that making each takes."""
        iterator = iter(items)
        while True:
            with self.timing():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def plain(self) -> dict[str, Any]:
        """For corpus.json."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": round(self.seconds, 3),
            "documents": self.documents,
            "bytes": self.bytes,
            "documents_per_second": round(self.documents / seconds),
            "megabytes_per_second": round(self.bytes / seconds / 1e6, 1),
        }

    def line(self) -> str:
        """`182 MB/s, 11.4k documents/s`."""
        seconds = max(self.seconds, 1e-9)
        return f"{human_bytes(self.bytes / seconds)}/s, {human_count(self.documents / seconds)} documents/s"


class Meter:
    """The stages in the order of their first use."""

    def __init__(self) -> None:
        self.stages: dict[str, StageTime] = {}

    def __getitem__(self, name: str) -> StageTime:
        return self.stages.setdefault(name, StageTime())

    def plain(self) -> dict[str, Any]:
        """For corpus.json."""
        return {name: stage.plain() for name, stage in self.stages.items()}
