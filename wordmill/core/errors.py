"""What can go wrong, drawn as a tree.

    WordmillError            anything the user can mend: what, where, how (exit code 2, no traceback)
    ├── UsageError           an option, an override or a call that can't be honoured
    ├── DataError            an input that can't be read or is not enough
    ├── ConfigError          a setting that is unknown or contradicts another
    ├── ModelError           a model folder that is missing, incomplete or of another kind
    ├── CheckpointError      a checkpoint that is torn or does not fit the run
    ├── TrainingError        the run itself went wrong (a loss that is not finite, …)
    ├── WriteError           something could not be written: no permission, a read-only disk, …
    │   └── DiskFullError    no space left, a quota or a limit on the size of files
    └── MissingExtraError    an optional dependency is absent; says which pip install mends it

Invariants of our own are `assert`ed instead: a user never has to mend those.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class WordmillError(Exception):
    """Something the user can mend.

    `what` says what is wrong, `where` the file (and line), field or option, `fix` what to do.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        super().__init__(self.one_line())

    def one_line(self) -> str:
        """The message as one line: `where: what. fix`."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} {self.fix}" if self.fix else text


class UsageError(WordmillError):
    """An option, an override or a call that can't be honoured."""


class DataError(WordmillError):
    """An input that can't be read, or is not enough."""


class ConfigError(WordmillError):
    """A setting that is unknown, of the wrong type, or contradicts another."""


class ModelError(WordmillError):
    """A model folder that is missing, incomplete, or of another kind."""


class CheckpointError(WordmillError):
    """A checkpoint that is torn, or does not fit the run."""


class TrainingError(WordmillError):
    """The run itself went wrong."""


class WriteError(WordmillError):
    """Something could not be written."""


class DiskFullError(WriteError):
    """No space left where something had to be written."""


class MissingExtraError(WordmillError):
    """An optional dependency is absent."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            fix=f"Run: pip install 'wordmill[{extra}]'",
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word (first of all one that begins with `name`), or lists what is known: for the `fix` of an
    error."""
    known = sorted(known)
    longer = sorted((word for word in known if len(name) > 3 and word.startswith(name)), key=len)
    close = longer or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}"


FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "no space left in your quota",
        errno.EFBIG: "no space left: a limit on the size of files (ulimit -f) was met"}  # fmt: skip


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what the system refuses inside into a `DiskFullError` or a `WriteError` that names the file (`path`, where it isn't told)."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        again = "then run the same command again (with --resume for a run)"
        if error.errno in FULL:
            raise DiskFullError(f"{FULL[error.errno]} while {doing}", where=path, fix=f"Free some space, {again}") from error
        # A file on its way (NAME.part) is nothing that the user knows.
        place = error.filename if isinstance(error.filename, str) and ".part" not in error.filename else path
        raise WriteError(f"{os.strerror(error.errno).lower()} while {doing}", where=place, fix=f"Mend that, {again}") from error
