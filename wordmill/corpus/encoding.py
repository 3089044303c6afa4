"""Which encoding a file is in, and decoding as a stream that marks what it can't decode.

Detection is by proof where there is one (a byte order mark, valid UTF-8) and by plausibility otherwise: GB18030 and Latin-1
accept almost any bytes, so they must also look like the text that is written in them. What looks like neither is reported, not guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import numpy as np

UNDECODABLE = "\udcff"
"""Stands in for what can't be decoded. A lone surrogate can't be written as UTF-8, so it can't slip through: its document is dropped."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAGIC = (b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"PK\x03\x04", b"\x7fELF", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xfd7zXZ")
_LINE = re.compile("[^\n]*\n|[^\n]+")
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
# The characters that Chinese text, simplified or traditional, old or new, can hardly avoid.
_COMMON_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年這個們來為國說時對於無者其曰所此與"
)
_TEXT_CONTROLS = b"\t\n\x0b\x0c\r\x1a\x1b"
_CONTROLS = bytes(set(range(32)) - set(_TEXT_CONTROLS)) + b"\x7f"
BINARY_SHARE = 0.1


def around_damage(text: str) -> Iterator[str]:
    """A text, or where something in it could not be decoded, its parts: the lines of such places, to be dropped, and what stands before,
    between and behind them, each for itself, since what is left out had its meaning. Parts without a word are none."""
    if UNDECODABLE not in text:
        yield text
        return
    for _, lines in groupby(_LINE.findall(text), lambda line: UNDECODABLE in line):
        part = "".join(lines)
        if not part.isspace():
            yield part


