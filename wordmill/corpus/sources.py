"""Finding the files, and reading their bytes: folders, kinds, compression."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from wordmill.core.errors import DataError, disk_errors

TEXT_KINDS = ("txt", "md", "py")
KINDS = (*TEXT_KINDS, "json", "jsonl", "csv", "tsv", "parquet")
COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}
READABLE = f".{' .'.join(KINDS)}, each also with .gz or .zst"
BLOCK = 1 << 20
STANDARD = "standard input"
STANDARD_INPUT = (Path("-"), Path("/dev/stdin"))


class BrokenFile(Exception):
    """A file that ends too early or isn't what its name says; the reader turns it into an error or a drop."""


@dataclass(frozen=True)
class Source:
    """A file to read. `name` is its path from the folder that was given, which is what the corpus remembers."""

    path: Path
    name: str
    kind: str
    compression: str | None

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.name if self.name == STANDARD else _spelt(str(self.path))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


@dataclass
class Found:
    """The readable files under the sources that were given, and how many others there were, by extension."""

    files: list[Source] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def skipped_text(self) -> str:
        """`3 .png, 1 .pdf`, the most frequent first."""
        return ", ".join(f"{count} {extension}" for extension, count in self.skipped.most_common(12))


def find_sources(given: Sequence[str | Path]) -> Found:
    """The files to read, each once, in an order that depends on names only. Hidden files and folders are left out. `-` (or /dev/stdin) is
    standard input, one text.

    Raises `DataError` for what doesn't exist, can't be read, is no file or is of no known kind, for folders with nothing to read, and for
    corpus folders: what they hold is a corpus already, with a validation split that must not be trained on.
    """
    found, seen = Found(), set[Path]()
    for item in map(Path, given):
        if item in STANDARD_INPUT:
            _spool(found)
        elif item.is_dir():
            before = len(found.files)
            for path in _walk(item, found.skipped):
                _add(found, seen, path, f"{item.resolve().name}/{path.relative_to(item).as_posix()}")
            if len(found.files) == before and len(given) == 1:
                there = f"it holds {found.skipped_text()}" if found.skipped else "it is empty"
                if set(found.skipped) == {"hidden"}:
                    there = f"all it holds is hidden ({found.skipped['hidden']} names begin with a dot), and left out"
                raise DataError(f"nothing readable in this folder: {there}", where=item, fix=f"wordmill reads {READABLE}")
        elif not os.path.lexists(item):
            raise DataError("no such file or folder", where=item)
        elif _kind(item) is None:
            raise DataError(f"files ending in {_extension(item)!r} are not read", where=item, fix=f"wordmill reads {READABLE}")
        else:
            _add(found, seen, item, item.name)
    if not found.files:
        raise DataError("nothing readable in these folders", where=", ".join(map(str, given)), fix=f"wordmill reads {READABLE}")
    return found


def _walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise DataError(f"can't read this folder: {error.strerror}", where=error.filename) from error

    for place, folders, files in os.walk(folder, onerror=stop):
        if is_built(Path(place)):
            raise DataError(
                "this is a corpus folder: read as raw text, its validation documents would be trained on",
                where=place,
                fix="Give it alone to pretrain or evaluate; otherwise give the files that it was built from, without it",
            )
        for name in folders + files:
            if name.startswith("."):
                skipped["hidden"] += 1
            elif name in folders and Path(place, name).is_symlink():
                skipped["linked folder"] += 1
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def is_built(folder: Path) -> bool:
    """Whether `build_corpus` wrote this folder (a file of the user's may be called corpus.json too)."""
    place = folder / "corpus.json"
    if not place.is_file():
        return False
    with open(place, "rb") as file:
        head = file.read(100)
    return head.lstrip().startswith(b"{") and b'"format"' in head


def _add(found: Found, seen: set[Path], path: Path, name: str) -> None:
    kind = _kind(path)
    if kind is None:
        found.skipped[_extension(path) or "without extension"] += 1
        return
    if not path.is_file():  # it would be waited for, or can't be opened
        if path.is_symlink() and not path.exists():
            raise DataError(f"this link leads nowhere (to {os.readlink(path)})", where=path, fix="Mend it or take it away")
        what = "a named pipe" if path.is_fifo() else "a folder" if path.is_dir() else "a device or a socket"
        fix = "Copy what it holds into a file, or pipe it in: COMMAND | wordmill … -"
        raise DataError(f"this is {what}, not a file", where=path, fix=fix)
    if (real := path.resolve()) not in seen:
        seen.add(real)
        found.files.append(Source(path, _spelt(name), *kind))


def _spelt(name: str) -> str:
    r"""A name with bytes that are not UTF-8 written as \xe9: such names can be read, but not written down as they are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _spool(found: Found) -> None:
    """Keep standard input in a file for as long as its source lives: it is read more than once."""
    if any(source.name == STANDARD for source in found.files):
        raise DataError("standard input can be read once only", where="-")
    handle, name = tempfile.mkstemp(suffix=".txt")
    path = Path(name)
    with disk_errors(path, "keeping standard input"), open(handle, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, BLOCK)
    source = Source(path, STANDARD, "txt", None)
    weakref.finalize(source, path.unlink, missing_ok=True)
    found.files.append(source)


def _extension(path: Path) -> str:
    return path.suffix.lower()


def _kind(path: Path) -> tuple[str, str | None] | None:
    """The kind and the compression that the name tells, or None."""
    *_, before, last = ("", "", *path.name.lower().split("."))
    compression = COMPRESSIONS.get(last)
    kind = before if compression else last
    return (kind, compression) if kind in KINDS else None


class ByteStream:
    """A file's bytes, decompressed. Tells `progress` how many bytes on disk were used up; faults of the compression are `BrokenFile`."""

    def __init__(self, raw: BinaryIO, stream: Any, progress: Callable[[int], None]) -> None:
        self.raw, self.stream, self.progress = raw, stream, progress
        self.used = 0

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end of the file."""
        parts: list[bytes] = []
        while size > 0:
            try:
                part = self.stream.read(size)
            except OSError as error:
                raise BrokenFile(f"can't be read on: {' '.join(str(error).split())}") from error
            if not part:
                break
            parts.append(part)
            size -= len(part)
        place = self.raw.tell()
        self.progress(place - self.used)
        self.used = place
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def blocks(self, size: int = BLOCK) -> Iterator[bytes]:
        """The rest of the file in blocks of `size` bytes, the last one shorter."""
        while block := self.read(size):
            yield block


@contextmanager
def opened(source: Source, progress: Callable[[int], None]) -> Iterator[ByteStream]:
    """Open a file, decompressing as its name says.

    Raises `DataError` when it can't be opened; reading from it raises `BrokenFile`.
    """
    import pyarrow as pa

    try:
        raw = open(source.path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"can't read this file: {error.strerror}", where=source.shown) from error
    with raw:
        if source.compression and source.size:
            yield ByteStream(raw, pa.CompressedInputStream(raw, source.compression), progress)
        else:
            yield ByteStream(raw, raw, progress)
