"""Where and in what numbers a model runs, and how its memory is had from the system.

Two settings of the process make CPU training up to a third faster; nobody should have to know them, so wordmill makes
them itself: freed buffers stay with the process instead of going back page by page (a fresh page costs more than the
arithmetic done on it), and large ones come in huge pages.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from wordmill.core.errors import UsageError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for mallopt(3)."""

DTYPES = ("auto", "bf16", "fp32")


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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the device computes it much faster than float32, else float32.

    Raises `UsageError` for an unknown name.
    """
    import torch

    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}", where="--dtype", fix=f"Use one of {', '.join(DTYPES)}")
    if name == "auto":
        name = "bf16" if fast_bf16(device) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products pay: by the device's instructions, which don't change from run to run as timings do."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(check() for check in capabilities if check is not None)


@cache
def tune_float32() -> bool:
    """Let float32 products on a CPU take oneDNN's way where it is as exact as the usual one, and twice as fast there.

    On CPUs with matrix units that way means bfloat16 arithmetic (relative error 2e-3), so it is tried, not assumed.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 512, generator=generator), torch.randn(512, 256, generator=generator)
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).norm() / exact.norm())
    if error > 1e-5:
        torch.set_float32_matmul_precision(before)
    return error <= 1e-5
