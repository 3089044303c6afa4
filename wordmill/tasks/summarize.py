"""`summarize`: a short text for a long one (a summary, a headline, a title), scored by ROUGE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from wordmill.core.progress import Reporter
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.pairs import Pairs
from wordmill.tasks.texts import RougeOutcomes, require_rouge, side_by_side

SENTENCES = 5
"""The lead baseline takes up to this many sentences."""
LEAD_EXAMPLES = 200
"""Training examples by which their number is chosen, at most."""
_SENTENCE = re.compile(r"[^\n]*?(?:[.!?]+[\"'”’)]*(?=\s|$)|[。！？]+[”’」』）]*|\n|$)")


class Summarize(Pairs):
    """A short text for a long one."""

    name: ClassVar[str] = "summarize"
    said: ClassVar[str] = "summary"
    prompts: ClassVar[Mapping[bool, str]] = {True: "{source}", False: "{source}\n\nTL;DR:\n"}
    sources: ClassVar[tuple[str, ...]] = (
        "article", "document", "dialogue", "dialog", "conversation", "story", "passage", "body", "content", "text", "source", "input",
        "transcript", "report", "abstract", "description",
    )  # fmt: skip
    targets: ClassVar[tuple[str, ...]] = (
        "summary", "summaries", "highlights", "tldr", "tl;dr", "headline", "abstract", "title", "target", "output", "description",
    )  # fmt: skip

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """As `Pairs`; the package for ROUGE is asked for before anything is trained."""
        require_rouge()
        super().look(splits, reporter)

    def find(self, train: Records, source: str | None, target: str | None, reporter: Reporter) -> tuple[str | None, str | None]:
        """By name; else the longest texts are the sources, and the next longest the targets."""
        source, target = super().find(train, source, target, reporter)
        free = [name for name in self.texts_in(train) if name not in (source, target)]
        if source is None and free:
            source = free.pop(0)
        if target is None and free:
            target = free.pop(0)
        return source, target

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """See task.py."""
        return RougeOutcomes([self.target(record) for record in records], [answer.text for answer in answers])

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """The first sentences of the source, as many as do best on training examples."""
        some = train[:: max(1, len(train) // LEAD_EXAMPLES)][:LEAD_EXAMPLES]

        def leads(records: Sequence[Record], n: int) -> RougeOutcomes:
            return RougeOutcomes([self.target(record) for record in records], [lead(self.source(record), n) for record in records])

        best = max(range(1, SENTENCES + 1), key=lambda n: leads(some, n).metrics()["rougeL"])
        return {f"lead-{best}": leads(test, best)}

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """The worst summaries, and some as they come."""
        outcomes = self.outcomes(records, answers)
        assert isinstance(outcomes, RougeOutcomes)
        return side_by_side([self.source(r) for r in records], outcomes.references, outcomes.answers, outcomes.each(), "ROUGE-L")


def lead(text: str, n: int) -> str:
    """The first `n` sentences of a text, or lines where these end sooner; all of it where there are fewer."""
    found = [part.strip() for part in _SENTENCE.findall(text)]
    return " ".join([part for part in found if part][:n])
