"""Files that are either whole or absent: atomic writes, content hashes, JSON with errors that say where."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wordmill.core.errors import DataError, UsageError, disk_errors


def standard_lines() -> Iterator[str]:
    """The lines of standard input, with their ends, without a byte order mark before the first. Raises `DataError` for bytes that are
    no text: they would be read as something else."""
    number = 0
    try:
        for line in sys.stdin:
            number += 1
            line.encode()  # where the locale is C, bad bytes come through as lone surrogates
            yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeEncodeError as error:
        raise DataError("not UTF-8 text", where=f"standard input, line {number}", fix="Convert it first, for example with iconv") from error
    except UnicodeDecodeError as error:
        where = f"standard input, after line {number}" if number else "standard input"
        raise DataError("not UTF-8 text", where=where, fix="Convert it first, for example with iconv") from error


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)`, flush it to disk and rename it to `path`: a reader sees the old file or the new one.

    Raises `DiskFullError`; the temporary file is removed on any error.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path, f"writing {path.name}"):
        try:
            write(temporary)
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, readable by people (indented, not escaped)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `DataError` when it is missing or broken, with the line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=path) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    if not isinstance(value, dict):
        raise DataError("expected a JSON object", where=path)
    return value


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_values(*values: Any) -> str:
    """SHA-256 (64 hex digits) of JSON-ready values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder that is being worked in; the system lifts the lock when the process ends, however it does.

    Raises `UsageError` at once when another process (or another call) works in it.
    """
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        fix = "Wait for it, stop it, or name another folder with -o"
        raise UsageError("another wordmill is at work in this folder", where=folder, fix=fix) from None
    except OSError as error:
        raise UsageError(f"can't work in this folder: {error.strerror}", where=folder, fix="Name another folder with -o") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def new_folder(path: Path, *, hint: str = "Name another folder with -o") -> Path:
    """Make a folder that must not hold anything yet: nothing of the user's is ever overwritten.

    Raises `UsageError` when it exists and is not empty, or can't be made.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("this output already exists and is not empty", where=path, fix=hint)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't make this folder: {error.strerror}", where=path, fix=hint) from error
    return path
