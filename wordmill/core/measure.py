"""What this machine has and can do, measured in seconds: cores, memory, disk, matrix products, memory traffic.

A rate is the best of several repetitions: what disturbs a measurement only ever slows it down.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordmill.core.device import has_bf16

SECONDS_PER_RATE = 0.35
MATMUL_CPU, MATMUL_GPU = (2048, 1024, 2048), (8192, 8192, 8192)
"""Rows, inner and columns of the product measured: as large as a small model's on a CPU, filling a GPU's units there."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: memory in bytes."""

    name: str
    memory: int
    free: int
    capability: str
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """What is there. Memory and disk in bytes; `cores` is what this process may use, `threads` what torch uses."""

    system: str
    processor: str
    cores: int
    threads: int
    memory: int
    memory_free: int
    disk_free: int
    instructions: list[str]
    compiler: str | None
    gpus: list[Gpu] = field(default_factory=list)


@dataclass(frozen=True)
class Rates:
    """What was measured on one device: matrix products in GFLOP/s by kind of number, memory in GB/s."""

    device: str
    matmul: dict[str, float]
    float32_fast_error: float
    read: float
    copy: float

    @property
    def bf16_gain(self) -> float:
        """How many times as fast bf16 products are as float32's; 0 where there are none."""
        return self.matmul.get("bf16", 0.0) / self.matmul["fp32"]


def describe_machine(folder: Path = Path()) -> Machine:
    """Look at the machine; `folder` says which disk is meant. Takes milliseconds once torch is imported."""
    total, free = _memory()
    return Machine(
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}, torch {torch.__version__}",
        processor=_processor(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        memory=total,
        memory_free=free,
        disk_free=shutil.disk_usage(folder).free,
        instructions=_instructions(),
        compiler=next((name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and shutil.which(name)), None),
        gpus=[_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
    )


def usable_cores() -> int:
    """CPU cores that this process may use: by its affinity and by the container's quota, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def measure_rates(device: torch.device) -> Rates:
    """Matrix products and memory of one device; bfloat16 ones where it has instructions for them (else it would take minutes). Takes
    about two seconds."""
    matmul: dict[str, float] = {}
    matmul["fp32"] = matmul_rate(device, torch.float32)
    with fast_float32(device):
        matmul["fp32 fast"] = matmul_rate(device, torch.float32)
        error = float32_error(device)
    if has_bf16(device):
        matmul["bf16"] = matmul_rate(device, torch.bfloat16)
    read, copy = memory_rates(device)
    return Rates(str(device), matmul, error, read, copy)


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 products may take the faster way: oneDNN on a CPU, TensorFloat-32 on a GPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of one product of a usual shape, counting a multiplication and an addition each."""
    rows, inner, columns = MATMUL_GPU if device.type == "cuda" else MATMUL_CPU
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2e-9 * rows * inner * columns / best_seconds(lambda: torch.mm(a, b, out=out), device)


def float32_error(device: torch.device) -> float:
    """Relative error of a float32 product, as products are set now, against float64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(256, 2048, generator=generator), torch.randn(2048, 256, generator=generator)
    return relative_error(a.to(device) @ b.to(device), a.double() @ b.double())


def memory_rates(device: torch.device) -> tuple[float, float]:
    """GB/s of reading (a sum over a buffer) and of copying (bytes read and written together), beyond every cache."""
    size = (256 if device.type != "cuda" else 1024) * 2**20
    source = torch.ones(size // 4, device=device)
    target = torch.ones_like(source)
    read = best_seconds(lambda: source.view(torch.int32).sum(dtype=torch.int32) if device.type == "cuda" else source.sum(), device)
    copy = best_seconds(lambda: target.copy_(source), device)
    return size / read / 1e9, 2 * size / copy / 1e9


def best_seconds(work: Callable[[], object], device: torch.device, *, seconds: float = SECONDS_PER_RATE) -> float:
    """The shortest time that `work` took, repeating it for about `seconds` (at least three times, after one to warm up)."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def relative_error(got: Tensor, truth: Tensor) -> float:
    """‖got − truth‖ / ‖truth‖ in float64; infinite where anything is not finite."""
    got, truth = got.detach().to("cpu", torch.float64), truth.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    return float((got - truth).norm() / truth.norm().clamp(min=1e-300))


def plain(value: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON-ready values."""
    return asdict(value)


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(properties.name, total, free, f"{properties.major}.{properties.minor}", torch.cuda.is_bf16_supported())


def _memory() -> tuple[int, int]:
    """Total and free memory in bytes, a container's limit included."""
    values = _fields("/proc/meminfo", ":")
    if "MemTotal" in values:
        total, free = (1024 * int(values[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    else:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = total
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return min(total, limit), min(free, max(0, limit - used))
    except (OSError, ValueError):
        return total, free


def _processor() -> str:
    return _fields("/proc/cpuinfo", ":").get("model name", "") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """The instruction sets that matter here, as the kernel names them."""
    flags = _fields("/proc/cpuinfo", ":").get("flags", "").split()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16") if name in flags]


def _fields(path: str, separator: str) -> dict[str, str]:
    """`name: value` lines of a file of the kernel's; empty where there is none. The first of equal names counts."""
    found: dict[str, str] = {}
    try:
        text = Path(path).read_text()
    except OSError:
        return found
    for line in text.splitlines():
        name, _, value = line.partition(separator)
        found.setdefault(name.strip(), value.strip())
    return found
