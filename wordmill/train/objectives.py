"""Objectives: what a model is asked, as a sum over targets.

An objective never averages. The loop divides the sum over a whole step (all micro-batches, all ranks) by the number of
targets of the whole step, so that every target weighs the same however the step is cut up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from torch import Tensor

from wordmill.batches.batch import Batch
from wordmill.core.errors import UsageError
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


class Encoder(Protocol):
    """What the denoising objectives need of an encoder–decoder beside `forward(…, memory=memory)`."""

    def encode(self, ids: Tensor, positions: Tensor, documents: Tensor | None) -> Any: ...


def causal(model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
    """Predict each next token: −Σ log p(target | tokens before it in its document)."""
    hidden, state = read(model, batch, state)
    return LossSum(output_loss(model, hidden.flatten(0, -2), batch.targets.flatten()), batch.n_targets, state)


def masked(model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
    """Predict the hidden tokens from both sides (BERT): −Σ log p(target | all that is shown). The output layer works on the targets that
    count alone, some 15 % of the tokens. Raises `UsageError` for a model whose tokens see only those before them."""
    if getattr(model.config, "causal", True):
        raise UsageError("masked language modelling needs a model that looks both ways", fix="Take an encoder (model.causal=false)")
    return LossSum(output_loss(model, *counted(model, batch)), batch.n_targets)


def denoise(model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
    """Read a corrupted text and write what was hidden (T5) or the whole (BART): −Σ log p(target | source, targets before it)."""
    assert batch.source is not None
    return LossSum(output_loss(model, *counted(model, batch)), batch.n_targets)


def prefix(model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
    """Predict each next token after a prefix that is seen from both directions: −Σ log p(target | prefix, targets before it)."""
    assert batch.prefix is not None
    return LossSum(output_loss(model, *counted(model, batch)), batch.n_targets)


def read(model: LanguageModel, batch: Batch, state: Any = None, *, only: Tensor | None = None) -> tuple[Tensor, Any]:
    """Hidden states (B, T, D) of a batch, or (N, D) of the places `only` of it, and the state after it: what a batch holds says how it is
    read."""
    call: Callable[..., tuple[Tensor, Any]] = model
    if only is not None:
        call = partial(call, only=only)
    if batch.types is not None:
        call = partial(call, types=batch.types)
    if batch.source is not None:
        source, encoder = batch.source, cast(Encoder, model)
        memory = encoder.encode(source.input_ids, source.positions, source.documents)
        return call(batch.input_ids, batch.positions, batch.documents, None, memory=memory)
    if batch.prefix is not None:
        return call(batch.input_ids, batch.positions, batch.documents, None, prefix=batch.prefix)
    return call(batch.input_ids, batch.positions, batch.documents, state)


def counted(model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """The states (N, D) of a batch at the places whose targets count (`Batch.places`), and these targets (N,)."""
    places = batch.places
    return read(model, batch, only=places)[0], batch.targets.flatten().index_select(0, places)


def output_loss(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """−Σ log p(target) in nats of hidden states (N, D) and targets (N,): the output layer and its loss, the same for all objectives."""
    weight, bias = model.output_layer()
    softcap = getattr(model.config, "logit_softcap", 0.0)
    return linear_cross_entropy(model.head_input(hidden), weight, bias, targets, softcap=softcap)


OBJECTIVES: dict[str, Objective] = {"clm": causal, "mlm": masked, "denoise": denoise, "infill": denoise, "prefix": prefix}
"""By name; the rows that belong to each are in batches/pack.py (clm) and batches/corrupted.py."""
