"""The account of what was dropped and why, with the dropped documents themselves where asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, TextIO

from wordmill.core.errors import DataError
from wordmill.core.progress import Reporter

REASONS = {
    "empty": "no text in it",
    "too_short": "fewer characters than min_characters",
    "duplicate": "the same text as an earlier document",
    "in_validation": "the same text as a validation document",
    "binary": "not text",
    "undecodable": "bytes that are not valid in the file's encoding",
    "bad_record": "a broken or unsuitable record (skip_bad)",
    "bad_file": "a torn or broken file (skip_bad)",
}
SHOWN = 5
LISTED = 200


class Ledger:
    """Counts drops by reason; shows the first few faults of the input and lists some more of them for corpus.json."""

    def __init__(self, reporter: Reporter, *, skip_bad: bool = False, rejects: TextIO | None = None) -> None:
        self.reporter, self.skip_bad, self.rejects = reporter, skip_bad, rejects
        self.drops: Counter[str] = Counter()
        self.faults: list[dict[str, str]] = []
        self.encodings: Counter[str] = Counter()
        self.fields: dict[str, int] = {}
        self.kept_fields: set[str] = set()
        self._shown: Counter[str] = Counter()

    def drop(self, reason: str, source: str, *, metadata: str = "", text: str | None = None) -> None:
        """One document that does not get into the corpus."""
        assert reason in REASONS, reason
        self.drops[reason] += 1
        if self.rejects is not None:
            row = {"reason": reason, "source": source, "metadata": json.loads(metadata or "{}"), "text": text}
            # Escaped, since a reject may hold what UTF-8 can't: the marks of undecodable bytes.
            self.rejects.write(json.dumps(row) + "\n")

    def fault(self, reason: str, where: str, what: str) -> None:
        """Something wrong in the input, to be listed and shown with its place."""
        self.note_fault(reason, where, what)
        self.show_fault(reason, where, what)

    def note_fault(self, reason: str, where: str, what: str) -> None:
        """List something wrong for corpus.json."""
        if len(self.faults) < LISTED:
            self.faults.append({"reason": reason, "where": where, "what": what})

    def show_fault(self, reason: str, where: str, what: str) -> None:
        """Show something wrong, unless there was much of the kind."""
        self._shown[reason] += 1
        if self._shown[reason] <= SHOWN:
            self.reporter.warn(f"{where}: {what}")
        elif self._shown[reason] == SHOWN + 1:
            self.reporter.warn(f"more of the same kind ({reason}) are counted and listed in corpus.json, not shown")

    def bad(self, reason: str, source: str, where: str, what: str, *, fix: str | None = None, text: str | None = None) -> None:
        """A broken record or file: a `DataError`, or a counted drop under skip_bad."""
        if not self.skip_bad:
            raise DataError(what, where=where, fix=fix or "Mend it, or go on without it: --skip-bad")
        self.fault(reason, where, what)
        self.drop(reason, source, metadata=json.dumps({"where": where, "what": what}), text=text)

    def told(self) -> None:
        """Say what was dropped: also to those who asked for quiet, for it is missing from the corpus."""
        drops = ", ".join(f"{count:,} {reason}" for reason, count in self.drops.most_common())
        if drops and self.reporter.quiet:
            self.reporter.warn(f"dropped: {drops}")
        else:
            self.reporter.note(f"dropped: {drops or 'nothing'}")

    def took_field(self, message: str) -> None:
        """Say once which field was taken."""
        if message not in self.fields:
            self.reporter.note(message)
        self.fields[message] = self.fields.get(message, 0) + 1

    def plain(self) -> dict[str, Any]:
        """The account for corpus.json."""
        return {
            "dropped": dict(sorted(self.drops.items())),
            "faults": self.faults,
            "encodings": dict(sorted(self.encodings.items())),
            "fields": self.fields,
        }
