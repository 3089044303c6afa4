"""What looks wrong in examples, in the words that the tasks share."""

from __future__ import annotations

from collections.abc import Iterable

from wordmill.core.progress import Reporter, plural, verb


def tell_shared(keys: Iterable[str], seen: dict[str, str], name: str, what: str, reporter: Reporter) -> None:
    """Say how many texts of a split stand in one before it too, and add them to `seen`: the split of each text. `what` they are called."""
    own = list(dict.fromkeys(keys))
    shared = [key for key in own if key in seen]
    if shared:
        count = f"{plural(len(shared), what)} of {name} {verb(len(shared), 'stand')}"
        reporter.warn(f"{count} in {seen[shared[0]]} too, for example {shared[0][:60]!r}: scores on them say little")
    for key in own:
        seen.setdefault(key, name)
