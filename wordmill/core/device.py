"""Where and in what numbers a model runs, and how its memory is had from the system.

Two settings of the process make CPU training up to a third faster; nobody should have to know them, so wordmill makes
them itself: freed buffers stay with the process instead of going back page by page (a fresh page costs more than the
arithmetic done on it), and large ones come in huge pages.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from wordmill.core.errors import UsageError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for mallopt(3)."""

DTYPES = ("auto", "bf16", "fp32")
NUMBERS = ("auto", "bf16", "mixed", "fp32")
"""What a fine-tuning computes with. mixed: float32 for all but the products, which round what they read to bfloat16."""


@cache
def tune_memory() -> bool:
    """Keep freed memory in the process and ask for huge pages. Call before torch allocates. True where it took (glibc)."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads this at its first large allocation
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library (musl): nothing to set, nothing lost
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: the GPU where there is one, else the CPU. Under torchrun, this process's own GPU.

    Raises `UsageError` for a device that this machine lacks.
    """
    import torch

    tune_memory()
    if name == "auto":
        local = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", where="--device", fix="Use auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", where="--device", fix="Use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"there is no {name!r} on this machine", where="--device", fix="Use --device cpu, or see wordmill doctor")
    return device


def choose_dtype(name: str, device: torch.device, *, reading: bool = False) -> torch.dtype:
    """`auto`: bfloat16 where it pays on this device, else float32. `reading`: the work is bound by reading weights (answering
    one prompt), where half the bytes pay even if products are no faster.

    Raises `UsageError` for an unknown name.
    """
    import torch

    if name not in DTYPES:
        what = "mixed numbers are for fine-tuning alone" if name in NUMBERS else f"unknown dtype {name!r}"
        raise UsageError(what, where="--dtype", fix=f"Use one of {', '.join(DTYPES)}")
    if name == "auto":
        name = "bf16" if has_bf16(device) and (reading or device.type == "cuda" or bf16_gain() > WORTH_IT) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def choose_numbers(name: str, device: torch.device, *, whole: bool) -> str:
    """What a fine-tuning computes with, one of `NUMBERS`. `auto`: float32 where bfloat16 doesn't pay; else, where the `whole` of
    a pretrained model goes on learning, on a CPU whose float32 products can round to bfloat16 too, `mixed`: the rounding of all states
    between the layers cost accuracy there (docs/log.md); else bf16.

    Raises `UsageError` for an unknown name.
    """
    import torch

    if name not in NUMBERS:
        raise UsageError(f"unknown dtype {name!r}", where="--dtype", fix=f"Use one of {', '.join(NUMBERS)}")
    if name != "auto":
        return name
    if choose_dtype(name, device) == torch.float32:
        return "fp32"
    return "mixed" if whole and device.type == "cpu" and mixed_gain() > MIXED_WORTH_IT else "bf16"


@contextmanager
def products(numbers: str, device: torch.device) -> Iterator[torch.dtype]:
    """Inside, matrix products are as `numbers` says (one of `NUMBERS` but auto); gives the dtype that the weights of the model then have.
    On a GPU, mixed means TensorFloat-32."""
    import torch

    from wordmill.core.measure import fast_float32

    if numbers == "fp32" and device.type == "cpu":
        tune_float32()  # the faster way where it is as exact: then it stays
    with fast_float32(device) if numbers == "mixed" else nullcontext():
        yield torch.bfloat16 if numbers == "bf16" else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(check() for check in capabilities if check is not None)


def crawls(numbers: str, device: torch.device) -> str | None:
    """What is to be said of numbers that this device computes with many times as slowly as with others; None for the rest."""
    if numbers != "bf16" or device.type != "cpu" or has_bf16(device):
        return None
    return "this CPU has no instructions for bfloat16: float32 is many times as fast (--dtype fp32)"


WORTH_IT = 1.2
"""How many times as fast as float32 products bfloat16 ones must be on a CPU to be used in training."""


MIXED_WORTH_IT = 1 / 3
"""The speed of mixed products in proportion to bfloat16's from which a CPU fine-tunes with them."""


def mixed_gain() -> float:
    """How fast a CPU's float32 products are in proportion to its bfloat16 ones where they may round what they read to bfloat16."""
    speeds = product_speeds()
    return speeds["fp32 fast"] / speeds["bf16"]


def bf16_gain() -> float:
    """How many times as fast a CPU's bfloat16 products are as its float32 ones, as wordmill computes these. 0 where it has none."""
    speeds = product_speeds()
    return speeds.get("bf16", 0.0) / (speeds["fp32 fast"] if tune_float32() else 1.0)


@cache
def product_speeds() -> dict[str, float]:
    """How fast a CPU's matrix products are as multiples of float32's usual way (`fp32`: 1): `fp32 fast`, and `bf16` where it has
    instructions for it (without, one product takes a second). Takes a third of a second.

    The instructions alone don't tell: one CPU with bfloat16 dot products is 2.5 × as fast with them, another (its matrix
    units hidden by a virtual machine) half as fast. The ways take turns and the best of each counts, so that noise falls on all alike.
    """
    import torch

    def work(dtype: torch.dtype) -> Callable[[], object]:
        a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1536, dtype=dtype)
        out = torch.empty(1024, 1536, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    before = torch.get_float32_matmul_precision()
    ways = {"fp32": ("highest", work(torch.float32)), "fp32 fast": ("medium", work(torch.float32))}
    if has_bf16(torch.device("cpu")):
        ways["bf16"] = (before, work(torch.bfloat16))
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(9):
        for name, (precision, product) in ways.items():
            torch.set_float32_matmul_precision(precision)
            start = time.perf_counter()
            product()
            best[name] = min(best[name], time.perf_counter() - start)
    torch.set_float32_matmul_precision(before)
    return {name: best["fp32"] / seconds for name, seconds in best.items()}


@cache
def tune_float32() -> bool:
    """Let float32 products on a CPU take oneDNN's way where it is as exact as the usual one and faster: twice as fast on some CPUs.

    On CPUs with matrix units that way means bfloat16 arithmetic (relative error 2e-3), so it is tried, not assumed.
    """
    import torch

    if product_speeds()["fp32 fast"] < 1.1:
        return False
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 512, generator=generator), torch.randn(512, 256, generator=generator)
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).norm() / exact.norm())
    if error > 1e-5:
        torch.set_float32_matmul_precision(before)
    return error <= 1e-5
