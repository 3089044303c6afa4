"""Optimisers: Muon for the matrices inside the model, AdamW (or Adam, SGD) for everything else.

The model may hold bfloat16 weights: the float32 masters live here. Each step reads the gradients, updates the masters
and writes them back to the model. Which weight gets which rule is decided once, in `assign`, and can be listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wordmill.core.config import Config
from wordmill.models import kernels


class OptimConfig(Config):
    """The optimiser and its rates."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {
        "optimizer": "kind", "learning_rate": "lr", "adam_beta1": "beta1", "adam_beta2": "beta2", "adam_epsilon": "eps",
    }  # fmt: skip
    kind: Literal["muon", "adamw", "adam", "sgd"] = "muon"
    """`muon`: Muon for matrices inside the model and AdamW for the rest; the others: one rule for all weights."""
    matrix_lr: float = Field(default=0.03, ge=0)
    """Muon's learning rate: the size of an update's entries relative to an orthogonal matrix."""
    lr: float = Field(default=6e-3, ge=0)
    """Learning rate of AdamW, Adam or SGD (with `muon`: for norms, biases and whatever is not listed below)."""
    embedding_lr: float = Field(default=0.28, ge=0)
    """AdamW's learning rate for embeddings under `muon`, where the output layer is not tied to them."""
    head_lr: float = Field(default=6e-3, ge=0)
    """AdamW's learning rate for the output layer under `muon`, and for embeddings where it is tied to them."""
    beta1: float = 0.8
    """Decay of AdamW's first moment."""
    beta2: float = 0.95
    """Decay of AdamW's second moment."""
    eps: float = 1e-10
    """Added to the root of AdamW's second moment."""
    momentum: float = 0.95
    """Momentum of Muon (Nesterov) and SGD."""
    weight_decay: float = 0.0
    """Weight decay of matrices, times the learning rate; never on norms, biases or embeddings. Decoupled from the gradient, but for
    `adam` and `sgd`, which add it to the gradient as they always did."""
    ns_steps: int = 5
    """Newton–Schulz iterations of Muon."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate for each layer further from the output: the last block and all after it learn at the full rate, the
    embedding at the lowest (1: all alike). Howard and Ruder 2018, arXiv 1801.06146."""

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if not any(self.rates().values()):
            raise ValueError(f"nothing would be learned: {' and '.join(self.rates())} {'is' if len(self.rates()) == 1 else 'are'} 0")
        return self

    def rates(self) -> dict[str, float]:
        """The peak learning rates that are in use, by the names of their settings."""
        names = ("matrix_lr", "embedding_lr", "head_lr", "lr") if self.kind == "muon" else ("lr",)
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Group:
    """Weights that share a rule."""

    rule: str
    """`muon`, `adamw`, `adam` or `sgd`."""
    names: tuple[str, ...]
    """Names of the model's parameters."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay, times the learning rate."""


