"""LoRA: a frozen model learns through small matrices beside its own (Hu et al. 2021, arXiv 2106.09685).

    y = W x + b + Σ weight · scale · B (A x)        A (R, D) drawn at random, B (O, R) zero at first

A layer of ours may hold several of a family's stacked (queries, keys and values): it then has a pair (A, B) for the rows of each, as
PEFT's format has. Which layers are adapted, and how they are called in files, is in adapters.py.

Shapes: N rows, D inputs, O outputs (those of a pair), R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wordmill.core.config import Config
from wordmill.core.errors import UsageError, nearest
from wordmill.models.blocks import Linear
from wordmill.models.kernels import biased
from wordmill.models.meta import without_weights
from wordmill.models.ops import dropout

ALL = "all-linear"


class LoraConfig(Config):
    """One adapter."""

    @model_validator(mode="before")
    @classmethod
    def _rank_alone(cls, values: Any) -> Any:
        return {"rank": values} if isinstance(values, int) and not isinstance(values, bool) else values

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each matrix."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank, so that the learning rate need not follow the rank."""
    rslora: bool = False
    """Scale by alpha / √rank instead, for high ranks (arXiv 2312.03732)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's input dropped in training."""
    targets: tuple[str, ...] = Field(default=(ALL,), min_length=1)
    """Which layers: attention.qkv, attention.output, cross_attention.q, …, ffn.up, ffn.down, or a family's own names (q_proj, v_proj);
    all-linear: every linear layer of every block."""

    @property
    def scale(self) -> float:
        """Factor on B (A x)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class _Adapted(torch.autograd.Function):
    """x (N, D) through a frozen weight (O, D), plus what the pairs add: `spans` holds the first output row and the factor of each, `pairs`
    their A and B in turn. The pairs read `dropped` (x where None). Neither the weight's gradient nor a second output is ever made."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, spans: list[tuple[int, float]], *pairs: Tensor
    ) -> Tensor:
        out = torch.mm(x, weight.t()) if bias is None else biased(x, weight, bias)
        down, ups = torch.cat(pairs[::2]), pairs[1::2]
        read = x if dropped is None else dropped
        inner = torch.mm(read, down.t())
        for (start, scale), part, up in zip(spans, inner.split([up.shape[1] for up in ups], 1), ups, strict=True):
            out[:, start : start + len(up)].addmm_(part, up.t(), alpha=scale)
        ctx.save_for_backward(read, weight, down, inner, *ups)
        ctx.spans, ctx.same = spans, dropped is None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        read, weight, down, inner, *ups = ctx.saved_tensors
        ranks, learns = [up.shape[1] for up in ups], ctx.needs_input_grad[5:]
        parts = [grad[:, start : start + len(up)] for (start, _), up in zip(ctx.spans, ups, strict=True)]
        d_inner = torch.cat([part.mm(up) * scale for (_, scale), part, up in zip(ctx.spans, parts, ups, strict=True)], 1)
        d_x = grad.mm(weight) if ctx.needs_input_grad[0] else None
        d_dropped = None
        if ctx.same:
            d_x = None if d_x is None else d_x.addmm_(d_inner, down)
        elif ctx.needs_input_grad[1]:
            d_dropped = d_inner.mm(down)
        d_pairs: list[Tensor | None] = [None] * (2 * len(ups))
        if any(learns):
            d_pairs[::2] = d_inner.t().mm(read).split(ranks)
            states = inner.split(ranks, 1)
            d_pairs[1::2] = [part.t().mm(h) * scale for (_, scale), part, h in zip(ctx.spans, parts, states, strict=True)]
        return d_x, d_dropped, None, None, None, *d_pairs


