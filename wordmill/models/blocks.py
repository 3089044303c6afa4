"""The parts of a Transformer block: norms, attention, cross-attention, feed-forward.

Shapes: B batch, T tokens, S keys, D width, H query heads, G key/value heads, K head size, F inner size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordmill.models import kernels
from wordmill.models.config import TransformerConfig
from wordmill.models.masks import View
from wordmill.models.ops import attend, dropout, picked, rms_norm, rotate

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
}


class Norm(nn.Module):
    """RMSNorm or LayerNorm (with or without a bias) over the last dimension."""

    def __init__(self, size: int, kind: str, eps: float, *, bias: bool = True) -> None:
        super().__init__()
        self.eps, self.centred = eps, kind == "layernorm"
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if self.centred and bias else None

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """The norm of x, or of x + more."""
        if kernels.usable(x) and self.weight.dtype == x.dtype:
            bias = torch.zeros_like(self.weight) if self.centred and self.bias is None else self.bias
            return kernels.norm(x, self.weight, bias, self.eps, more)
        x = x if more is None else x + more
        if not self.centred:
            return rms_norm(x, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Linear(nn.Linear):
    """A linear layer whose gradients are fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, O)."""
        return kernels.linear(x, self.weight, self.bias) if kernels.usable(x) else F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads. `qkv` holds the rows of all query heads, then keys, then values."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.groups, self.size = layer, config.heads, config.kv_heads, config.head_size
        self.eps, self.cap = config.norm_eps, config.attention_softcap
        self.scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
        self.window, self.causal = config.window(layer), config.causal
        self.qkv = Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_size, bias=config.attention_bias)
        self.output = Linear(config.heads * config.head_size, config.width, bias=config.output_bias)
        self.q_norm = Norm(config.head_size, "rmsnorm", config.norm_eps) if config.qk_norm else None
        self.k_norm = Norm(config.head_size, "rmsnorm", config.norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, view: View, only: Tensor | None = None) -> Tensor:
        """(B, T, D), or (N, D) of the places `only` (see `picked`)."""
        batch, length, _ = x_BTD.shape
        qkv = self.qkv(x_BTD).view(batch, length, self.heads + 2 * self.groups, self.size)
        rotary = view.rotary.get(self.window)
        if view.stretches is not None:
            q_weight = self.q_norm.weight.to(qkv.dtype) if self.q_norm is not None else None
            k_weight = self.k_norm.weight.to(qkv.dtype) if self.k_norm is not None else None
            first, last = view.stretches[self.window]
            mixed = kernels.attention(qkv, q_weight, k_weight, rotary, first, last, heads=self.heads, groups=self.groups,
                                      scale=self.scale, eps=self.eps)  # fmt: skip
            return self.output(picked(mixed, only))  # type: ignore[no-any-return]
        q_BTHK, k_BTGK, v_BTGK = qkv.split((self.heads, self.groups, self.groups), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        if rotary is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, rotary), rotate(k_BTGK, rotary)
        if view.cache is not None:
            k_BTGK, v_BTGK = view.cache.write(self.layer, k_BTGK, v_BTGK)
        causal = self.causal and view.cache is None
        mixed = attend(q_BTHK, k_BTGK, v_BTGK, view.biases[self.window], causal=causal, scale=self.scale, softcap=self.cap)
        return self.output(picked(mixed.reshape(batch, length, self.heads * self.size), only))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """A decoder's attention to the encoder's output. `kv` holds the rows of all key heads, then of all value heads."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.groups, self.size = layer, config.heads, config.kv_heads, config.head_size
        self.scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
        self.q = Linear(config.width, config.heads * config.head_size, bias=config.attention_bias)
        self.kv = Linear(config.width, 2 * config.kv_heads * config.head_size, bias=config.attention_bias)
        self.output = Linear(config.heads * config.head_size, config.width, bias=config.output_bias)

    def forward(self, x_BTD: Tensor, view: View) -> Tensor:
        batch, length, _ = x_BTD.shape
        k_BSGK, v_BSGK = self._source(view)
        sources = k_BSGK.shape[0]  # fewer than rows where beams share one: their queries stand side by side then
        q = self.q(x_BTD).view(sources, -1, self.heads, self.size)
        bias = None if view.crossing is None else view.crossing.reshape(sources, 1, -1, k_BSGK.shape[1])
        mixed = attend(q, k_BSGK, v_BSGK, bias, causal=False, scale=self.scale).reshape(batch, length, self.heads, self.size)
        if view.blind is not None:
            mixed = mixed.masked_fill(view.blind[..., None], 0)
        return self.output(mixed.reshape(batch, length, self.heads * self.size))  # type: ignore[no-any-return]

    def _source(self, view: View) -> tuple[Tensor, Tensor]:
        """Keys and values of the source: those in the cache, or new ones, which the cache then keeps."""
        if view.cache is not None and len(view.cache.cross) > self.layer:
            return view.cache.crossed(self.layer)
        assert view.memory is not None
        batch, keys, _ = view.memory.hidden.shape
        k, v = self.kv(view.memory.hidden).view(batch, keys, 2 * self.groups, self.size).chunk(2, dim=2)
        if view.cache is not None:  # as attention reads them: all keys of a head side by side
            k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
            view.cache.cross.append((k, v))
        return k, v


