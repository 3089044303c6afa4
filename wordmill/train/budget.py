"""From time to a run: how large a model, how many rows a step, for how long.

Two facts decide. A model of N weights learns from D tokens at a cost of about 6·N·D operations, so a fixed time buys
large models few tokens and small ones many; between the two lies a flat optimum that grows slower than the time. And
machines differ, so the speed is measured here, with steps of the very model that will be trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from wordmill.batches.batch import Batch
from wordmill.core.errors import ConfigError, nearest
from wordmill.core.progress import human_count
from wordmill.models import recurrent, transformer
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.families import families, family
from wordmill.models.folder import LanguageModel, build_model
from wordmill.models.kernels import flushed_denormals
from wordmill.models.meta import without_weights
from wordmill.train.objectives import Objective
from wordmill.train.optim import OptimConfig, Optimizer


class Rows(Protocol):
    """Where batches come from: a pure function of the step."""

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Rows first…last of a step."""


SHAPES = (
    (64, 2),
    (128, 2),
    (128, 3),
    (192, 3),
    (192, 4),
    (256, 4),
    (256, 6),
    (320, 5),
    (384, 6),
    (448, 7),
    (512, 8),
    (640, 10),
    (768, 12),
    (1024, 16),
    (1280, 20),
    (1536, 24),
)
"""Width and layers of the models that the planner chooses among: about 64 of width a layer."""

OPTIMUM = (0.4e6, 3e13, 0.5)
"""The best number of weights inside the blocks: OPTIMUM[0] · (operations / OPTIMUM[1]) ** OPTIMUM[2]; from benchmarks/budget_curve.py."""

ROWS_SHARE = 1000
"""A step holds about 1/1000 of all tokens of the run: fewer steps learn too little, more are too noisy and cost optimiser time."""


def count_parameters(config: ModelConfig) -> int:
    """Weights of a model, tied ones once; built on the meta device, so that nothing is allocated."""
    with without_weights():
        return sum(p.numel() for p in build_model(config).parameters())


def block_parameters(config: ModelConfig) -> int:
    """Weights without embeddings and output layer."""
    with without_weights():
        return sum(
            p.numel() for name, p in build_model(config).named_parameters() if "embedding" not in name and not name.startswith("head")
        )


def flops_per_token(config: ModelConfig, context: int) -> float:
    """Operations to train on one token, forward and backward."""
    return (
        recurrent.flops_per_token(config, context) if isinstance(config, RecurrentConfig) else transformer.flops_per_token(config, context)
    )


RECURRENT = ("lstm", "gru")