class Pair(nn.Module):
    """A (R, D) and B (O, R) on the outputs from `start` on."""

    def __init__(self, a: Tensor, b: Tensor, start: int, scale: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.start, self.scale = start, scale


class LoraLinear(Linear):
    """A linear layer, frozen, and its adapters by name. The names of its own weight and bias stay as they were."""

    def __init__(self, base: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", base.weight.requires_grad_(False))
        self.register_parameter("bias", None if base.bias is None else base.bias.requires_grad_(False))
        self.adapters = nn.ModuleDict()
        """A list of pairs for each name."""
        self.active: dict[str, float] = {}
        """Those that count, and how much."""
        self.dropout = 0.0
        self.train(base.training)

    def pairs(self, name: str) -> list[Pair]:
        """The pairs of an adapter; none of one that is not here."""
        return [pair for pair in self.adapters[name] if isinstance(pair, Pair)] if name in self.adapters else []  # type: ignore[union-attr]

    def _found(self) -> list[tuple[float, Pair]]:
        """The pairs that count, with all factors on them."""
        return [(weight * pair.scale, pair) for name, weight in self.active.items() if weight for pair in self.pairs(name)]

    def forward(self, x: Tensor) -> Tensor:
        found = self._found()
        if not found:
            return super().forward(x)
        assert not self.weight.requires_grad, "an adapted layer is frozen"
        flat = x.reshape(-1, x.shape[-1])
        dropped = dropout(flat, self.dropout, True) if self.dropout and self.training else None
        spans = [(pair.start, factor) for factor, pair in found]
        pairs = [tensor for _, pair in found for tensor in (pair.a, pair.b)]
        return _Adapted.apply(flat, dropped, self.weight, self.bias, spans, *pairs).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight (O, D) that does all of this alone, in its own dtype; the sum is taken in float32 at least."""
        wide = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32), copy=True)
        for factor, pair in self._found():
            wide[pair.start : pair.start + len(pair.b)].addmm_(pair.b.to(wide.dtype), pair.a.to(wide.dtype), alpha=factor)
        return wide.to(self.weight.dtype)


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def adapter_names(model: nn.Module) -> list[str]:
    """The adapters that a model has, in the order in which they came."""
    return list(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.adapters))


def active_adapters(model: nn.Module) -> dict[str, float]:
    """Each adapter of a model, and how much it counts: 0 for one that is switched off."""
    active = {name: weight for layer in lora_layers(model).values() for name, weight in layer.active.items()}
    return {name: active.get(name, 0.0) for name in adapter_names(model)}


def use_adapters(model: nn.Module, weights: Mapping[str, float]) -> None:
    """Let these adapters count, with these weights, and no others; an empty mapping gives the base back.

    Raises `UsageError` for a name that the model has no adapter of, and as `checked_weight`.
    """
    known = adapter_names(model)
    for name in weights:
        if name not in known:
            raise UsageError(
                f"this model has no adapter {name!r}", fix=nearest(name, known) if known else "It has none at all: load one first"
            )
    active = {name: checked_weight(name, weight) for name, weight in weights.items()}
    for layer in lora_layers(model).values():
        layer.active = dict(active)


def checked_weight(name: str, weight: Any) -> float:
    """How much an adapter counts. Raises `UsageError` for what is no finite number."""
    try:
        found = float(weight)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"an adapter counts with a finite number, not {weight!r}", where=name)
    return found


def remove_adapter(model: nn.Module, name: str) -> None:
    """Forget an adapter. Raises `UsageError` for one that the model doesn't have."""
    if name not in adapter_names(model):
        raise UsageError(f"this model has no adapter {name!r}", fix=nearest(name, adapter_names(model)))
    for layer in lora_layers(model).values():
        layer.active.pop(name, None)
        if name in layer.adapters:
            del layer.adapters[name]


def merge_lora(model: nn.Module) -> None:
    """Write what the adapters that count add into the weights and take all adapters away. In float32 logits change by rounding
    alone; in bfloat16 the weights themselves are rounded."""
    for path, layer in lora_layers(model).items():
        with without_weights():
            plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight = nn.Parameter(layer.merged(), requires_grad=False)
        plain.bias = layer.bias
        replace_layer(model, path, plain.train(layer.training))


def replace_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put another module in a module's place."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """`state_dict` of the model without adapters that computes the same; the model stays as it is."""
    state: dict[str, Tensor] = model.state_dict()
    for path, layer in lora_layers(model).items():
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{path}.adapters.")}
        state[f"{path}.weight"] = layer.merged()
    return state
