"""How good a fine-tuned model is on a set of examples: metrics with intervals, what was cut, and baselines beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from torch import nn

from wordmill.core.progress import SILENT, Reporter, plural
from wordmill.evaluate.bootstrap import Outcomes, intervals, lower_is_better
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Task, Tools, encode_all


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
    left_out: int = 0
    """Further examples, of which nothing that counts would have been left."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same metrics without a model."""
    details: dict[str, Any] = field(default_factory=dict)
    """Tables by class and the like."""
    remarks: list[str] = field(default_factory=list)
    """What has to be known beside the scores."""
    lower_is_better: bool = False
    """Whether a lower headline is a better one."""
    empty: bool = False
    """Whether the examples hold nothing that the headline metric counts, so that it says nothing."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """What a generative model said to a few of the examples."""

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
        for one in self.samples[:2]:
            lines.append(f"asked {short(one['asked'])!r}: {short(one['said'])!r}")
        lines.append(f"{plural(self.examples, 'example')}, {self.lost()}")
        return "\n".join([*lines, *self.remarks])

    def not_better(self) -> str | None:
        """What is had without this model and is as good, in words; None when the model is better, or nothing can be said."""
        if self.empty:
            return None
        sign = -1 if self.lower_is_better else 1
        scores = {name: other[self.headline] for name, other in self.baselines.items() if self.headline in other}
        best = max(scores, key=lambda name: sign * scores[name], default=None)
        if best is None or sign * self.metrics[self.headline] > sign * scores[best]:
            return None
        return f"{self.headline.replace('_', ' ')} {self.metrics[self.headline]:.4f}, and {best} has {scores[best]:.4f}"

    @property
    def perfect(self) -> bool:
        """Whether there is nothing left to gain: every resample of the examples has the highest score."""
        return not self.lower_is_better and self.intervals.get(self.headline) == (1.0, 1.0)

    def lost(self) -> str:
        """How much was cut and left out, in words."""
        more = f"; {self.left_out:,} more left out as too long" if self.left_out else ""
        return (f"{self.cut:,} of them cut ({plural(self.tokens_cut, 'token')} left out)" if self.cut else "none cut") + more


def short(text: str, most: int = 100) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 2]} …"


def judge(
    task: Task, model: nn.Module, tools: Tools, records: Sequence[Record], *, train: Sequence[Record] = (),
    before: Callable[[], nn.Module | None] | None = None, left_out: int = 0, reporter: Reporter = SILENT,
) -> tuple[Judged, list[Any]]:  # fmt: skip
    """Answer all records and compare with what they say; also the answers. With `train`, the baselines are computed from it; `before` gives
    the model as it was before it was tuned, for tasks that it could do then; `left_out`: examples that were left out before."""
    left_out += len(records)
    records, encoded = encode_all(task, records, tools, answer=False, reporter=reporter)
    answers = task.respond(model, tools, records, reporter=reporter, encoded=encoded)
    outcomes: Outcomes = task.outcomes(records, answers)
    beside = task.baselines(train, records, reporter) if train else {}
    untuned = before() if before is not None and task.before is not None else None
    if untuned is not None:
        beside[task.before or ""] = task.outcomes(records, task.respond(untuned, tools, records, reporter=reporter, encoded=encoded))
    cuts = [one.cut for one in encoded if one.cut]
    empty = bool(getattr(outcomes, "empty", False))
    hollow = [f"nothing in these examples counts for {outcomes.headline}: it is 0 whatever the model says"] if empty else []
    judged = Judged(len(records), outcomes.headline, outcomes.metrics(), intervals(outcomes), len(cuts), sum(cuts), left_out - len(records),
                    {name: other.metrics() for name, other in beside.items()}, task.details(records, answers),
                    [*hollow, *task.remarks(records, answers)], lower_is_better(outcomes), empty,
                    task.samples(model, tools, records))  # fmt: skip
    return judged, answers


def sample_page(samples: Sequence[Mapping[str, Any]]) -> str:
    """HTML: what was asked, expected and said."""
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['asked'][:600])}</td><td>{escape(one['expected'][:600])}</td>"
        f"<td>{escape(one['said'][:600])}{'' if one['finished'] else ' …'}</td></tr>"
        for one in samples
    )
    note = "<p class=sub>To examples that it did not learn from; … : the answer was cut at the most tokens that it may have.</p>"
    return f'<h2>What it says</h2>{note}<div class="card"><table><tr><th>asked</th><th>expected</th><th>said</th></tr>{rows}</table></div>'
