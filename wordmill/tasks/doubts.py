"""What looks wrong in examples, in the words that the tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wordmill.core.progress import Reporter, plural, verb
from wordmill.tasks.examples import Record


def tell_empty(empty: Sequence[Record], name: str | None, lack: str, reporter: Reporter) -> None:
    """Say how many examples of the split `name` (None: inputs to be answered) have "no text", or whatever they `lack`."""
    if empty:
        counted = plural(len(empty), "input") if name is None else f"{plural(len(empty), 'example')} of {name}"
        reporter.warn(f"{counted} {verb(len(empty), 'have')} {lack} (first: {empty[0].where})")


def tell_shared(keys: Iterable[str], seen: dict[str, str], name: str, what: str, reporter: Reporter) -> None:
    """Say how many texts of a split stand in one before it too, and add them to `seen`: the split of each text. `what` they are called."""
    own = list(dict.fromkeys(keys))
    shared = [key for key in own if key in seen]
    if shared:
        count = f"{plural(len(shared), what)} of {name} {verb(len(shared), 'stand')}"
        reporter.warn(f"{count} in {seen[shared[0]]} too, for example {shared[0][:60]!r}: scores on them say little")
    for key in own:
        seen.setdefault(key, name)
