"""How good labels are: accuracy, precision, recall, F1, confusion, calibration.

Shapes: N examples, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from wordmill.evaluate.bootstrap import Index

Floats = npt.NDArray[np.float64]
BINS = 15
"""Of the calibration error."""


def prf(right: Any, said: Any, wanted: Any) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 from counts; 0 where nothing was said, or wanted."""
    right, said, wanted = (np.asarray(x, float) for x in (right, said, wanted))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.where(said > 0, right / said, 0.0), np.where(wanted > 0, right / wanted, 0.0)
        f1 = np.where(said + wanted > 0, 2 * right / (said + wanted), 0.0)
    return precision, recall, f1


def class_table(names: Sequence[str], right: Any, said: Any, wanted: Any) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of examples by class."""
    rows = zip(names, *prf(right, said, wanted), np.asarray(wanted).tolist(), strict=True)
    return {n: {"precision": float(p), "recall": float(r), "f1": float(f), "examples": int(w)} for n, p, r, f, w in rows}


def html_table(rows: dict[str, dict[str, float]], first: str = "class") -> str:
    """A table of numbers for the report."""
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in next(iter(rows.values()), {}))

    def cell(value: float) -> str:
        return f'<td class="number">{value:,}</td>' if isinstance(value, int) else f'<td class="number">{value:.3f}</td>'

    lines = [f'<tr><td class="key">{escape(name)}</td>{"".join(map(cell, row.values()))}</tr>' for name, row in rows.items()]
    return f'<div class="card"><table><tr><th>{escape(first)}</th>{head}</tr>{"".join(lines)}</table></div>'


@dataclass
class LabelOutcomes:
    """One label each."""

    labels: Sequence[str]
    truth: Any
    """(N,) numbers of the right labels."""
    predicted: Any
    """(N,) numbers of those said."""
    probabilities: Any = None
    """(N, L), where there are any."""
    headline: str = "accuracy"
    counted: str = "labels that are right"
    metric: ClassVar[str] = "accuracy"

    def __len__(self) -> int:
        return len(self.truth)

    def confusion(self, index: Index | None = None) -> Any:
        """(L, L) counts, right labels down, said ones across."""
        truth, said = (x if index is None else x[index] for x in (self.truth, self.predicted))
        n = len(self.labels)
        return np.bincount(truth * n + said, minlength=n * n).reshape(n, n)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """Accuracy; F1 as the mean over the classes that occur."""
        table = self.confusion(index)
        right, said, wanted = np.diag(table), table.sum(0), table.sum(1)
        f1 = prf(right, said, wanted)[2]
        there = (said + wanted) > 0
        return {"accuracy": float(right.sum() / table.sum()), "macro_f1": float(f1[there].mean())}

    def correct(self) -> Any:
        """Whether each is right."""
        return self.truth == self.predicted

    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of how sure from how often right, over `BINS` bins (Guo et al. 2017)."""
        return sum(abs(row["sure"] - row["right"]) * row["examples"] for row in self.calibration()) / len(self)

    def calibration(self) -> list[dict[str, float]]:
        """For each of `BINS` equal bins of the highest probability that has examples: its mean, the share that is right, and how many."""
        sure, right = self.probabilities.max(-1), self.correct()
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        return [{"sure": float(sure[bins == b].mean()), "right": float(right[bins == b].mean()), "examples": int((bins == b).sum())}
                for b in np.unique(bins)]  # fmt: skip

    def details(self) -> dict[str, Any]:
        """JSON-ready."""
        table = self.confusion()
        found: dict[str, Any] = {"by_class": class_table(self.labels, np.diag(table), table.sum(0), table.sum(1))}
        found["confusion"] = {"labels": list(self.labels), "rows_are_right": table.tolist()}
        if self.probabilities is not None:
            found |= {"calibration_error": self.calibration_error(), "calibration": self.calibration()}
        return found

    def table(self) -> str:
        """By class, as HTML."""
        return html_table(self.details()["by_class"])


@dataclass
class SetOutcomes:
    """Any number of labels each."""

    labels: Sequence[str]
    truth: Any
    """(N, L) bool."""
    predicted: Any
    """(N, L) bool."""
    headline: str = "micro_f1"
    counted: str = "labels of sets of labels"

    def __len__(self) -> int:
        return len(self.truth)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """F1 over all labels together, the mean of the labels' F1, and how many examples are right in all labels."""
        truth, said = (x if index is None else x[index] for x in (self.truth, self.predicted))
        right, many, wanted = (truth & said).sum(0), said.sum(0), truth.sum(0)
        there = (many + wanted) > 0
        macro = prf(right, many, wanted)[2]
        mean = float(macro[there].mean()) if there.any() else 0.0
        micro = float(prf(right.sum(), many.sum(), wanted.sum())[2])
        return {"micro_f1": micro, "macro_f1": mean, "exact": float((truth == said).all(1).mean())}

    def correct(self) -> Any:
        """Whether each is right in all labels."""
        return (self.truth == self.predicted).all(1)

    def details(self) -> dict[str, Any]:
        """JSON-ready."""
        right = (self.truth & self.predicted).sum(0)
        return {"by_class": class_table(self.labels, right, self.predicted.sum(0), self.truth.sum(0))}

    def table(self) -> str:
        """By class, as HTML."""
        return html_table(self.details()["by_class"])
