"""Cleaning a text, and cutting a long one into documents: nothing lost, nothing doubled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from wordmill.corpus.encoding import BINARY_SHARE

# Vertical tab, form feed and NEL end lines too (Unicode standard, section 5.8): taken out, they would glue two words together.
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_C1 = re.compile(rb"\xc2[\x80-\x9f]")


def clean(text: str) -> str:
    r"""`text` with \n as its only line end, without other control characters (\t stays), in Unicode normal form C."""
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_clean(encoded: bytes) -> bool:
    """Whether `clean` would change nothing in this UTF-8, found out fast."""
    codes = np.frombuffer(encoded, np.uint8)
    if np.count_nonzero(codes < 32) != encoded.count(b"\n") + encoded.count(b"\t") or b"\x7f" in encoded:
        return False
    beyond = codes >= 0x80
    if not beyond.any():
        return True
    # ASCII characters combine with nothing but what follows them directly, so the others need no look.
    beyond[:-1] |= beyond[1:]
    critical = codes[beyond].tobytes()
    return _C1.search(critical) is None and unicodedata.is_normalized("NFC", critical.decode())


def is_binary(text: str) -> bool:
    """Whether a text is so full of control characters that it is something else."""
    return len(_CONTROLS.findall(text)) > BINARY_SHARE * len(text)


def unify_line_ends(blocks: Iterable[str]) -> Iterator[str]:
    r"""Blocks of one text with \n for each \r\n and \r, also where a block ends between \r and \n."""
    held = False
    for block in blocks:
        if held:
            block = "\r" + block
        held = block.endswith("\r")
        if held:
            block = block[:-1]
        if "\r" in block:
            block = block.replace("\r\n", "\n").replace("\r", "\n")
        if block:
            yield block
    if held:
        yield "\n"


def cut(blocks: Iterable[str], size: int) -> Iterator[str]:
    """Cut one text, given in blocks, into pieces of about `size` UTF-8 bytes.

    A piece ends after a blank line if there is one in its second half, else after a line end, else after a space, else between two
    characters that don't combine. The pieces joined are the text; where it is cut does not depend on the blocks; memory is bounded.
    """
    rest = ""
    for block in blocks:
        rest += block
        position = 0
        # So many characters suffice to know the next cut, and that more than one piece is left.
        while len(rest) - position > 2 * size:
            end = _next_cut(rest, position, size)
            yield rest[position:end]
            position = end
        rest = rest[position:]
    position = 0
    while _utf8_length(rest[position:]) > 1.5 * size:
        end = _next_cut(rest, position, size)
        yield rest[position:end]
        position = end
    if position < len(rest):
        yield rest[position:]


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _next_cut(text: str, start: int, size: int) -> int:
    """Where the piece that begins at `start` ends: the best place in the second half of its `size` bytes."""
    window = text[start : start + size]
    limit = max(2, size * len(window) // _utf8_length(window))
    half, end = start + limit // 2, min(start + limit, len(text) - 1)
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, half, end)
        if found >= 0:
            return found + len(mark)
    return next((place for place in range(end, half, -1) if _may_begin(text[place])), end)


def _may_begin(char: str) -> bool:
    """Whether a piece may begin with this character: nothing that combines with the one before it, and no control or format character.

    The vowels and finals of Hangul and of Kirat Rai are letters by category, and yet compose with what precedes them (NFC_QC=Maybe).
    """
    composes = "\u1160" <= char <= "\u11ff" or "\U00016d63" <= char <= "\U00016d6a"
    return unicodedata.category(char)[0] not in "MC" and not composes


LONGEST_UNIT = 4_000_000


def lines_or_paragraphs(blocks: Iterable[str], unit: Literal["line", "paragraph"]) -> Iterator[list[str]]:
    r"""The lines or paragraphs of one text whose line ends are \n, without what separates them, by the block.

    Paragraphs are separated by blank lines. What is longer than `LONGEST_UNIT` bytes is cut, so that memory is bounded.
    """
    separator = re.compile("\n") if unit == "line" else re.compile("\n(?:[ \t]*\n)+")
    rest = ""
    for block in blocks:
        rest += block
        # The last part may go on in the next block, and so may the white space at the end, which a blank line may consist of.
        content = rest if unit == "line" else rest.rstrip("\n\t ")
        *whole, last = separator.split(content)
        yield whole
        rest = last + rest[len(content) :]
        if len(rest) > LONGEST_UNIT:
            *pieces, rest = cut([rest], LONGEST_UNIT // 4)
            yield pieces
    if rest:
        yield separator.split(rest)
