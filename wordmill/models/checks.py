"""Whether a device computes what it should: each kernel that wordmill uses, forward and backward, against float64 on the CPU.

A device or a library version can be wrong without a word (pytorch #118115), and then training only looks a little
worse. The inputs are rounded to the tested dtype first, so that an error seen is the kernel's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wordmill.batches.batch import IGNORE
from wordmill.core.measure import relative_error
from wordmill.models import ops

TOLERANCE = {"fp32": 2e-5, "bf16": 2e-2}
"""Relative errors (of norms) that rounding explains: some hundred units in the last place; a wrong kernel is off by far more."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class KernelCheck:
    """One kernel in one dtype: relative errors of its result and of its gradients (the worst of them)."""

    name: str
    dtype: str
    forward: float
    backward: float
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether rounding explains the errors."""
        return self.problem is None and max(self.forward, self.backward) < TOLERANCE[self.dtype]


def check_kernels(device: torch.device, dtypes: tuple[str, ...] = ("fp32", "bf16")) -> list[KernelCheck]:
    """Run every kernel on `device` in every dtype. Takes about a second on a CPU."""
    return [check_kernel(name, kernel, inputs, device, dtype) for name, kernel, inputs in kernels() for dtype in dtypes]


def check_kernel(name: str, kernel: Kernel, inputs: list[Tensor], device: torch.device, dtype: str) -> KernelCheck:
    """Compare one kernel's result and gradients on `device` with float64 on the CPU; floating inputs are rounded to `dtype`."""
    rounded = [x.to(DTYPES[dtype]) if x.is_floating_point() else x for x in inputs]
    truth = _result_and_gradients(kernel, [x.double() if x.is_floating_point() else x for x in rounded])
    try:
        got = _result_and_gradients(kernel, [x.to(device) for x in rounded])
    except (RuntimeError, NotImplementedError) as error:
        return KernelCheck(name, dtype, float("inf"), float("inf"), str(error).splitlines()[0])
    errors = [relative_error(a, b) for a, b in zip(got, truth, strict=True)]
    return KernelCheck(name, dtype, errors[0], max(errors[1:], default=0.0))


def kernels() -> list[tuple[str, Kernel, list[Tensor]]]:
    """Name, function and float32 inputs of every kernel to check: sizes odd enough to leave remainders in blocked loops."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    ids = torch.randint(0, 1003, (2, 67), generator=generator)
    targets = torch.randint(0, 1003, (134,), generator=generator)
    targets[::7] = IGNORE
    query, keys, values = normal(2, 67, 6, 32), normal(2, 67, 3, 32), normal(2, 67, 3, 32)
    gates = [normal(4 * 48, 48, scale=0.1), normal(4 * 48, 48, scale=0.1), normal(4 * 48), normal(4 * 48)]
    gru_gates = [gate[: 3 * 48] for gate in gates]
    return [
        ("matrix product", torch.matmul, [normal(131, 257), normal(257, 193)]),
        ("embedding", lambda table: F.embedding(ids.to(table.device), table), [normal(1003, 64)]),
        ("rms_norm", lambda x, w: ops.rms_norm(x, w, 1e-6), [normal(2, 67, 96), normal(96)]),
        ("layer_norm", lambda x, w, b: F.layer_norm(x, (96,), w, b), [normal(2, 67, 96), normal(96), normal(96)]),
        ("rotary positions", _rotated, [normal(2, 67, 6, 32)]),
        ("attention", lambda q, k, v: ops.attend(q, k, v, None, causal=True, scale=32**-0.5), [query, keys, values]),
        ("attention (library)", _library_attention, [query, keys, values]),
        ("silu", F.silu, [normal(67, 96)]),
        ("gelu", lambda x: F.gelu(x, approximate="tanh"), [normal(67, 96)]),
        (
            "cross-entropy",
            lambda h, w: ops.linear_cross_entropy(h, w, None, targets.to(h.device)),
            [normal(134, 64), normal(1003, 64, scale=0.3)],
        ),
        ("lstm", lambda x, *w: torch.lstm(x, (_state(x), _state(x)), w, True, 1, 0.0, False, False, True)[0], [normal(2, 35, 48), *gates]),
        ("gru", lambda x, *w: torch.gru(x, _state(x), w, True, 1, 0.0, False, False, True)[0], [normal(2, 35, 48), *gru_gates]),
    ]


def _result_and_gradients(kernel: Kernel, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    result = kernel(*leaves)
    # The same for every dtype and device; not centred on zero, or the sums behind a bias's gradient would all but cancel.
    cotangent = (torch.randn(result.shape, generator=torch.Generator().manual_seed(2)) + 0.5).to(result)
    gradients = torch.autograd.grad(result, [x for x in leaves if x.requires_grad], cotangent)
    return [result, *gradients]


def _rotated(x: Tensor) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    frequencies = 10000.0 ** -(torch.arange(0, 32, 2, dtype=wide, device=x.device) / 32)
    positions = torch.arange(67, device=x.device)[None]
    return ops.rotate(x, ops.rotary_table(positions, frequencies, x.dtype))


def _library_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _state(x: Tensor) -> Tensor:
    """A first state of zeros: one layer, batch of `x`, width 48."""
    return x.new_zeros(1, x.shape[0], 48)
