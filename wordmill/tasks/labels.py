"""How good labels are, and entities: accuracy, precision, recall, F1, confusion, calibration.

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
from wordmill.tasks.spans import Span

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


@dataclass
class EntityOutcomes:
    """Entities that are right in border and kind, as conlleval and seqeval count them."""

    kinds: Sequence[str]
    right: Any
    """(N, K) counts by sentence and kind."""
    said: Any
    wanted: Any
    words: Any
    """(N, 2): words whose tag is right, and words."""
    headline: str = "f1"
    counted: str = "entities that are right in border and kind"

    @classmethod
    def of(cls, kinds: Sequence[str], pairs: Sequence[tuple[list[Span], list[Span]]], words: Sequence[tuple[int, int]]) -> EntityOutcomes:
        """From the right and the said spans of each sentence."""
        place = {kind: n for n, kind in enumerate(kinds)}
        found = np.zeros((3, len(pairs), len(kinds)), np.int64)
        for n, (truth, said) in enumerate(pairs):
            for row, spans in enumerate(({*truth} & {*said}, said, truth)):
                for span in spans:
                    found[row, n, place[span.label]] += 1
        return cls(kinds, found[0], found[1], found[2], np.array(words, np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.right)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """Precision, recall and F1 over all entities together; F1 as the mean over kinds; words with the right tag."""
        right, said, wanted, words = ((x if index is None else x[index]).sum(0) for x in (self.right, self.said, self.wanted, self.words))
        precision, recall, f1 = prf(right.sum(), said.sum(), wanted.sum())
        there = wanted > 0
        macro = float(prf(right, said, wanted)[2][there].mean()) if there.any() else 0.0
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall), "macro_f1": macro,
                "word_accuracy": float(words[0] / max(1, words[1]))}  # fmt: skip

    @property
    def empty(self) -> bool:
        """Whether there is no entity to be found: then F1 is 0 whatever is said."""
        return not self.wanted.any()

    def correct(self) -> Any:
        """Nothing: an entity is no example."""
        return None

    def by_class(self) -> dict[str, dict[str, float]]:
        """By kind."""
        return class_table(self.kinds, self.right.sum(0), self.said.sum(0), self.wanted.sum(0))
