"""From files to a corpus folder: read → clean → filter → dedupe → split → write; every drop has a reason.

    sources ─► read ─────────► clean ──────► dedupe ─► split ──────────► write
    files,     decode, cut     control       digests   train,            Parquet shards,
    folders    into documents  chars, NFC    of text   validation        corpus.json

The names below are imported when they are first used: `import wordmill.corpus` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PLACES = {
    "Corpus": "folder",
    "CorpusConfig": "config",
    "CorpusStats": "stats",
    "Document": "document",
    "build_corpus": "build",
    "corpus_stats": "stats",
}

if TYPE_CHECKING:
    from wordmill.corpus.build import build_corpus as build_corpus
    from wordmill.corpus.config import CorpusConfig as CorpusConfig
    from wordmill.corpus.document import Document as Document
    from wordmill.corpus.folder import Corpus as Corpus
    from wordmill.corpus.stats import CorpusStats as CorpusStats
    from wordmill.corpus.stats import corpus_stats as corpus_stats

__all__ = ["Corpus", "CorpusConfig", "CorpusStats", "Document", "build_corpus", "corpus_stats"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'wordmill.corpus' has no attribute {name!r}")
    value = getattr(import_module(f"wordmill.corpus.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
