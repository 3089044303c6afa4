"""Learning-rate schedules: the factor on the learning rate as a pure function of how far the run is.

`progress` lies in (0, 1]: the share of the run done at the end of the step at hand, counted in steps (or in time, for
a run that was given a time). The last step has progress 1 and gets the floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from wordmill.core.config import Config


class ScheduleConfig(Config):
    """How the learning rate moves over a run."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "kind"), **dict.fromkeys(("warmup_ratio", "warmup_steps"), "warmup"),
    }  # fmt: skip
    kind: Literal["constant", "linear", "cosine", "wsd", "step"] = "wsd"
    """Constant; linear or cosine decay; warm-up–stable–decay (linear); or a drop at set shares of the run."""
    warmup: float = 0.02
    """Share of the run over which the rate rises from 0."""
    decay: float = 0.5
    """Share of the run over which `wsd` decays, at its end."""
    floor: float = 0.0
    """The factor at the end, as a share of the peak."""
    drops: tuple[float, ...] = (0.5, 0.75)
    """Where `step` drops, as shares of the run."""
    drop_factor: float = 0.1
    """What `step` multiplies by at each drop."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 <= self.warmup < 1 or not 0 <= self.decay <= 1:
            raise ValueError("warmup and decay are shares of the run, between 0 and 1")
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) overlap")
        return self


def factor(config: ScheduleConfig, progress: float) -> float:
    """The factor on the peak learning rate at `progress` in [0, 1]; 1 at the end of the warm-up."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return progress / config.warmup
    if config.kind == "constant":
        return 1.0
    if config.kind == "step":
        return max(config.floor, config.drop_factor ** sum(progress >= drop for drop in config.drops))
    if config.kind == "wsd":
        left = 1.0 if config.decay == 0 else min(1.0, (1.0 - progress) / config.decay)
        return config.floor + (1 - config.floor) * left
    done = (progress - config.warmup) / (1 - config.warmup)
    shape = 0.5 * (1 + math.cos(math.pi * done)) if config.kind == "cosine" else 1 - done
    return config.floor + (1 - config.floor) * shape
