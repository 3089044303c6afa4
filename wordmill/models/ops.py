"""The arithmetic that decides speed: normalisation, attention, rotary positions, and the loss at the output layer.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads (H a multiple of G), K head size, D width,
V vocabulary, N = B·T rows. Each function is written for autograd in the plainest form that is fast on a CPU
without compiling, and that `torch.compile` can still see through.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wordmill.batches.batch import IGNORE
from wordmill.models import kernels

ROWS_PER_CHUNK = 512
"""Rows of logits held at a time on a CPU: at 8,192 tokens 16 MB in float32, which stays in the last-level cache."""


def _accumulate(x: Tensor) -> torch.dtype:
    """The dtype in which sums over `x` are taken: float32, or float64 for float64 input."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a `share` of x at random while training and scale up the rest; nothing otherwise (Srivastava et al. 2014)."""
    if not share or not training:
        return x
    return kernels.dropout(x, share) if kernels.usable(x) else F.dropout(x, share)


def picked(x: Tensor, only: Tensor | None) -> Tensor:
    """The places `only` (N,), counted over all rows, of (B, T, D) → (N, D). None: all, as they are."""
    return x if only is None else x.flatten(0, 1).index_select(0, only)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) · weight` over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    wide = x.to(_accumulate(x))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight.dtype != x.dtype:  # a float32 weight in a bfloat16 model: rounded once, at the end
        return (wide * scale * weight).to(x.dtype)
    return weight * (wide * scale).to(x.dtype)


def rotary_table(positions: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines for rotary positions, times `factor`.

    `positions` (B, T), `inverse_frequencies` (K/2,) → two tensors (B, T, 1, K/2). The angles are taken in float32
    (float64 where the frequencies are) whatever the model's dtype: in bfloat16 position 257 would equal 256.
    """
    angles = positions.clamp(min=0)[..., None, None].to(inverse_frequencies.dtype) * inverse_frequencies
    cos, sin = angles.cos(), angles.sin()
    return (cos.to(dtype), sin.to(dtype)) if factor == 1.0 else ((cos * factor).to(dtype), (sin * factor).to(dtype))


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on `x` (B, T, H, K): the first half of each head turns against the second (arXiv 2104.09864).

    Where the table is for fewer entries than a head has, the rest stays.
    """
    cos, sin = table
    turned = 2 * cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], table), x[..., turned:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _SoftmaxAttention(torch.autograd.Function):
    """Attention as two matrix products with a softmax between, keeping only the probabilities for the backward pass.

    On CPUs this is about three times as fast as the library's flash kernel at contexts up to some hundreds of tokens.
    q (B·H, T, K), k and v (B·H, S, K), bias broadcastable to (B·H, T, S) or None.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        if bias is None:
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        else:
            scores = torch.baddbmm(bias.expand(q.shape[0], q.shape[1], k.shape[1]), q, k.transpose(1, 2), alpha=scale)
        probabilities = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scale, ctx.bias = scale, None if bias is None else bias.shape
        return torch.bmm(probabilities, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:  # type: ignore[override]
        q, k, v, probabilities = ctx.saved_tensors
        d_v = torch.bmm(probabilities.transpose(1, 2), grad)
        d_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), probabilities, -1, probabilities.dtype)
        d_q = torch.bmm(d_scores, k).mul_(ctx.scale)
        d_k = torch.bmm(d_scores.transpose(1, 2), q).mul_(ctx.scale)
        d_bias = d_scores.sum_to_size(ctx.bias) if ctx.needs_input_grad[3] else None
        return d_q, d_k, d_v, d_bias, None


LONGEST_SCORES = 1024
"""Beyond this many keys the matrix of scores no longer fits the cache and the library's blockwise kernel wins."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, causal: bool, scale: float, softcap: float = 0.0
) -> Tensor:  # fmt: skip
    """Scaled dot-product attention (arXiv 1706.03762, section 3.2.1).

    q (B, T, H, K); k, v (B, S, G, K). `bias` (B or 1, 1 or H, T, S) is added to the scores (−inf forbids); `causal` without
    a bias means that query t sees keys 0…t (then T = S). `softcap` squashes the scores to ± itself before the bias.
    Returns (B, T, H, K).
    """
    if softcap:
        return _attend_capped(q, k, v, bias, causal, scale, softcap)
    (batch, length, heads, size), keys, groups = q.shape, k.shape[1], k.shape[2]
    if not q.is_cpu or keys > LONGEST_SCORES:
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=bias,
            is_causal=causal and bias is None,
            scale=scale,
            enable_gqa=groups != heads,
        )
        return mixed.transpose(1, 2)
    if bias is None and causal and length > 1:
        bias = causal_bias(length, q.dtype, q.device)
    if groups != heads and length == 1 and (bias is None or bias.shape[1] == 1):
        # The queries that share a key head stand side by side, as if they were of several tokens: nothing is copied.
        shared = attend(q.view(batch, groups, -1, size).transpose(1, 2), k, v, bias, causal=False, scale=scale)
        return shared.transpose(1, 2).reshape(batch, 1, heads, size)
    if groups != heads:
        k, v = (x.repeat_interleave(heads // groups, dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2).reshape(batch * heads, -1, size) for x in (q, k, v))
    if bias is not None:
        alike = bias.shape[:2] == (1, 1)
        bias = bias[0] if alike else bias.expand(batch, heads, length, keys).reshape(batch * heads, length, keys)
    mixed = _SoftmaxAttention.apply(q, k, v, bias, scale)
    return mixed.view(batch, heads, length, size).transpose(1, 2)  # type: ignore[no-any-return]


def _attend_capped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float, softcap: float) -> Tensor:
    """`attend` with the scores in the open, since no library kernel squashes them; shapes as there."""
    heads, groups = q.shape[2], k.shape[2]
    if groups != heads:
        k, v = (x.repeat_interleave(heads // groups, dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(2, 3) * (scale / softcap)).tanh() * softcap
    if bias is None and causal:
        bias = causal_bias(q.shape[2], q.dtype, q.device)
    if bias is not None:
        scores = scores + bias
    wide = _accumulate(q)
    return (torch.softmax(scores.to(wide), -1).to(q.dtype) @ v).transpose(1, 2)


def causal_bias(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1, T, T): 0 where a query may look, −inf above the diagonal."""
    return torch.full((length, length), -math.inf, dtype=dtype, device=device).triu_(1)[None, None]


class _LinearCrossEntropy(torch.autograd.Function):
    """Output layer and cross-entropy together, some rows at a time: the logits are never whole, and the gradients are
    made in the forward pass while a chunk of logits is still in the cache. (After Wijmans et al., arXiv 2411.09009.)"""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float) -> Tensor:
        wide, rows = _accumulate(hidden), _rows_per_chunk(hidden, weight)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        train = any(ctx.needs_input_grad[:3])
        d_hidden = torch.empty_like(hidden) if train else None
        d_weight: Tensor | None = None
        learns = ctx.needs_input_grad[1]  # a frozen output layer needs no gradient, which is as large as itself
        d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, hidden.shape[0], rows):
            h, y = hidden[start : start + rows], targets[start : start + rows]
            logits = F.linear(h, weight, bias)
            if kernels.usable(logits):
                total += kernels.cross_entropy_(logits, y, softcap, back=train).sum()
                if d_hidden is not None:
                    torch.mm(logits, weight, out=d_hidden[start : start + rows])
                    if learns:
                        d_weight = _sum(d_weight, kernels.across(logits, h), wide)
                    if d_bias is not None:
                        d_bias += logits.sum(0, dtype=wide)
                continue
            logits = logits.to(wide)
            if softcap:
                logits = logits.div_(softcap).tanh_()
                slope = 1 - logits.square()
                logits.mul_(softcap)
            counted = y != IGNORE
            y = y.clamp(min=0)[:, None]
            top = logits.amax(-1, keepdim=True)
            picked = logits.gather(-1, y) - top
            exp = logits.sub_(top).exp_()
            norm = exp.sum(-1, keepdim=True)
            total += ((norm.log() - picked)[:, 0] * counted).sum()
            if d_hidden is None:
                continue
            d_logits = exp.mul_(counted[:, None] / norm)
            d_logits.scatter_add_(-1, y, -counted[:, None].to(wide))
            if softcap:
                d_logits.mul_(slope)
            narrow = d_logits.to(hidden.dtype)
            torch.mm(narrow, weight, out=d_hidden[start : start + rows])
            if learns:
                d_weight = _sum(d_weight, narrow.t() @ h, wide)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        d_weight = None if d_weight is None else (d_weight * grad).to(ctx.dtypes[0])
        d_bias = None if d_bias is None else (d_bias * grad).to(ctx.dtypes[1])
        return d_hidden * grad, d_weight, d_bias, None, None


def _sum(total: Tensor | None, part: Tensor, wide: torch.dtype) -> Tensor:
    """Add up chunks in `wide`; a single chunk stays as it is."""
    return part if total is None else total.to(wide).add_(part)


def _rows_per_chunk(hidden: Tensor, weight: Tensor) -> int:
    """The CPU kernels go over a row while it is in the cache, so there only memory counts: 32 MB of logits. On a GPU
    larger pieces keep the matrix units busy; the logits of one piece are held to about 1 GB."""
    if hidden.is_cpu:
        return max(ROWS_PER_CHUNK, 2**24 // weight.shape[0]) if kernels.usable(hidden) else ROWS_PER_CHUNK
    return max(1024, min(hidden.shape[0], 2**28 // weight.shape[0]))


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, softcap: float = 0.0) -> Tensor:
    """The sum (not the mean) of −log p(target) in nats over all targets that are not `IGNORE`.

    hidden (N, D), weight (V, D), bias (V,) or None, targets (N,). The sum is taken in float32 (float64 for float64).
    """
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, softcap)  # type: ignore[no-any-return]


def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, softcap: float = 0.0) -> Tensor:
    """−log p(target) of each row in nats, 0 where the target is `IGNORE`: for scoring, without gradients. Shapes as above → (N,)."""
    wide, rows = _accumulate(hidden), _rows_per_chunk(hidden, weight)
    parts = []
    with torch.no_grad():
        for start in range(0, hidden.shape[0], rows):
            logits, y = F.linear(hidden[start : start + rows], weight, bias), targets[start : start + rows]
            if kernels.usable(logits) and not softcap:  # with one it would round once more
                parts.append(kernels.cross_entropy_(logits, y, softcap, back=False))
                continue
            logits = logits.to(wide)
            if softcap:
                logits = logits.div_(softcap).tanh_().mul_(softcap)
            parts.append(F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none"))
    return torch.cat(parts) if parts else hidden.new_zeros(0)
