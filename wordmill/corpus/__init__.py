"""From files to a corpus folder: read → clean → filter → dedupe → split → write; every drop has a reason.

    sources ─► read ─────────► clean ──────► dedupe ─► split ──────────► write
    files,     decode, cut     control       digests   train,            Parquet shards,
    folders    into documents  chars, NFC    of text   validation        corpus.json

The names below are imported when they are first used: `import wordmill.corpus` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wordmill.core.lazy import attributes

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


__getattr__ = attributes(__name__, _PLACES)
