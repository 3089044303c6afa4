"""Objectives: what a model is asked, as a sum over targets.

An objective never averages. The loop divides the sum over a whole step (all micro-batches, all ranks) by the number of
targets of the whole step, so that every target weighs the same however the step is cut up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from wordmill.batches.batch import Batch
from wordmill.models.folder import LanguageModel
from wordmill.models.ops import linear_cross_entropy


@dataclass(frozen=True)
class LossSum:
    """The outcome of one forward pass."""

    loss_sum: Tensor
    """Scalar: the loss in nats, summed over the targets that count."""
    n_targets: int
    """How many those are."""
    state: Any = None
    """What a recurrent model carries to the next step."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further numbers for the log, as sums."""


class Objective(Protocol):
    """The signature of all objectives."""

    def __call__(self, model: LanguageModel, batch: Batch, state: Any = None) -> LossSum: ...


def causal(model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
    """Predict each next token: −Σ log p(target | tokens before it in its document)."""
    hidden, state = model(batch.input_ids, batch.positions, batch.documents, state)
    weight, bias = model.output_layer()
    softcap = getattr(model.config, "logit_softcap", 0.0)
    loss_sum = linear_cross_entropy(model.head_input(hidden).flatten(0, -2), weight, bias, batch.targets.flatten(), softcap=softcap)
    return LossSum(loss_sum, batch.n_targets, state)


OBJECTIVES: dict[str, Objective] = {"clm": causal}