def family_shape(name: str, width: int, layers: int) -> dict[str, Any]:
    """The settings of a model of that width from scratch: heads of 64, a feed-forward part of 4 times the width (8/3 when gated),
    and what makes it one of its family. An encoder–decoder has as many blocks on each side.

    Raises `ConfigError` for a family that there is not.
    """
    if name in RECURRENT:
        return {"cell": name, "embedding_size": width, "hidden_size": width, "layers": 2}
    known = families()
    if name not in known:
        raise ConfigError(f"no family {name!r} to train from scratch", where="--model", fix=nearest(name, (*known, *RECURRENT)))
    kind = known[name]
    heads = max(1, width // 64)
    kv = heads if heads <= 8 or not kind.grouped else next(n for n in (heads // 2, heads // 3, heads) if n and heads % n == 0)
    gated = kind.parts.get("gated", True)
    sides = {"encoder_layers": layers} if "encoder_layers" in kind.parts else {}
    return {"family": name, **kind.parts, **kind.by_width(width), **sides, "width": width, "layers": layers, "heads": heads, "kv_heads": kv,
            "head_size": min(64, width), "ffn_size": 64 * round(width * 8 / 3 / 64) if gated else 4 * width}  # fmt: skip


def model_config(name: str, values: dict[str, Any]) -> ModelConfig:
    """Settings of the family's kind. Raises `ConfigError` for a value that does not fit."""
    if name in RECURRENT:
        return RecurrentConfig.of(values, where="model")
    config = TransformerConfig.of(values, where="model")
    if config.position_offset:  # where positions start may follow from the padding token's id (RoBERTa), which is the tokenizer's
        config = config.replace(position_offset=family(name).from_hf(family(name).to_hf(config))["position_offset"])
    return config


SIZES = ("width", "layers", "heads", "kv_heads", "head_size", "ffn_size", "hidden_size", "embedding_size")
"""Settings that decide how many weights a model has."""


def sizes(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's settings in two: those that decide how many weights it has, and the rest."""
    own = {name: value for name, value in settings.items() if name in SIZES}
    return own, {name: value for name, value in settings.items() if name not in SIZES}


def for_size(name: str, parameters: float, common: dict[str, Any], own: Mapping[str, Any] | None = None) -> ModelConfig:
    """The shape whose number of weights (all of them) is nearest to `parameters`, by ratio, among those that have the sizes in `own`.

    Raises `ConfigError` when even the smallest is more than twice, or the largest less than half as large.
    """
    own = own or {}
    configs: list[ModelConfig] = []
    refused: ConfigError | None = None
    for width, layers in SHAPES:
        values = family_shape(name, int(own.get("width") or own.get("hidden_size") or width), int(own.get("layers") or layers))
        try:
            configs.append(model_config(name, {**values, **common, **own}))
        except ConfigError as error:  # so many heads don't fit every width
            refused = error
    if not configs and refused is not None:
        raise refused
    best = min(configs, key=lambda config: abs(math.log(count_parameters(config) / parameters)))
    if not 0.5 < count_parameters(best) / parameters < 2:
        counts = sorted(map(count_parameters, configs))
        smallest, largest = human_count(counts[0]), human_count(counts[-1])
        among = "".join(f" and model.{name}={value}" for name, value in own.items())
        span = f"Choose between {smallest} and {largest}" if smallest != largest else f"That gives {smallest}"
        raise ConfigError(
            f"no {name} of {human_count(parameters)} weights with this vocabulary{among}",
            where="--size",
            fix=f"{span}, or {'leave one of them away' if own else 'set model.width=… and model.layers=…'}",
        )
    return best


def for_operations(name: str, operations: float, common: dict[str, Any]) -> ModelConfig:
    """The shape that learns most from that many operations (see `OPTIMUM`)."""
    wanted = OPTIMUM[0] * (operations / OPTIMUM[1]) ** OPTIMUM[2]
    configs = [model_config(name, {**family_shape(name, *s), **common}) for s in SHAPES]
    return min(configs, key=lambda config: abs(math.log(block_parameters(config) / wanted)))


def step_flops(model: LanguageModel, batch: Batch, context: int) -> float:
    """Operations to train on a batch, forward and backward."""
    config = model.config
    if isinstance(config, RecurrentConfig):
        return batch.n_tokens * recurrent.flops_per_token(config, context)
    read = int((batch.positions >= 0).sum())
    few = batch.n_targets if (batch.prefix is not None or not config.causal) and not getattr(model, "uniform", False) else None
    return transformer.training_flops(config, context, read, batch.n_targets, source=batch.n_tokens - read, states=few)


@dataclass(frozen=True)
class Speed:
    """What one training step costs on this machine."""

    seconds: float
    """For one step."""
    tokens: float
    """Read in that step."""
    flops: float
    """Operations of that step."""
    reading: float
    """Tokens a second when the model only reads (validation)."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens read a second."""
        return self.tokens / self.seconds

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds


@flushed_denormals()
def measure_speed(model: LanguageModel, objective: Objective, rows: Rows, optim: OptimConfig, micro_rows: int, *, seconds: float) -> Speed:
    """Time whole training steps (forward, backward, optimiser) on the very rows that will be trained on; the model is spoilt by it.

    At least two steps after one to warm up, then as many as fit into `seconds`; the median counts.
    """
    device = next(model.parameters()).device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    optimizer = Optimizer(model, optim)
    model.train()
    times: list[float] = []
    tokens, flops = 0, 0.0
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        batch = rows.batch(len(times))
        state: Any = None
        for first in range(0, len(batch.input_ids), micro_rows):
            found = objective(model, batch.rows(first, first + micro_rows).to(device), state)
            (found.loss_sum / max(1, batch.n_targets)).backward()
            optimizer.collect()
        optimizer.step(1.0)  # as in training: updates too small would make numbers that a CPU is slow with
        wait()
        times.append(time.perf_counter() - start)
        tokens, flops = tokens + batch.n_tokens, flops + step_flops(model, batch, batch.input_ids.shape[1])
    steady = sorted(times[1:])
    n = len(times)
    learning = sum(p.numel() for p in optimizer.parameters.values()) / sum(p.numel() for p in model.parameters())
    flops *= (2 + learning) / 3  # a frozen weight takes part in two of its three products: forward, and the gradient of what it reads
    return Speed(steady[len(steady) // 2], tokens / n, flops / n, _reading(model, objective, rows, micro_rows, wait))


def _reading(model: LanguageModel, objective: Objective, rows: Rows, micro_rows: int, wait: Callable[[], object]) -> float:
    """Tokens a second of reading without gradients, the output layer included; the better of two tries."""
    device = next(model.parameters()).device
    batch = rows.batch(0)
    batch = batch.rows(0, micro_rows).to(device)
    best = math.inf
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            objective(model, batch)
            wait()
            best = min(best, time.perf_counter() - start)
    return batch.n_tokens / best


def rows_for(tokens: float, context: int) -> int:
    """Rows a step for a run of that many tokens: a power of two, from about 2,000 to 500,000 tokens a step."""
    wanted = min(max(tokens / ROWS_SHARE, 2048), 524_288) / context
    return max(1, 2 ** round(math.log2(wanted)))


def regularisation(epochs: float) -> dict[str, float]:
    """Dropout, weight decay and averaging for a corpus that is seen `epochs` times: none is needed below about two."""
    if epochs <= 2:
        return {"dropout": 0.0, "weight_decay": 0.0, "ema": 0.0}
    return {"dropout": 0.1 if epochs <= 10 else 0.2, "weight_decay": 0.1, "ema": 0.99}
