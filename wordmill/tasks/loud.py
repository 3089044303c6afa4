"""Models that Muon trained, and how they go on learning.

Muon's rate for embeddings leaves weights 50 times as large as AdamW's. AdamW moves a weight by about its rate a step: at a rate that
suits small weights, such a model would stand still (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wordmill.core.lineage import read_lineage
from wordmill.models.heads import load_base
from wordmill.train.optim import OptimConfig

LOUD = 0.5
"""Root mean square of an embedding's weights above which a model from here was trained by Muon (0.06 in a BERT that AdamW trained)."""
LOUD_RATES: dict[str, Any] = {"kind": "muon", **{name: rate / 2 for name, rate in OptimConfig().rates().items()}, "beta1": 0.9,
                              "beta2": 0.99}  # fmt: skip
"""How such models go on learning: half the rates of pretraining."""


def is_loud(folder: str | Path) -> bool:
    """Whether this is a model from here with an embedding as large as Muon's rates make it (T5's are as large for reasons of their own)."""
    if not read_lineage(Path(folder)):
        return False
    weight = load_base(folder).embedding.weight
    return float(weight.float().square().mean().sqrt()) > LOUD


def open_to_muon(train: Mapping[str, Any]) -> bool:
    """Whether the settings of a training that were asked for name no other optimiser."""
    return bool(train.get("optim", {}).get("kind", "muon") == "muon")
