"""How sure a score is: bootstrap confidence intervals, paired comparison of two models on the same examples, McNemar's test.

Efron 1979 (the bootstrap, percentile intervals); Koehn 2004 (paired resampling); McNemar 1947, in its exact form.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wordmill.core.errors import UsageError
from wordmill.core.progress import plural

Index = npt.NDArray[np.int64]
DRAWS = 1000
"""Resamples of the examples."""


class Outcomes(Protocol):
    """What a model made of a set of examples, one after the other."""

    headline: str
    """The metric that the task is judged by; higher is better."""
    counted: str
    """What it counts, and how, in words: only scores of which this is the same can be compared."""

    def __len__(self) -> int: ...

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """The metrics over all examples, or over those of `index` (n,), in which one may stand several times."""

    def correct(self) -> npt.NDArray[np.bool_] | None:
        """For each example whether it is right; None where that is no yes or no."""


def lower_is_better(outcomes: Outcomes) -> bool:
    """Whether the lower headline is the better one, of the few outcomes that say so."""
    return bool(getattr(outcomes, "lower_is_better", False))


def intervals(outcomes: Outcomes, *, draws: int = DRAWS, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
    """For each metric the interval in which it lies with probability `level`, over resamples of the examples."""
    n = len(outcomes)
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws if n > 1 else 1):
        for name, value in outcomes.metrics(generator.integers(0, n, n)).items():
            found.setdefault(name, []).append(value)
    edge = 50 * (1 - level)
    return {name: tuple(float(x) for x in np.nanpercentile(values, (edge, 100 - edge))) for name, values in found.items()}  # type: ignore[misc]


FEWEST = 10
"""Examples from which resampling them says anything of chance: three that all differ alike would differ so in each draw."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples: b less a."""

    metric: str
    a: float
    b: float
    difference: float
    low: float
    """Lower end of the 95 % interval of the difference, by paired resampling."""
    high: float
    """Its upper end."""
    examples: int
    only_a: int | None = None
    """Examples that only the first model has right; None where an answer is not right or wrong."""
    only_b: int | None = None
    """Examples that only the second has right."""
    p_value: float | None = None
    """McNemar's exact two-sided p that the two are equally often right."""
    lower_is_better: bool = False
    """Whether the lower score is the better one."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        few = self.examples < FEWEST
        interval = "" if few else f"95 % interval {self.low:+.4f} … {self.high:+.4f}, "
        lines = [f"{self.metric}: {self.a:.4f} → {self.b:.4f}, difference {self.difference:+.4f} "
                 f"({interval}{plural(self.examples, 'example')}, paired)"]  # fmt: skip
        if self.p_value is not None:
            lines.append(f"only the first right: {self.only_a}, only the second: {self.only_b} (McNemar p = {self.p_value:.3g})")
        if few or self.low == self.high == 0:
            why = f"{plural(self.examples, 'example')} can't tell a difference from chance" if few else "both are as good on each resample"
            return "\n".join([*lines, why])
        sure = self.low > 0 or self.high < 0
        better = "second" if (self.difference > 0) != self.lower_is_better else "first"
        lines.append(f"the {better} is better{' (lower is better)' if self.lower_is_better else ''}, by more than chance" if sure
                     else "the difference may well be chance: zero lies in the interval")
        return "\n".join(lines)


def paired(a: Outcomes, b: Outcomes, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare two models' outcomes on the same examples. Raises `UsageError` when these are not of one kind or number, or don't count the
    same."""
    if (a.headline, a.counted, len(a)) != (b.headline, b.counted, len(b)):
        told = [f"{one.headline} of {plural(len(one), 'example')} ({one.counted})" for one in (a, b)]
        raise UsageError(f"can't compare {told[0]} with {told[1]}: these scores don't count the same")
    n, name = len(a), a.headline
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, n, n) for _ in range(draws))
    differences = [b.metrics(index)[name] - a.metrics(index)[name] for index in drawn]
    low, high = np.nanpercentile(differences, (2.5, 97.5))
    values = a.metrics()[name], b.metrics()[name]
    right = a.correct(), b.correct()
    extra: dict[str, Any] = {"lower_is_better": lower_is_better(a)}
    if right[0] is not None and right[1] is not None:
        only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        extra |= {"only_a": only[0], "only_b": only[1], "p_value": mcnemar(*only)}
    return Comparison(name, *values, values[1] - values[0], float(low), float(high), n, **extra)


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided probability of a split at least as uneven as this when both are equally likely."""
    n, least = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)]
    top = max(logs)
    return min(1.0, 2 * math.exp(top) * sum(math.exp(x - top) for x in logs))
