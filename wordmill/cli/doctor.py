"""`wordmill doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wordmill.cli.common import DeviceOption, JsonOption, QuietOption, emit, reporter
from wordmill.core.progress import human_bytes, plural

if TYPE_CHECKING:
    import torch

    from wordmill.core.measure import Machine, Rates
    from wordmill.models.checks import KernelCheck


def doctor(device: DeviceOption = "auto", json: JsonOption = False, quiet: QuietOption = False) -> int:
    """What this machine can do, measured, and what wordmill will use.

    Shows cores, memory, disk and GPUs; measures matrix products and memory; and compares each kernel that wordmill
    uses with the same computation in float64 on the CPU, since a device can be wrong without a word. Takes some
    seconds; exits with 1 when a kernel is wrong.
    """
    from wordmill.core.device import choose_device
    from wordmill.core.measure import describe_machine, measure_rates
    from wordmill.models.checks import check_kernels

    place = choose_device(device)
    notes = reporter(quiet)
    machine = describe_machine()
    notes.note(f"measuring matrix products and memory on {place} …")
    rates = measure_rates(place)
    notes.note("checking the kernels against float64 …")
    checks = check_kernels(place, ("fp32", "bf16") if "bf16" in rates.matmul else ("fp32",))
    choices = choose(place, machine, rates)
    emit(json, _plain(machine, rates, checks, choices), _text(machine, rates, checks, choices))
    return 0 if all(check.ok for check in checks) else 1


def choose(device: torch.device, machine: Machine, rates: Rates) -> dict[str, str]:
    """What wordmill will use here, each with its reason."""
    from pathlib import Path

    from wordmill.core import native
    from wordmill.core.device import choose_dtype, choose_numbers, product_speeds, tune_float32, tune_memory
    from wordmill.models import kernels

    dtype = {"torch.bfloat16": "bf16", "torch.float32": "fp32"}[str(choose_dtype("auto", device))]
    gain = f"bf16 products are {rates.bf16_gain:.1f} × as fast as float32's here" if rates.bf16_gain else "there is no bf16 here"
    if dtype == "bf16":
        gain += "; master weights stay float32"
        if choose_numbers("auto", device, whole=True) == "mixed":
            gain += "; the whole of a pretrained model is fine-tuned in mixed numbers (float32 but for the products)"
    elif choose_dtype("auto", device, reading=True) != choose_dtype("auto", device):
        gain += "; generating, which reads weights more than it computes, takes bf16"
    error = rates.float32_fast_error
    chosen = {"device": str(device) + ("" if machine.gpus else " (torch sees no GPU)"), "dtype": f"{dtype}: {gain}"}
    if device.type == "cpu":
        faster = rates.matmul["fp32 fast"] / rates.matmul["fp32"]
        chosen["float32 products"] = (
            f"the faster way: {faster:.1f} ×, with a relative error of {error:.1e} as good as float32"
            if tune_float32()
            else "the usual way: the other is no faster"
            if product_speeds()["fp32 fast"] < 1.1
            else f"the exact way: the faster one ({faster:.1f} ×) rounds to fewer bits, with a relative error of {error:.1e}"
        )
        chosen["memory"] = "freed buffers are kept, large ones come in huge pages" if tune_memory() else "as the C library does it"
    chosen["threads"] = f"{machine.threads} of {plural(machine.cores, 'core')}"
    if device.type == "cpu":
        found = native.load(Path(kernels.__file__).with_name("kernels.c"))
        chosen["kernels"] = (
            f"PyTorch's own, which are slower: {found}" if isinstance(found, str) else "our own in C, compiled on this machine"
        )
    chosen["torch.compile"] = "only when asked for (--compile on)" if device.type == "cpu" else "where a trial shows that it pays"
    return chosen


def _plain(machine: Machine, rates: Rates, checks: list[KernelCheck], choices: dict[str, str]) -> dict[str, Any]:
    from wordmill.core.measure import plain

    return {
        "machine": plain(machine),
        "rates": {**plain(rates), "units": {"matmul": "GFLOP/s", "read": "GB/s", "copy": "GB/s"}},
        "kernels": [{**plain(check), "ok": check.ok} for check in checks],
        "will_use": choices,
        "ok": all(check.ok for check in checks),
    }


def _text(machine: Machine, rates: Rates, checks: list[KernelCheck], choices: dict[str, str]) -> str:
    from wordmill.models.checks import TOLERANCE

    lines = ["Machine"]
    lines += _rows(
        {
            "system": machine.system,
            "processor": f"{machine.processor}, {plural(machine.cores, 'core')}, {plural(machine.threads, 'thread')}",
            "instructions": ", ".join(machine.instructions) or "unknown",
            "memory": f"{human_bytes(machine.memory)}, {human_bytes(machine.memory_free)} free",
            "disk": f"{human_bytes(machine.disk_free)} free",
        }
    )
    for gpu in machine.gpus:
        lines += _rows({"GPU": f"{gpu.name}, {human_bytes(gpu.memory)}, {human_bytes(gpu.free)} free, compute capability {gpu.capability}"})
    lines += ["", f"Measured on {rates.device}"]
    names = {"fp32": "matrix product fp32", "fp32 fast": "… the faster way", "bf16": "matrix product bf16"}
    lines += _rows({names[kind]: _flops(rate) for kind, rate in rates.matmul.items()})
    lines += _rows({"memory": f"read {rates.read:.1f} GB/s, copy {rates.copy:.1f} GB/s (read and written together)"})
    lines += ["", "Kernels against float64 on the CPU: relative error of the result, of the gradients"]
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = "ok" if check.ok else f"WRONG: {check.problem or f'more than the {TOLERANCE[check.dtype]:.0e} that rounding explains'}"
        lines.append(f"  {check.name:{width}}  {check.dtype}  {check.forward:.1e}  {check.backward:.1e}  {verdict}")
    lines += ["", "wordmill will use", *_rows(choices)]
    wrong = [f"{check.name} ({check.dtype})" for check in checks if not check.ok]
    if wrong:
        lines += [
            "",
            f"Don't train here: {', '.join(wrong)} computed something else. Another version of torch or of the driver may mend it.",
        ]
    return "\n".join(lines)


def _rows(values: dict[str, str]) -> list[str]:
    return [f"  {name:20} {value}" for name, value in values.items()]


def _flops(rate: float) -> str:
    return f"{rate:,.0f} GFLOP/s" if rate < 1e4 else f"{rate / 1e3:,.1f} TFLOP/s"