def byte_order_mark(head: bytes) -> tuple[str, int] | None:
    """The encoding that the file's first bytes declare, and how many bytes that takes."""
    return next(((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), None)


def looks_binary(head: bytes) -> bool:
    """Whether bytes that are not UTF-16 or UTF-32 are something else than text: a known signature, a NUL, or a tenth of control bytes."""
    return head.startswith(_MAGIC) or b"\x00" in head or len(head) - len(head.translate(None, _CONTROLS)) > BINARY_SHARE * len(head)


def detect(sample: bytes, *, whole: bool) -> str | None:
    """The encoding of `sample` (without a byte order mark), "binary", or None when nothing fits.

    `whole` says that the sample is all there is; otherwise it may end within a character.
    """
    wide = _utf16(sample)
    if wide:
        return wide
    if looks_binary(sample):
        return "binary"
    if sample.isascii():
        return "ascii"
    bad, good = _utf8_faults(sample, whole)
    # A few bad bytes in what is UTF-8 otherwise are damage, to be reported; no other encoding makes valid UTF-8 by chance.
    if bad == 0 or good >= 4 * bad:
        return "utf-8"
    if _plausible_gb18030(sample, whole):
        return "gb18030"
    return _latin(sample)


def python_cookie(head: bytes) -> str | None:
    """The encoding that a Python file declares in its first two lines (PEP 263), if Python knows it."""
    match = _COOKIE.search(b"\n".join(head.split(b"\n", 2)[:2]))
    try:
        return codecs.lookup(match[1].decode("ascii")).name if match else None
    except LookupError:
        return None


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: NULs (from ASCII spaces and line ends, which all text has) in even or in odd places only."""
    if b"\x00" not in sample or len(sample) < 2:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    name = "utf-16-be" if even > odd else "utf-16-le"
    text, rest = decode_prefix(sample[: len(sample) // 2 * 2], name)
    if min(even, odd) * 10 > max(even, odd) or len(rest) > 2 or not text or any(char in text for char in "\0\1\2\3\4\5\6\ufffe\uffff"):
        return None
    # A few NULs in what would be good UTF-8 otherwise don't make it UTF-16, though nearly any bytes can be read as such.
    visible = sample.replace(b"\x00", b"")
    few = max(even, odd) < 0.2 * len(sample)
    return None if few and not looks_binary(visible) and len(decode_prefix(visible, "utf-8")[1]) <= 3 else name


def decode_prefix(data: bytes, encoding: str) -> tuple[str, bytes]:
    """The text before the first fault (or unfinished character) and the bytes from there on."""
    try:
        return data.decode(encoding), b""
    except UnicodeDecodeError as error:
        return data[: error.start].decode(encoding), data[error.start :]


def _utf8_faults(sample: bytes, whole: bool) -> tuple[int, int]:
    """Numbers of undecodable places and of good characters beyond ASCII, taking the sample for UTF-8."""
    faults: list[int] = []
    text = "".join(decode_stream([sample], "utf-8", faults.append))
    if not whole and faults and faults[-1] >= len(sample) - 3:
        faults.pop()
    return len(faults), len(text) - sum(map(str.isascii, text)) - text.count(UNDECODABLE) if faults else 1


def _plausible_gb18030(sample: bytes, whole: bool) -> bool:
    """Valid, with high bytes mostly in pairs (GB2312's area), and with the characters that Chinese text can't avoid."""
    text, rest = decode_prefix(sample, "gb18030")
    if rest and (whole or len(rest) > 3):
        # Damaged Chinese is still Chinese: go on where most of it can be read.
        text = "".join(decode_stream([sample], "gb18030", lambda _: None))
        if text.count(UNDECODABLE) * 20 > len(text):
            return False
    han = [char for char in text if "\u4e00" <= char <= "\u9fff"]
    beyond = sum(not char.isascii() for char in text)
    usual = len(han) + sum("\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef" or char in "—…“”‘’·" for char in text)
    if not han or usual < 0.9 * beyond:
        return False
    pairs = len(re.findall(rb"[\xa1-\xf7][\xa1-\xfe]", sample))
    common = sum(char in _COMMON_HAN for char in han)
    return pairs >= 0.8 * beyond and (common >= 0.04 * len(han) if len(han) >= 50 else common > 0 or len(han) >= 4)


def _latin(sample: bytes) -> str | None:
    """Latin-1, or its superset Windows-1252 when there are quotes and dashes in its extra area: letters that stand alone among ASCII."""
    codes = np.frombuffer(sample, np.uint8)
    high = codes >= 0x80
    letters = int(np.count_nonzero(codes >= 0xC0))
    ascii_letters = len(re.findall(rb"[A-Za-z]", sample))
    extra = int(np.count_nonzero(high & (codes < 0xA0)))
    # Cyrillic, Greek, Arabic or Japanese text in an old encoding is high bytes throughout: that can't be told apart, so it isn't guessed.
    if letters > 0.4 * (letters + ascii_letters):
        return None
    if not extra:
        return "latin-1"
    _, rest = decode_prefix(sample, "cp1252")
    return None if rest else "cp1252"


def decode_stream(blocks: Iterable[bytes], encoding: str, on_fault: Callable[[int], None], *, start: int = 0) -> Iterator[str]:
    """Decode blocks of bytes in bounded memory; each undecodable place becomes `UNDECODABLE` and is reported.

    `on_fault` gets the offset in the file, when the first block begins at `start`. Blocks may cut through characters.
    """
    carry, offset = b"", start
    for block in blocks:
        data = carry + block if carry else block
        try:
            text, carry = data.decode(encoding), b""
        except UnicodeDecodeError:
            text, carry = _decode_faulty(data, encoding, on_fault, offset)
        offset += len(data) - len(carry)
        if text:
            yield text
    if carry:
        yield _decode_small(carry, encoding, on_fault, offset, final=True)[0]


SMALL = 4096


def _decode_faulty(data: bytes, encoding: str, on_fault: Callable[[int], None], offset: int) -> tuple[str, bytes]:
    """As `_decode_small`, in small steps: each fault costs Python a copy of what is being decoded."""
    parts: list[str] = []
    carry = b""
    for place in range(0, len(data), SMALL):
        small = carry + data[place : place + SMALL]
        text, rest = _decode_small(small, encoding, on_fault, offset + place - len(carry), final=False)
        parts.append(text)
        carry = rest
    return "".join(parts), carry


def _decode_small(data: bytes, encoding: str, on_fault: Callable[[int], None], offset: int, *, final: bool) -> tuple[str, bytes]:
    """The text of `data` and the unfinished character at its end, if any."""
    parts: list[str] = []
    position = 0
    while position < len(data):
        try:
            parts.append(data[position:].decode(encoding))
            break
        except UnicodeDecodeError as error:
            bad, after = position + error.start, position + error.end
            parts.append(data[position:bad].decode(encoding))
            if not final and after >= len(data) and len(data) - bad < 4:
                return "".join(parts), data[bad:]
            on_fault(offset + bad)
            parts.append(UNDECODABLE)
            position = max(after, bad + 1)
    return "".join(parts), b""
