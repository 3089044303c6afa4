"""The Transformer: one module for every family, its parts named by `TransformerConfig`.

    tokens ─ embedding ─ [ norm ─ attention ─ + ─ norm ─ feed-forward ─ + ] × layers ─ norm ─ hidden ─ output layer ─ logits

Shapes: B batch, T tokens, S keys, D width, H query heads, G key/value heads, K head size, F inner size, V vocabulary.
A position of −1 marks padding. The same call trains, scores and decodes: `hidden, state = model(ids, positions, …)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordmill.models import kernels
from wordmill.models.cache import KVCache
from wordmill.models.config import TransformerConfig
from wordmill.models.ops import attend, dropout, rms_norm, rotary_table, rotate

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension."""

    def __init__(self, size: int, kind: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if kind == "layernorm" else None

    def forward(self, x: Tensor) -> Tensor:
        if kernels.usable(x):
            return kernels.norm(x, self.weight, self.bias, self.eps)
        if self.bias is None:
            return rms_norm(x, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Linear(nn.Linear):
    """A linear layer whose gradients are fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, O)."""
        return kernels.linear(x, self.weight, self.bias) if kernels.usable(x) else F.linear(x, self.weight, self.bias)


class View(NamedTuple):
    """What all layers of one forward pass share: who sees whom, and where everybody stands."""

    biases: dict[int, Tensor | None]
    """For each window size, the additive mask (B or 1, 1, T, S), or None where plain causal or full attention is right."""
    rotary: tuple[Tensor, Tensor] | None
    cache: KVCache | None
    first: dict[int, Tensor | None] | None
    """For each window size, the first key that each query sees (B, T), where the CPU kernels serve; else None."""


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads. `qkv` holds the rows of all query heads, then keys, then values."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.groups, self.size = layer, config.heads, config.kv_heads, config.head_size
        self.eps = config.norm_eps
        self.window, self.causal = config.windows[layer % len(config.windows)], config.causal
        self.qkv = Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_size, bias=config.attention_bias)
        self.output = Linear(config.heads * config.head_size, config.width, bias=config.output_bias)
        self.q_norm = Norm(config.head_size, "rmsnorm", config.norm_eps) if config.qk_norm else None
        self.k_norm = Norm(config.head_size, "rmsnorm", config.norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, view: View) -> Tensor:
        batch, length, _ = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, length, self.heads + 2 * self.groups, self.size)
        if view.first is not None:
            q_weight = self.q_norm.weight if self.q_norm is not None else None
            k_weight = self.k_norm.weight if self.k_norm is not None else None
            mixed = kernels.attention(qkv, q_weight, k_weight, view.rotary, view.first[self.window], heads=self.heads, groups=self.groups,
                                      scale=self.size**-0.5, eps=self.eps)  # fmt: skip
            return self.output(mixed)  # type: ignore[no-any-return]
        q_BTHK, k_BTGK, v_BTGK = qkv.split((self.heads, self.groups, self.groups), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        if view.rotary is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, view.rotary), rotate(k_BTGK, view.rotary)
        if view.cache is not None:
            k_BTGK, v_BTGK = view.cache.write(self.layer, k_BTGK, v_BTGK)
        mixed = attend(q_BTHK, k_BTGK, v_BTGK, view.biases[self.window], causal=self.causal and view.cache is None, scale=self.size**-0.5)
        return self.output(mixed.reshape(batch, length, self.heads * self.size))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Plain (`down(act(up(x)))`) or gated (`down(act(gate(x)) · up(x))`). When gated, `up` holds the gate's rows, then up's."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.name, self.activation = config.gated, config.activation, ACTIVATIONS[config.activation]
        self.up = Linear(config.width, config.ffn_size * (2 if config.gated else 1), bias=config.ffn_bias)
        self.down = Linear(config.ffn_size, config.width, bias=config.ffn_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        inner = self.up(x_BTD)
        if kernels.usable(inner):
            return self.down(kernels.activate(inner, self.name, self.gated))  # type: ignore[no-any-return]
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return self.down(self.activation(gate) * inner)  # type: ignore[no-any-return]
        return self.down(self.activation(inner))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each with its residual connection and norm."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.post, self.dropout = config.norm_position == "post", config.dropout
        self.attention = Attention(config, layer)
        self.ffn = FeedForward(config)
        self.attention_norm = Norm(config.width, config.norm, config.norm_eps)
        self.ffn_norm = Norm(config.width, config.norm, config.norm_eps)

    def forward(self, x: Tensor, view: View) -> Tensor:
        if self.post:
            x = self.attention_norm(x + self._drop(self.attention(x, view)))
            return self.ffn_norm(x + self._drop(self.ffn(x)))  # type: ignore[no-any-return]
        x = x + self._drop(self.attention(self.attention_norm(x), view))
        return x + self._drop(self.ffn(self.ffn_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """A stack with its embeddings and output layer.

    `forward` gives hidden states; `logits` turns them into scores over the vocabulary. Keeping the two apart lets the
    loss work on some rows at a time, and decoding on the last row alone.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_positions, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = Norm(config.width, config.norm, config.norm_eps) if config.norm_position == "pre" else None
        self.head = None if config.tie_embeddings else Linear(config.width, config.vocab_size, bias=False)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, state: KVCache | None = None
    ) -> tuple[Tensor, KVCache | None]:
        """Hidden states for `ids` (B, T) → (B, T, D), and the state given (a cache, extended in place).

        `positions` (B, T): place of each token in its document, 0… by default; −1 marks padding. `documents` (B, T):
        which document of the row a token belongs to (each a run without gaps); tokens see their own document only.
        None: one document a row.
        """
        if positions is None:
            start = state.used if state is not None else 0
            positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(ids.shape)
        if state is not None:
            state.extend(positions)
        x = self.embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions.clamp(min=0))
        elif self.config.positions == "sinusoidal":
            x = x * math.sqrt(self.config.width) + sinusoids(positions, self.config.width).to(x.dtype)
        x = dropout(x, self.config.dropout, self.training)
        view = self._view(positions, documents, state, x.dtype)
        for block in self.blocks:
            x = block(x, view)
        return (x if self.norm is None else self.norm(x)), state

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, V)."""
        weight, bias = self.output_layer()
        scores = F.linear(hidden, weight, bias)
        cap = self.config.logit_softcap
        return scores.div(cap).tanh().mul(cap) if cap else scores

    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) and bias of the output layer, shared with the embedding when tied."""
        return (self.embedding.weight if self.head is None else self.head.weight), None

    def new_state(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        c, weight = self.config, self.embedding.weight
        return KVCache(c.layers, batch, length, c.kv_heads, c.head_size, dtype=weight.dtype, device=weight.device)

    def matrix_parts(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices that are stacked in one weight: an optimiser that works on whole matrices takes them apart."""
        c = self.config
        q, kv, ffn = c.heads * c.head_size, c.kv_heads * c.head_size, c.ffn_size
        parts = {f"blocks.{i}.attention.qkv.weight": (q, kv, kv) for i in range(c.layers)}
        return {**parts, **({f"blocks.{i}.ffn.up.weight": (ffn, ffn) for i in range(c.layers)} if c.gated else {})}

    def _view(self, positions: Tensor, documents: Tensor | None, cache: KVCache | None, dtype: torch.dtype) -> View:
        config = self.config
        first = self._first(positions, documents, dtype) if cache is None else None
        biases = (
            {} if first is not None else {window: self._bias(window, positions, documents, cache, dtype) for window in set(config.windows)}
        )
        rotary = None
        if config.positions == "rotary":
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            exponents = torch.arange(0, config.head_size, 2, device=positions.device, dtype=wide) / config.head_size
            rows = positions[:1] if documents is None and bool((positions == positions[:1]).all()) else positions
            rotary = rotary_table(rows, config.rope_theta**-exponents, wide if first is not None else dtype)
        return View(biases, rotary, cache, first)

    def _first(self, positions: Tensor, documents: Tensor | None, dtype: torch.dtype) -> dict[int, Tensor | None] | None:
        """What the CPU kernels take for a mask: documents are runs within a row, so a query's keys are one stretch that
        ends with itself. None where they don't serve."""
        (batch, length), config = positions.shape, self.config
        fits = length <= kernels.LONGEST and config.head_size <= kernels.LARGEST_HEAD and config.causal
        if not fits or not kernels.usable(self.embedding.weight):
            return None
        place = torch.arange(length, dtype=torch.int32).expand(batch, length)
        start = torch.zeros_like(place)
        if documents is not None:
            begins = torch.ones(batch, length, dtype=torch.bool)
            begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
            start = torch.where(begins, place, 0).cummax(1).values.to(torch.int32)
        found: dict[int, Tensor | None] = {}
        for window in set(config.windows):
            cut = bool(window) and window < length
            first = torch.maximum(start, place - (window - 1)) if cut else start
            found[window] = first.contiguous() if documents is not None or cut else None
        return found

    def _bias(self, window: int, positions: Tensor, documents: Tensor | None, cache: KVCache | None, dtype: torch.dtype) -> Tensor | None:
        """The additive mask for one window size, or None where none is needed: one document a row costs nothing."""
        length, device = positions.shape[1], positions.device
        if cache is not None:
            slots = torch.arange(cache.used, device=device)
            query = positions[:1] if cache.uniform else positions
            if length == 1 and cache.uniform and not window:
                return None
            allowed = slots <= query[:, :, None].clamp(min=0)
            if window:
                allowed &= slots > query[:, :, None] - window
        else:
            if documents is None and (not window or window >= length):
                return None
            place = torch.arange(length, device=device)
            apart = (place[:, None] - place)[None]
            allowed = apart >= 0 if self.config.causal else torch.ones_like(apart, dtype=torch.bool)
            if window:
                allowed = allowed & (apart.abs() < window)
            if documents is not None:
                allowed = allowed & (documents[:, :, None] == documents[:, None, :])
        return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -math.inf)[:, None]

    @torch.no_grad()
    def initialise(self, seed: int, *, zero_outputs: bool = True) -> None:
        """Draw the weights: normal with `init_std`, matrices that write to the residual stream zero.

        With zero output projections every block starts as the identity, which trains faster than GPT-2's scaled
        draw (`zero_outputs=False`: std / √(2·layers)).
        """
        generator = torch.Generator().manual_seed(seed)
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            elif name.endswith(("attention.output.weight", "ffn.down.weight")):
                spread = 0.0 if zero_outputs else std / math.sqrt(2 * self.config.layers)
                _normal(parameter, spread, generator)
            elif name == "head.weight" and zero_outputs:
                parameter.zero_()
            else:
                own = self.config.embedding_std if name == "embedding.weight" else None
                _normal(parameter, std if own is None else own, generator)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Drawn on the CPU in float32, so that a seed means the same weights on every device and dtype."""
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """The fixed positions of 2017 (arXiv 1706.03762, section 3.5): sines in the even places, cosines in the odd. (B, T) → (B, T, D)."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000.0) / width))
    angles = positions.clamp(min=0)[..., None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width]


def flops_per_token(config: TransformerConfig, context: int) -> float:
    """Floating-point operations to train on one token: 6 for each weight of a matrix product (output layer included),
    and 12·width per key for the attention scores (Kaplan et al. 2020, arXiv 2001.08361, table 1; full context counted)."""
    attention = config.width * (2 * config.heads + 2 * config.kv_heads) * config.head_size
    ffn = config.width * config.ffn_size * (3 if config.gated else 2)
    weights = config.layers * (attention + ffn) + config.vocab_size * config.width
    reach: Sequence[int] = [min(w or context, context) for w in (config.windows[i % len(config.windows)] for i in range(config.layers))]
    return 6.0 * weights + 12.0 * config.heads * config.head_size * sum(reach)