def assign(model: nn.Module, config: OptimConfig) -> list[Group]:
    """Each parameter that learns to exactly one group; a tied weight appears once (named_parameters gives it once).

    Norms, biases and embeddings get no weight decay. Empty groups are left out. Embeddings of places and kinds are added to that of tokens
    and learn at its rate: at a larger one they would drown it.
    """
    tied = getattr(getattr(model, "config", None), "tie_embeddings", False)
    kinds: dict[str, list[str]] = {"matrix": [], "embedding": [], "output": [], "vector": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or "bias" in name:  # first of all: an embedding may have a norm of its own
            kinds["vector"].append(name)
        elif "embedding" in name:
            kinds["embedding"].append(name)
        else:
            kinds["output" if name.startswith(OUTPUTS) else "matrix"].append(name)
    decay = config.weight_decay
    if config.kind == "muon":
        groups = [
            Group("muon", tuple(kinds["matrix"]), config.matrix_lr, decay),
            Group("adamw", tuple(kinds["embedding"]), config.head_lr if tied else config.embedding_lr, 0.0),
            Group("adamw", tuple(kinds["output"]), config.head_lr, 0.0),
            Group("adamw", tuple(kinds["vector"]), config.lr, 0.0),
        ]
    else:
        groups = [
            Group(config.kind, tuple(kinds["matrix"] + kinds["output"]), config.lr, decay),
            Group(config.kind, tuple(kinds["embedding"] + kinds["vector"]), config.lr, 0.0),
        ]
    if config.layer_decay < 1:
        last = max((at for group in groups for at in map(depth, group.names) if at != BEHIND), default=0)
        groups = [part for group in groups for part in _by_depth(group, config.layer_decay, last)]
    return [group for group in groups if group.names]


OUTPUTS = ("head.", "out.", "crf.")
"""How the names of matrices begin whose rows are answers (tokens, labels): each is a vector of its own, so that Muon is not for them."""


def _by_depth(group: Group, decay: float, last: int) -> list[Group]:
    """A group taken apart by how far its weights are from the output; `last`: the depth of the last block."""
    found: dict[int, list[str]] = {}
    for name in group.names:
        found.setdefault(depth(name), []).append(name)
    return [
        Group(group.rule, tuple(names), group.lr * (1.0 if at == BEHIND else decay ** (last - at)), group.weight_decay)
        for at, names in sorted(found.items())
    ]


BEHIND = 10**6
"""The depth of what stands behind all blocks."""


def depth(name: str) -> int:
    """How deep a parameter lies: 0 for embeddings, 1 for the first block, …, `BEHIND` for norms, layers and heads after the last.
    In an encoder–decoder the blocks of both sides count alike."""
    block = re.search(r"(?:blocks|layers|back)\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 0 if "embedding" in name or "relative_bias" in name else BEHIND


class Optimizer:
    """All groups with their masters and moments. `step(factor)` applies one update with the learning rates times `factor`."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.config, self.model = config, model
        self.groups = assign(model, config)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.master: dict[str, Tensor] = {
            name: p.detach().float().clone() if p.dtype in (torch.bfloat16, torch.float16) else p.detach()
            for name, p in self.parameters.items()
        }
        self.first: dict[str, Tensor] = {name: torch.zeros_like(w) for name, w in self.master.items()}
        adam = [name for g in self.groups if g.rule in ("adamw", "adam") for name in g.names]
        self.second: dict[str, Tensor] = {name: torch.zeros_like(self.master[name]) for name in adam}
        # Adam's moments start at zero in a weight's own first step, which is later for weights that are unfrozen on the way.
        self.count: dict[str, Tensor] = {name: torch.zeros((), device=self.master[name].device) for name in adam}
        self.gradient: dict[str, Tensor] = {}
        self._parts = model.matrix_parts() if hasattr(model, "matrix_parts") else {}
        self._factors = model.matrix_factors() if hasattr(model, "matrix_factors") else {}

    def collect(self) -> None:
        """Move the gradients of a micro-batch out of the model and add them up in the masters' precision."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            if name in self.gradient:
                kernels.add_(self.gradient[name], parameter.grad)
            else:
                self.gradient[name] = parameter.grad.to(self.master[name].dtype)
            parameter.grad = None

    def gradient_norm(self) -> Tensor:
        """Euclidean norm over all gradients collected."""
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(self.gradient.values()))))

    def scale_gradients(self, by: float | Tensor) -> None:
        """Multiply all collected gradients (clipping)."""
        torch._foreach_mul_(list(self.gradient.values()), by)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update from the collected gradients, which are dropped afterwards."""
        for group in self.groups:
            names = [name for name in group.names if name in self.gradient]
            if not names:
                continue
            if group.rule == "muon":
                self._muon(names, group, factor)
            elif group.rule == "sgd":
                self._sgd(names, group, factor)
            else:
                self._adam(names, group, factor)
        self.gradient.clear()
        self.write_back()

    def write_back(self) -> None:
        """Copy the masters into the model's own weights, where these are not the same tensors."""
        pairs = [(p.data, self.master[name]) for name, p in self.parameters.items() if p.data_ptr() != self.master[name].data_ptr()]
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [w for _, w in pairs])

    def _decay(self, names: list[str], group: Group, rate: float) -> None:
        if group.weight_decay:
            torch._foreach_mul_([self.master[name] for name in names], 1 - rate * group.weight_decay)

    def _sgd(self, names: list[str], group: Group, factor: float) -> None:
        weights, moments, gradients = ([tensors[n] for n in names] for tensors in (self.master, self.first, self.gradient))
        torch._foreach_mul_(moments, self.config.momentum)
        torch._foreach_add_(moments, gradients)
        if group.weight_decay:
            torch._foreach_add_(moments, weights, alpha=group.weight_decay)
        torch._foreach_add_(weights, moments, alpha=-group.lr * factor)

    def _adam(self, names: list[str], group: Group, factor: float) -> None:
        c, rate = self.config, group.lr * factor
        step = torch._fused_adamw_ if group.rule == "adamw" else torch._fused_adam_
        weights = [self.master[n] for n in names]
        counts = [self.count[n] for n in names]
        torch._foreach_add_(counts, 1.0)
        step(weights, [self.gradient[n] for n in names], [self.first[n] for n in names], [self.second[n] for n in names], [], counts,
             lr=rate, beta1=c.beta1, beta2=c.beta2, weight_decay=group.weight_decay, eps=c.eps, amsgrad=False, maximize=False)  # fmt: skip

    def _muon(self, names: list[str], group: Group, factor: float) -> None:
        """Momentum, orthogonalised: matrices of one shape go through Newton–Schulz together."""
        rate = group.lr * factor
        self._decay(names, group, rate)
        gradients, moments = [self.gradient[n] for n in names], [self.first[n] for n in names]
        torch._foreach_lerp_(moments, gradients, 1 - self.config.momentum)
        torch._foreach_lerp_(gradients, moments, self.config.momentum)  # Nesterov: look ahead along the momentum
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}
        narrow = self.parameters[names[0]].dtype if gradients[0].is_cpu else torch.bfloat16  # a CPU without bfloat16 products would crawl
        for name, update in zip(names, gradients, strict=True):
            weight, parts = self.master[name], self._parts.get(name)
            weight, update = weight.flatten(1), update.flatten(1)
            pieces = list(zip(weight.split(parts), update.split(parts), strict=True)) if parts else [(weight, update)]
            for (w, u), by in zip(pieces, self._factors.get(name, [1.0] * len(pieces)), strict=True):
                flip = u.shape[0] > u.shape[1]
                shapes.setdefault((min(u.shape), max(u.shape)), []).append((w.t(), u.t(), by) if flip else (w, u, by))
        for (rows, columns), pairs in shapes.items():
            flat = orthogonalise(torch.stack([u.to(narrow) for _, u, _ in pairs]), self.config.ns_steps)
            # An update whose entries have the same size in tall and wide matrices: √(out/in) for tall ones.
            for (w, _, by), o in zip(pairs, flat, strict=True):
                tall = w.stride(0) < w.stride(1)
                w.add_(o.to(w.dtype), alpha=-rate * by * (math.sqrt(columns / rows) if tall else 1.0))

    def state(self) -> dict[str, Tensor]:
        """All tensors that a checkpoint needs, by name."""
        parts = {"master": self.master, "first": self.first, "second": self.second, "count": self.count}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
        self.write_back()


COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(x: Tensor, steps: int) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: all singular values pulled to about 1 by Newton–Schulz.

    x (n, rows, columns) with rows ≤ columns, in any dtype: it is stable in bfloat16 too. Jordan et al. 2024
    (kellerjordan.github.io/posts/muon), quintic iteration.
    """
    a, b, c = COEFFICIENTS
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x
