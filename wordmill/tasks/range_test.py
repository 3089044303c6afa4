"""The learning-rate range test: raise the rate step by step until the loss bursts, and suggest one well before.

Smith 2017, arXiv 1506.01186.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wordmill.core.device import choose_device
from wordmill.core.errors import TrainingError
from wordmill.core.files import write_json, write_text
from wordmill.core.progress import SILENT, Reporter
from wordmill.core.svg import line_plot

STEPS = 80
LOWEST, HIGHEST = 0.01, 30.0
"""Factors on the planned learning rates between which the test runs."""


@dataclass(frozen=True)
class RangeTest:
    """What the test found. Factors multiply all learning rates of the optimiser's groups together."""

    factors: list[float]
    losses: list[float]
    """Smoothed loss at each factor, nats/token."""
    suggested: float
    """The factor at which the loss falls fastest."""
    rates: dict[str, float]
    """The learning rates that it means."""
    plot: str | None
    """The picture, when a folder was given."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        rates = " ".join(f"train.optim.{name}={rate:.3g}" for name, rate in self.rates.items())
        return f"the loss falls fastest at {self.suggested:.2g} × the planned rates: {rates}" + (
            f"\nplot: {self.plot}" if self.plot else ""
        )


def find_learning_rate(
    sources: Sequence[str | Path], *, out: Path | None = None, device: str = "auto", reporter: Reporter = SILENT, **settings: Any
) -> RangeTest:
    """Plan a run as `pretrain` would, then train `STEPS` steps while all rates rise together from 1/100 to 30 times the planned ones.

    Stops where the loss bursts. With `out`, the folder gets learning-rate.svg and learning-rate.json. Raises as `pretrain`.
    """
    import time

    from wordmill.core.files import new_folder
    from wordmill.tasks.plan import make_plan
    from wordmill.tasks.pretrain import asked_for, assemble, prepare
    from wordmill.train.distributed import World

    config = asked_for({**settings, "sources": [str(s) for s in sources]})
    place = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="wordmill-") as scratch:
        folder = new_folder(out) if out is not None else Path(scratch)
        data = prepare(config, folder, reporter)
        plan = make_plan(config, data.train, data.validation, data.tokenizer, place, 1, time.monotonic(), reporter)
        train = plan.train.replace(steps=STEPS, seconds=None, ema=0.0)
        plan.train = train
        run = assemble(config, plan, data, folder, place, World(), reporter)
        factors, losses = _sweep(run, reporter)
    best = suggest(factors, losses)
    optim = plan.train.optim
    rates = {name: rate * best for name, rate in optim.rates().items()}
    plot = None
    if out is not None:
        picture = line_plot(
            {
                "loss": [(math.log10(f), loss) for f, loss in zip(factors, losses, strict=True)],
                "suggested": [(math.log10(best), min(losses)), (math.log10(best), max(losses))],
            },
            title="Learning-rate range test",
            x_label="log₁₀ of the factor on the planned rates",
            y_label="smoothed loss, nats/token",
        )
        write_text(out / "learning-rate.svg", picture)
        plot = str(out / "learning-rate.svg")
    found = RangeTest(factors, losses, best, rates, plot)
    if out is not None:
        write_json(out / "learning-rate.json", found.plain())
    return found


def _sweep(run: Any, reporter: Reporter) -> tuple[list[float], list[float]]:
    """Factors tried and the smoothed loss at each, up to the burst."""
    from wordmill.train import loop
    from wordmill.train.checkpoint import step_seed

    factors, losses, smooth, best = [], [], 0.0, math.inf
    run.model.train()
    with reporter.task("learning-rate range test", total=STEPS) as task:
        for step in range(STEPS):
            factor = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            step_seed(run.config.seed, step, 0)
            batch = run.rows.batch(step)
            n = batch.n_targets
            loss = float(loop.gradients(run, batch.to(run.device), n)) / n
            if not math.isfinite(loss) or loss > best + 1.0:
                break
            run.optimizer.step(factor)
            smooth = 0.8 * smooth + 0.2 * loss
            factors.append(factor)
            losses.append(smooth / (1 - 0.8 ** (step + 1)))
            best = min(best, losses[-1])
            task.advance(loss=f"{losses[-1]:.3f}", factor=f"{factor:.2g}")
    if len(factors) < 10:
        raise TrainingError(
            "the loss bursts at once, so no learning rate can be suggested", fix="Lower the rates (train.optim.lr=…) and try again"
        )
    return factors, losses


def suggest(factors: list[float], losses: list[float]) -> float:
    """The factor where the loss falls fastest against its logarithm, over a window of seven points."""
    half = 3
    slopes = {i: losses[i + half] - losses[i - half] for i in range(half, len(losses) - half)}
    return factors[min(slopes, key=lambda i: slopes[i])]
