"""The settings of a corpus."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator

from wordmill.core.config import Config


class CorpusConfig(Config):
    """What becomes a document, which documents stay, and how they are split."""

    field: str | None = None
    """The field (JSON key, column name, or column number from 1) that holds the text; None looks for text, content, body and the like."""

    keep_fields: tuple[str, ...] = ()
    """Other fields to keep as each document's metadata."""

    encoding: str | None = None
    """The encoding of all sources (a Python codec name such as shift_jis); None detects UTF-8, UTF-16, GB18030 and Latin-1."""

    split_text: Literal["auto", "file", "line", "paragraph"] = "auto"
    """What a document is in a text file: the file when it is short and a piece of it otherwise (auto), the file, a line, or a paragraph."""

    piece_bytes: Annotated[int, Field(ge=64)] = 16_000
    """About how many bytes a piece of a long text file gets, under split_text=auto."""

    whole_below: Annotated[int, Field(ge=0)] = 64_000
    """Text files below this many bytes are one document, under split_text=auto."""

    min_characters: Annotated[int, Field(ge=1)] = 1
    """Documents with fewer characters (without the white space around them) are dropped as too_short."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """The share of documents for validation, chosen by the hash of their text; 0 for none. Ignored when validation files are given."""

    seed: int = 0
    """Changes which documents the split takes for validation."""

    skip_bad: bool = False
    """Count broken records and files and go on, where otherwise the first is an error."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError("Python knows no encoding of this name") from None
        return value
