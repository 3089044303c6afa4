"""Cleaning a batch, and the filters: each document stays, or leaves with a reason."""

from __future__ import annotations

from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.document import CleanBatch, RawBatch
from wordmill.corpus.language import guess_languages
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.text import clean, is_binary, is_clean


def verdict(text: str, config: CorpusConfig) -> str | None:
    """The reason to drop a cleaned text, or None to keep it."""
    if not text or text.isspace():
        return "empty"
    if len(text) < config.min_characters or (config.min_characters > 1 and len(text.strip()) < config.min_characters):
        return "too_short"
    return None


def clean_and_filter(batch: RawBatch, config: CorpusConfig, ledger: Ledger) -> CleanBatch:
    """Clean each text (see text.py), and drop what is undecodable, binary, empty or too short."""
    keep: list[int] = []
    texts: list[str] = []
    encoded: list[bytes] = []
    all_encoded = [_encode(text) for text in batch.texts]
    # One look at all texts is much faster than one at each, when they are short.
    all_clean = is_clean(b"\n".join(filter(None, all_encoded)))
    for row, (text, data) in enumerate(zip(batch.texts, all_encoded, strict=True)):
        reason = None
        if data is None:
            reason = "undecodable"
        elif not all_clean and not is_clean(data):
            reason = "binary" if is_binary(text) else None
            text = clean(text)
            data = text.encode()
        reason = reason or verdict(text, config)
        if reason or data is None:
            ledger.drop(reason or "undecodable", batch.sources[row], metadata=batch.metadata[row], text=text)
            continue
        keep.append(row)
        texts.append(text)
        encoded.append(data)
    sources = [batch.sources[row] for row in keep]
    languages = guess_languages(texts, sources)
    return CleanBatch(encoded, [len(text) for text in texts], sources, languages, [batch.metadata[row] for row in keep])


def _encode(text: str) -> bytes | None:
    """UTF-8, or None for text with the marks of undecodable bytes (or lone surrogates of JSON's \\u escapes)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
