"""How good a fine-tuned model is on a set of examples: metrics with intervals, what was cut, and baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from wordmill.core.progress import SILENT, Reporter
from wordmill.evaluate.bootstrap import Outcomes, intervals
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Task, Tools


@dataclass
class Judged:
    """The result."""

    examples: int
    headline: str
    """The metric that the task is judged by."""
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % intervals, by resampling the examples."""
    cut: int
    """Examples that were too long and were cut."""
    tokens_cut: int
    """Tokens that were left out of them."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same metrics without a model."""
    details: dict[str, Any] = field(default_factory=dict)
    """Tables by class and the like."""
    remarks: list[str] = field(default_factory=list)
    """What has to be known beside the scores."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        lines = []
        for name, value in self.metrics.items():
            low, high = self.intervals[name]
            beside = ", ".join(f"{other} {scores[name]:.4f}" for other, scores in self.baselines.items() if name in scores)
            lines.append(f"{name} {value:.4f} (95 % interval {low:.4f} … {high:.4f})" + (f"; {beside}" if beside else ""))
        lines.append(f"{self.examples:,} examples, {cut_text(self.cut, self.tokens_cut)}")
        return "\n".join([*lines, *self.remarks])


def cut_text(examples: int, tokens: int) -> str:
    """How much was cut, in words."""
    return f"{examples:,} of them cut ({tokens:,} tokens left out)" if examples else "none cut"


def judge(
    task: Task, model: nn.Module, tools: Tools, records: Sequence[Record], *, train: Sequence[Record] = (), reporter: Reporter = SILENT
) -> tuple[Judged, list[Any]]:
    """Answer all records and compare with what they say; also the answers. With `train`, the baselines are computed from it."""
    encoded = [task.encode(record, tools, answer=False) for record in records]
    answers = task.respond(model, tools, records, reporter=reporter, encoded=encoded)
    outcomes: Outcomes = task.outcomes(records, answers)
    beside = task.baselines(train, records, reporter) if train else {}
    cuts = [one.cut for one in encoded if one.cut]
    judged = Judged(len(records), outcomes.headline, outcomes.metrics(), intervals(outcomes), len(cuts), sum(cuts),
                    {name: other.metrics() for name, other in beside.items()},
                    task.details(records, answers), task.remarks(records, answers))  # fmt: skip
    return judged, answers
