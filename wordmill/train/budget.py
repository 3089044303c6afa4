"""From time to a run: how large a model, how many rows a step, for how long.

Two facts decide. A model of N weights learns from D tokens at a cost of about 6·N·D operations, so a fixed time buys
large models few tokens and small ones many; between the two lies a flat optimum that grows slower than the time. And
machines differ, so the speed is measured here, with steps of the very model that will be trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wordmill.batches.batch import Batch
from wordmill.core.errors import ConfigError
from wordmill.core.progress import human_count
from wordmill.models import recurrent, transformer
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.folder import LanguageModel, build_model
from wordmill.models.ops import token_losses
from wordmill.train.objectives import causal
from wordmill.train.optim import OptimConfig, Optimizer

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
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


def block_parameters(config: ModelConfig) -> int:
    """Weights without embeddings and output layer."""
    with torch.device("meta"):
        return sum(
            p.numel() for name, p in build_model(config).named_parameters() if "embedding" not in name and not name.startswith("head")
        )


def flops_per_token(config: ModelConfig, context: int) -> float:
    """Operations to train on one token, forward and backward."""
    return (
        recurrent.flops_per_token(config, context) if isinstance(config, RecurrentConfig) else transformer.flops_per_token(config, context)
    )


def shape(width: int, layers: int, **given: Any) -> dict[str, Any]:
    """The settings of a decoder of that width: heads of 64, a gated feed-forward part of 8/3 the width."""
    heads = max(1, width // 64)
    kv = heads if heads <= 8 else next(n for n in (heads // 2, heads // 3, heads) if n and heads % n == 0)
    return {
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv,
        "head_size": 64,
        "ffn_size": 64 * round(width * 8 / 3 / 64),
        **given,
    }


def family_shape(family: str, width: int, layers: int) -> dict[str, Any]:
    """The same for any family that can be trained from scratch."""
    if family == "gpt2":
        heads = max(1, width // 64)
        return {"family": "gpt2", "width": width, "layers": layers, "heads": heads, "kv_heads": heads, "head_size": min(64, width),
                "ffn_size": 4 * width, "activation": "gelu_tanh", "gated": False, "norm": "layernorm", "norm_eps": 1e-5,
                "qk_norm": False, "positions": "learned", "attention_bias": True, "output_bias": True, "ffn_bias": True}  # fmt: skip
    if family in ("lstm", "gru"):
        return {"cell": family, "embedding_size": width, "hidden_size": width, "layers": 2}
    if family == "qwen3":
        return {"family": family, **shape(width, layers)}
    raise ConfigError(f"no family {family!r} to train from scratch", where="--model", fix="Known: qwen3, gpt2, lstm, gru")


def model_config(family: str, values: dict[str, Any]) -> ModelConfig:
    """Settings of the family's kind. Raises `ConfigError` for a value that does not fit."""
    return RecurrentConfig.of(values, where="model") if family in ("lstm", "gru") else TransformerConfig.of(values, where="model")


def for_size(family: str, parameters: float, common: dict[str, Any]) -> ModelConfig:
    """The shape whose number of weights (all of them) is nearest to `parameters`, by ratio.

    Raises `ConfigError` when even the smallest is more than twice, or the largest less than half as large.
    """
    configs = [model_config(family, {**family_shape(family, *s), **common}) for s in SHAPES]
    best = min(configs, key=lambda config: abs(math.log(count_parameters(config) / parameters)))
    ratio = count_parameters(best) / parameters
    if not 0.5 < ratio < 2:
        smallest, largest = (human_count(count_parameters(configs[i])) for i in (0, -1))
        raise ConfigError(
            f"no {family} of {human_count(parameters)} weights with this vocabulary",
            where="--size",
            fix=f"Choose between {smallest} and {largest}, or set model.width=… and model.layers=…",
        )
    return best


def for_operations(family: str, operations: float, common: dict[str, Any]) -> ModelConfig:
    """The shape that learns most from that many operations (see `OPTIMUM`)."""
    wanted = OPTIMUM[0] * (operations / OPTIMUM[1]) ** OPTIMUM[2]
    configs = [model_config(family, {**family_shape(family, *s), **common}) for s in SHAPES]
    return min(configs, key=lambda config: abs(math.log(block_parameters(config) / wanted)))


@dataclass(frozen=True)
class Speed:
    """What one training step costs on this machine."""

    seconds: float
    """For one step."""
    targets: int
    """In that step."""
    flops: float
    """Operations of that step."""
    reading: float
    """Tokens a second when the model only reads (validation)."""

    @property
    def tokens_per_second(self) -> float:
        """Targets a second."""
        return self.targets / self.seconds

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds


def measure_speed(model: LanguageModel, optim: OptimConfig, context: int, rows: int, micro_rows: int, *, seconds: float) -> Speed:
    """Time whole training steps (forward, backward, optimiser) on random tokens; the model is spoilt by it.

    At least two steps after one to warm up, then as many as fit into `seconds`; the median counts.
    """
    device = next(model.parameters()).device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    generator = torch.Generator().manual_seed(0)
    optimizer = Optimizer(model, optim)
    model.train()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for first in range(0, rows, micro_rows):
            n = min(micro_rows, rows - first)
            ids = torch.randint(0, model.config.vocab_size, (n, context + 1), generator=generator)
            batch = Batch(ids[:, :-1], ids[:, 1:], torch.arange(context).expand(n, context), None).to(device)
            (causal(model, batch).loss_sum / (rows * context)).backward()
            optimizer.collect()
        optimizer.step(1.0)  # as in training: updates too small would make numbers that a CPU is slow with
        wait()
        times.append(time.perf_counter() - start)
    steady = sorted(times[1:])
    return Speed(
        steady[len(steady) // 2], rows * context, rows * context * flops_per_token(model.config, context), _reading(model, context, wait)
    )


def _reading(model: LanguageModel, context: int, wait: Callable[[], object]) -> float:
    """Tokens a second of scoring without gradients, the output layer included; the better of two tries."""
    rows = max(1, 8192 // context)
    ids = torch.zeros(rows, context, dtype=torch.int64, device=next(model.parameters()).device)
    best = math.inf
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            hidden, _ = model(ids)
            token_losses(model.head_input(hidden).flatten(0, -2), *model.output_layer(), ids.flatten())
            wait()
            best = min(best, time.perf_counter() - start)
    return rows * context / best


def rows_for(tokens: float, context: int) -> int:
    """Rows a step for a run of that many tokens: a power of two, from about 2,000 to 500,000 tokens a step."""
    wanted = min(max(tokens / ROWS_SHARE, 2048), 524_288) / context
    return max(1, 2 ** round(math.log2(wanted)))


def regularisation(epochs: float) -> dict[str, float]:
    """Dropout, weight decay and averaging for a corpus that is seen `epochs` times: none is needed below about two."""
    if epochs <= 2:
        return {"dropout": 0.0, "weight_decay": 0.0, "ema": 0.0}
    return {"dropout": 0.1 if epochs <= 10 else 0.2, "weight_decay": 0.1, "ema": 0.99}