class FeedForward(nn.Module):
    """Plain (`down(act(up(x)))`) or gated (`down(act(gate(x)) · up(x))`). When gated, `up` holds the gate's rows, then up's."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.name, self.activation = config.gated, config.activation, ACTIVATIONS[config.activation]
        self.up = Linear(config.width, config.ffn_size * (2 if config.gated else 1), bias=config.ffn_bias)
        self.down = Linear(config.ffn_size, config.width, bias=config.ffn_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.gated and type(self.up) is Linear and kernels.activates(x_BTD, self.name):  # with an adapter it is of another type
            return self.down(kernels.activated(x_BTD, self.up.weight, self.up.bias, self.name))  # type: ignore[no-any-return]
        inner = self.up(x_BTD)
        if kernels.usable(inner) and self.name in kernels.KINDS:
            return self.down(kernels.activate(inner, self.name, self.gated))  # type: ignore[no-any-return]
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return self.down(self.activation(gate) * inner)  # type: ignore[no-any-return]
        return self.down(self.activation(inner))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, cross-attention (in an encoder–decoder) and feed-forward, each with its residual connection and norms.

    `…_norm` stands before its part (pre, sandwich) or after the sum (post), `…_out_norm` on the part's output (sandwich).
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.post, self.parallel, self.dropout = config.norm_position == "post", config.parallel, config.dropout

        def norm() -> Norm:
            return Norm(config.width, config.norm, config.norm_eps, bias=config.norm_bias)

        self.attention = Attention(config, layer)
        self.ffn = FeedForward(config)
        self.attention_norm = norm() if layer or config.first_norm else nn.Identity()
        self.ffn_norm = norm()
        self.cross_attention = CrossAttention(config, layer) if config.encoder_layers else None
        self.cross_norm = norm() if config.encoder_layers else None
        sandwich = config.norm_position == "sandwich"
        self.attention_out_norm = norm() if sandwich else None
        self.cross_out_norm = norm() if sandwich and config.encoder_layers else None
        self.ffn_out_norm = norm() if sandwich else None

    def forward(self, x: Tensor, view: View, only: Tensor | None = None) -> Tensor:
        """(B, T, D); `only` (N,), in a block without cross-attention: (N, D), the states of these places (see `picked`)."""
        if self.post:
            x = self.attention_norm(picked(x, only), self._drop(self.attention(x, view, only)))
            if self.cross_attention is not None and self.cross_norm is not None:
                x = self.cross_norm(x, self._drop(self.cross_attention(x, view)))
            return self.ffn_norm(x, self._drop(self.ffn(x)))  # type: ignore[no-any-return]
        mixed = self.attention(self.attention_norm(x), view, only)
        before = x = picked(x, only)
        x = x + self._drop(self._out(mixed, self.attention_out_norm))
        if self.cross_attention is not None and self.cross_norm is not None:
            x = x + self._drop(self._out(self.cross_attention(self.cross_norm(x), view), self.cross_out_norm))
        return x + self._drop(self._out(self.ffn(self.ffn_norm(before if self.parallel else x)), self.ffn_out_norm))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    @staticmethod
    def _out(x: Tensor, norm: Norm | None) -> Tensor:
        return x if norm is None else norm(x)
