"""Reading a SentencePiece `.model`.

The file is one protobuf message whose fields have not changed since 2018, and we need fifteen of them: a reader of the wire format is
shorter than what a dependency on `protobuf` and on generated code would cost, and nothing is installed for it. Numbers of fields, and
what they are when they are absent, are those of `sentencepiece_model.proto` (github.com/google/sentencepiece, src/).

A message is a row of fields: a varint that holds number × 8 + wire type, then the value: a varint (0), 8 bytes (1), a length and as many
bytes (2), or 4 bytes (5). A field of an unknown number is passed over, as protobuf does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from wordmill.core.errors import ModelError

Value = int | bytes


class Type(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    type: Type


ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class SentencePiece:
    """What a `.model` says."""

    pieces: tuple[Piece, ...]
    algorithm: Literal["unigram", "bpe"]
    byte_fallback: bool
    """Characters that the vocabulary lacks are written as their bytes, each of which is a piece."""
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    """Ids of these four; below 0 where there is none."""
    charsmap: bytes
    """The normaliser, as `tokenizers.normalizers.Precompiled` takes it; empty where text is left as it is."""
    add_dummy_prefix: bool
    """A text is given a space in front."""
    remove_extra_whitespaces: bool
    """Spaces at both ends go, and of several in a row one stays."""

    @property
    def roles(self) -> dict[str, str]:
        """The tokens that play a part, as tokenizer_config.json names them: unk_token, bos_token, eos_token, pad_token."""
        ids = {"unk_token": self.unk_id, "bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        return {role: self.pieces[index].text for role, index in ids.items() if 0 <= index < len(self.pieces)}


def read_sentencepiece(path: Path) -> SentencePiece:
    """Read a `.model`.

    Raises `ModelError` when the file is not one, is cut short, or asks for what `tokenizers` has no counterpart of (the word and char
    algorithms, spaces at the end of pieces).
    """
    data = path.read_bytes()
    try:
        fields = list(_fields(data))
        pieces = tuple(_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes))
        trainer, normalizer = (_message(fields, number) for number in (2, 3))
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError("not a SentencePiece model, or one cut short", where=path, fix="Download or copy the file again") from error
    if not pieces:
        raise ModelError("not a SentencePiece model: it holds no pieces", where=path)
    if {2, 3} - {number for number, _ in fields}:
        # Both follow the pieces in every file: one that ends before them may have lost pieces too.
        raise ModelError("a SentencePiece model without its settings: it was cut short", where=path, fix="Download or copy the file again")
    algorithm = ALGORITHMS.get(_int(trainer, 3, 1), "unknown")
    if algorithm not in ("unigram", "bpe"):
        raise ModelError(f"a SentencePiece model of the {algorithm} algorithm is not supported, only unigram and bpe", where=path)
    if _int(trainer, 24, 0) or not _int(normalizer, 5, 1):
        setting = "treat_whitespace_as_suffix" if _int(trainer, 24, 0) else "escape_whitespaces=false"
        raise ModelError(f"a SentencePiece model with {setting} is not supported", where=path)
    charsmap = normalizer.get(2, b"")
    return SentencePiece(
        pieces=pieces,
        algorithm="unigram" if algorithm == "unigram" else "bpe",
        byte_fallback=bool(_int(trainer, 35, 0)),
        unk_id=_int(trainer, 40, 0),
        bos_id=_int(trainer, 41, 1),
        eos_id=_int(trainer, 42, 2),
        pad_id=_int(trainer, 43, -1),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        add_dummy_prefix=bool(_int(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_int(normalizer, 4, 1)),
    )


def merges(model: SentencePiece) -> list[tuple[str, str]]:
    """The merges of a BPE model in order of rank.

    SentencePiece has no list of merges: whichever two neighbours make a piece may be merged, the piece with the lower id first. Listed
    are therefore all pairs of pieces that make a piece; for one piece, shorter left halves first. Pieces that no text is made of
    (control, unknown, byte) are neither halves nor results: typed out, they stay text.
    """
    usable = {piece.text for piece in model.pieces if piece.type in (Type.NORMAL, Type.USER_DEFINED)}
    return [
        (text[:cut], text[cut:])
        for text in (piece.text for piece in model.pieces if piece.text in usable)
        for cut in range(1, len(text))
        if text[:cut] in usable and text[cut:] in usable
    ]


# ── the wire format ─────────────────────────────────────────────────────────────────────────────────────────────


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message: numbers and values. Raises ValueError or IndexError when it is none."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (0, 1, 2, 5):
            raise ValueError("no such field")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, position = _varint(data, position)
        end = position + size
        if end > len(data):
            raise ValueError("cut short")
        yield number, data[position:end]
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("number too long")


def _message(fields: list[tuple[int, Value]], number: int) -> dict[int, Value]:
    """The fields of an inner message by number; the last of several holds."""
    inner = [value for found, value in fields if found == number]
    return dict(_fields(inner[-1])) if inner and isinstance(inner[-1], bytes) else {}


def _int(message: dict[int, Value], number: int, default: int) -> int:
    value = message.get(number, default)
    if not isinstance(value, int):
        raise ValueError("a number was expected")
    return value - 2**64 if value >= 2**63 else value


def _piece(data: bytes) -> Piece:
    message = dict(_fields(data))
    text, score = message.get(1, b""), message.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("not a piece")
    return Piece(text.decode(), struct.unpack("<f", score)[0], Type(_int(message, 3, 1)))
