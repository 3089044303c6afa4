"""kernels.c for PyTorch: the row-wise parts of a Transformer on a CPU in bfloat16 or float32, with their gradients.

Each function does what its namesake in ops.py does; `usable` says for which tensors. Letters as in ops.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordmill.core import native

LONGEST = 2048
"""Keys that the softmax keeps in its buffer."""
LARGEST_HEAD = 512

FUSED = {"relu": ("relu", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""What oneDNN's layers call an activation that they can do."""
KINDS = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "relu2": 4}


DTYPES = {torch.bfloat16: (), torch.float32: ("FLOAT32",)}
"""What the kernels are compiled for, and the macro that says so."""


SHORT, WIDEST = 128, 128
"""The longest rows and widest heads for which attention without gradients is done in one pass where a row holds several texts. Matrix units
multiply whole matrices of bfloat16 so fast that for them rows have half that length."""


@cache
def _library(dtype: torch.dtype = torch.bfloat16) -> ctypes.CDLL | None:
    found = native.load(Path(__file__).with_name("kernels.c"), *DTYPES[dtype])
    return None if isinstance(found, str) else found


def usable(x: Tensor) -> bool:
    """Whether these kernels serve: bfloat16 or float32 on a CPU, a C compiler on the machine, and nobody tracing."""
    return x.is_cpu and x.dtype in DTYPES and not torch.compiler.is_compiling() and _library(x.dtype) is not None


def _call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a function of kernels.c, as compiled for the dtype of the first argument. Tensors go as pointers (they must be contiguous),
    integers as int64 (or int), None as null."""
    first = arguments[0]
    assert isinstance(first, Tensor)
    library = _library(first.dtype)
    assert library is not None
    values: list[Any] = []
    for x in arguments:
        if isinstance(x, Tensor):
            assert x.is_contiguous()
            values.append(ctypes.c_void_p(x.data_ptr()))
        elif isinstance(x, float):
            values.append(ctypes.c_float(x))
        else:
            values.append(ctypes.c_void_p(None) if x is None else ctypes.c_int64(x))
    getattr(library, name)(*values)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, a CPU takes numbers below 1e-38 for zero: with them it is many times slower. Put back afterwards, since it holds for the
    whole process. Without a compiler only for this thread."""
    _flush(True)
    try:
        yield
    finally:
        _flush(False)


def _flush(on: bool) -> None:
    torch.set_flush_denormal(on)
    library = _library()
    if library is not None:
        library.flush_denormals(ctypes.c_int64(on))


class _Linear(torch.autograd.Function):
    """x (N, D) times weight (O, D) transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)  # a frozen weight has no use for x afterwards
        return torch.mm(x, weight.t()) if bias is None else biased(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        d_x = grad @ weight if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return d_x, None, None
        return d_x, across(grad, x) if ctx.needs_input_grad[1] else None, grad.sum(0) if ctx.needs_input_grad[2] else None


def biased(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (N, D) times weight (O, D) transposed, plus bias (O,). For bfloat16 `addmm` first writes the bias into every row of the result; the
    library's own layer adds it within the product: the same bits, up to a quarter faster."""
    if x.dtype == torch.bfloat16 and x.is_cpu and _layers():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return torch.addmm(bias, x, weight.t())


def activates(x: Tensor, activation: str) -> bool:
    """Whether `activated` serves for this input: bfloat16 on a CPU, without gradients, and an activation that oneDNN knows."""
    return activation in FUSED and usable(x) and x.dtype == torch.bfloat16 and not torch.is_grad_enabled() and _layers()


def activated(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """The activation of x (…, D) times weight (O, D) transposed plus bias (O,): within the product, so that what goes in between is never
    written to memory."""
    how, algorithm = FUSED[activation]
    out = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, x.shape[-1]), weight, bias, how, [], algorithm)
    return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


