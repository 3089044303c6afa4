"""Models that Muon trained from new weights, and how they go on learning.

Muon's rates leave weights of another size than AdamW's: an embedding 50 times as large. AdamW moves a weight by about its rate a step: at a
rate that suits small weights, such a model would stand still; and at Muon's rates small weights would be lost (docs/log.md). So
`wordmill.json` says in `learned_by` which optimiser a model's weights learned by from the beginning, through all stages after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wordmill.core.errors import ConfigError
from wordmill.core.lineage import read_lineage
from wordmill.train.optim import OptimConfig

LOUD_RATES: dict[str, Any] = {"kind": "muon", **{name: rate / 2 for name, rate in OptimConfig().rates().items()}, "beta1": 0.9,
                              "beta2": 0.99}  # fmt: skip
"""How such models go on learning: half the rates of pretraining."""


def learned_by(folder: str | Path | None) -> str | None:
    """The optimiser by which the weights in a model folder learned from the beginning; None for weights from elsewhere."""
    found = read_lineage(Path(folder)).get("learned_by") if folder is not None else None
    return None if found is None else str(found)


def open_to_muon(train: Mapping[str, Any]) -> bool:
    """Whether the settings of a training that were asked for name no other optimiser."""
    return bool(train.get("optim", {}).get("kind", "muon") == "muon")


def asks_for_muon(train: Mapping[str, Any]) -> bool:
    """Whether the settings of a training that were asked for name Muon."""
    return bool(train.get("optim", {}).get("kind") == "muon")


def check_muon(train: Mapping[str, Any], parent: str | None, lr: float | None = None) -> None:
    """Raises `ConfigError` where Muon is asked for without its rates (`lr`: one that was given elsewhere), for weights that it did not
    train from the beginning."""
    given = {**train.get("optim", {}), **({} if lr is None else {"lr": lr})}
    missing = [name for name in OptimConfig().rates() if name not in given]
    if asks_for_muon(train) and missing:
        raise ConfigError(
            f"Muon's usual rates would wreck the weights of {parent}, which learned by another optimiser",
            where="train.optim.kind",
            fix="Leave it away, or give its rates too: " + ", ".join(f"train.optim.{name}=…" for name in missing),
        )
