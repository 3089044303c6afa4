from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wordmill.corpus import Corpus, CorpusConfig, build_corpus

SPLITS = ("train", "validation")


def all_texts(corpus: Corpus) -> list[str]:
    """The texts of both splits, sorted: what the corpus holds, whatever the split."""
    return sorted(text for split in SPLITS for text in corpus.texts(split))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Corpus]:
    """Write files (name → bytes or text) into a folder of their own and build a corpus from it."""

    def call(
        files: dict[str, bytes | str], *, out: str = "corpus", validation: Any = (), rejects: Path | None = None, **settings: Any
    ) -> Corpus:
        source = tmp_path / f"{out}-source"
        for name, content in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return build_corpus([source], tmp_path / out, CorpusConfig.of(settings), validation=validation, rejects=rejects)

    return call


def sentences(count: int, start: int = 0) -> list[str]:
    """Different short texts."""
    return [f"Sentence {number} says that {number} times {number} is {number * number}." for number in range(start, start + count)]