@cache
def _layers() -> bool:
    """Whether oneDNN has layers in bfloat16 for this CPU: without vectors of 512 bits it has none."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x = torch.zeros(1, 1, dtype=torch.bfloat16)
    try:
        torch.ops.mkldnn._linear_pointwise(x, x, x[0], "none", [], "")
    except RuntimeError:
        return False
    return True


def across(a: Tensor, b: Tensor) -> Tensor:
    """The product of a (N, A), transposed, and b (N, B) → (A, B). On CPUs with matrix units the library's bfloat16 product that reads an
    operand against the grain runs at two thirds of its speed, so a contiguous copy of the narrower one first is cheaper; others don't
    mind (docs/log.md)."""
    if a.dtype != torch.bfloat16 or not matrix_units():
        return a.t() @ b
    return transpose(a) @ b if a.shape[1] <= b.shape[1] else transpose(transpose(b) @ a)


@cache
def matrix_units() -> bool:
    """Whether the CPU has units for matrix products (AMX), which make these so fast that everything between them counts."""
    return torch.cpu._is_amx_tile_supported()  # type: ignore[no-any-return]


def add_(sums: Tensor, x: Tensor) -> None:
    """sums += x, where the library would first make a float32 copy of a bfloat16 x."""
    if x.dtype == torch.bfloat16 and sums.dtype == torch.float32 and usable(x) and x.is_contiguous() and sums.is_contiguous():
        _call("accumulate", x, sums, x.numel())
    else:
        sums.add_(x)


def transpose(x: Tensor) -> Tensor:
    """A contiguous copy, (N, D) → (D, N), in bfloat16."""
    out = x.new_empty(x.shape[1], x.shape[0])
    _call("transpose", x, out, *x.shape)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` for x (…, D)."""
    return _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int, gated: bool) -> Tensor:
        x = x.contiguous()
        inner = x.shape[-1] // (2 if gated else 1)
        out = x.new_empty(*x.shape[:-1], inner)
        _call("activation", x, out, out.numel() // inner, inner, kind, int(gated))
        ctx.save_for_backward(x)
        ctx.how = inner, kind, gated
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (x,), (inner, kind, gated) = ctx.saved_tensors, ctx.how
        out = torch.empty_like(x)
        _call("activation_back", x, grad.contiguous(), out, grad.numel() // inner, inner, kind, int(gated))
        return out, None, None


def activate(x: Tensor, activation: str, gated: bool) -> Tensor:
    """The feed-forward part's non-linearity: (…, F), or (…, 2F) → (…, F) when gated."""
    return _Activate.apply(x, KINDS[activation], gated)  # type: ignore[no-any-return]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, seed: int) -> Tensor:
        ctx.how = share, seed
        x = x.contiguous()
        out = torch.empty_like(x)
        _call("dropout", x, out, x.numel(), seed, float(share))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        share, seed = ctx.how
        out, grad = torch.empty_like(grad, memory_format=torch.contiguous_format), grad.contiguous()
        _call("dropout", grad, out, grad.numel(), seed, float(share))
        return out, None, None


def dropout(x: Tensor, share: float) -> Tensor:
    """Zero a `share` of x and scale up the rest. The library's own draws its numbers one by one, and took half of a step."""
    return _Dropout.apply(x, share, int(torch.randint(2**31, ())))  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        out, stats = torch.empty_like(x), x.new_empty(rows, 2, dtype=torch.float32)
        _call("norm", x, None, weight, bias, out, stats, rows, width, float(eps))
        ctx.save_for_backward(x, weight, stats)
        ctx.bias = bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, stats = ctx.saved_tensors
        width, threads = x.shape[-1], torch.get_num_threads()
        out, d_weight = torch.empty_like(x), torch.zeros(threads, width)
        d_bias = torch.zeros(threads, width) if ctx.bias else None
        _call("norm_back", x, weight, grad.contiguous(), stats, None, out, d_weight, d_bias, x.numel() // width, width, threads)
        return out, d_weight.sum(0).to(weight.dtype), None if d_bias is None else d_bias.sum(0).to(weight.dtype), None


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, more: Tensor | None = None) -> Tensor:
    """LayerNorm with a bias, RMSNorm without, over the last dimension, of x or of x + more."""
    if more is not None and not torch.is_grad_enabled():
        out = x.new_empty(x.shape)
        _call("norm", x.contiguous(), more.contiguous(), weight, bias, out, None, x.numel() // x.shape[-1], x.shape[-1], float(eps))
        return out
    x = x if more is None else x + more
    return _Norm.apply(x, weight, bias, eps)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    """From the stacked projections to the mixed values: split into heads (normalised and turned on the way), scores,
    softmax over what is visible, values, and back to one row a token. Grouped queries share a product, not a copy."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
        first: Tensor | None, last: Tensor | None, heads: int, groups: int, scale: float, eps: float,
    ) -> Tensor:  # fmt: skip
        batch, length, _, size = qkv.shape
        qkv = qkv.contiguous()
        q = qkv.new_empty(batch * groups, heads // groups * length, size)
        k, v = (qkv.new_empty(batch * groups, length, size) for _ in "kv")
        stats = qkv.new_empty(batch * length * (heads + groups), dtype=torch.float32)
        shared = int(cos is None or cos.shape[0] == 1)
        _call("heads_in", qkv, q, k, v, q_weight, k_weight, cos, sin, stats, batch, length, heads, groups, size, shared, float(eps))
        p = torch.bmm(q, k.transpose(1, 2))
        _call("softmax", p, first, last, batch, heads, length, length, float(scale))
        mixed = torch.bmm(p, v)
        out = qkv.new_empty(batch, length, heads * size)
        _call("heads_swap", mixed, out, batch, heads, length, size)
        ctx.save_for_backward(qkv, q, k, v, p, q_weight, k_weight, cos, sin, first, last, stats)
        ctx.how = heads, groups, scale, shared
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        qkv, q, k, v, p, q_weight, k_weight, cos, sin, first, last, stats = ctx.saved_tensors
        heads, groups, scale, shared = ctx.how
        batch, length, _, size = qkv.shape
        d_mixed = torch.empty_like(q)
        _call("heads_swap", grad.contiguous(), d_mixed, batch, length, heads, size)
        d_v = torch.bmm(p.transpose(1, 2), d_mixed)
        d_scores = torch.bmm(d_mixed, v.transpose(1, 2))
        _call("softmax_back", d_scores, p, first, last, batch, heads, length, length, float(scale))
        d_q, d_k = torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q)
        threads = torch.get_num_threads()
        d_qkv, d_weights = torch.empty_like(qkv), torch.zeros(threads, 2, size)
        _call(
            "heads_in_back",
            qkv,
            d_q,
            d_k,
            d_v,
            q_weight,
            k_weight,
            cos,
            sin,
            stats,
            d_qkv,
            d_weights,
            batch,
            length,
            heads,
            groups,
            size,
            shared,
            threads,
        )
        d_qw, d_kw = d_weights.sum(0).to(qkv.dtype) if q_weight is not None else (None, None)
        return d_qkv, d_qw, d_kw, None, None, None, None, None, None, None, None


def attention(
    qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, rotary: tuple[Tensor, Tensor] | None, first: Tensor | None,
    last: Tensor | None = None, *, heads: int, groups: int, scale: float, eps: float,
) -> Tensor:  # fmt: skip
    """Self-attention without a cache: qkv (B, T, H+2G, K) → (B, T, H·K).

    `q_weight`, `k_weight` (K,) of the heads' norms or None; `rotary`: cosines and sines (B or 1, T, 1, K/2) float32 or None;
    `first`, `last` (B, T) int32: the first key that each query sees, None: the row's first, and one past its last, None: past itself.
    """
    cos, sin = (None, None) if rotary is None else (x.float().contiguous() for x in rotary)
    batch, length, _, size = qkv.shape
    short = SHORT // 2 if qkv.dtype == torch.bfloat16 and matrix_units() else SHORT
    if not torch.is_grad_enabled() and first is not None and length <= short and size <= WIDEST and size % 16 == 0:
        out, shared = qkv.new_empty(batch, length, heads * size), int(cos is None or cos.shape[0] == 1)
        sizes = batch, length, heads, groups, size, shared
        _call("attention", qkv.contiguous(), q_weight, k_weight, cos, sin, out, first, last, *sizes, float(scale), float(eps))
        return out
    return _Attention.apply(qkv, q_weight, k_weight, cos, sin, first, last, heads, groups, scale, eps)  # type: ignore[no-any-return]


def cross_entropy_(logits: Tensor, targets: Tensor, softcap: float, *, back: bool) -> Tensor:
    """The loss of each row (N,) in float32; `back`: logits (N, V) become the gradients of the losses, in place."""
    threads = torch.get_num_threads()
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    exps = logits.new_empty(threads, logits.shape[1], dtype=torch.float32)
    _call("cross_entropy", logits, targets, losses, exps, *logits.shape, float(softcap), int(back), threads)
    return losses
