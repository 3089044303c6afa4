"""What every benchmark shares: measured child processes, interleaving, medians, the machine, and result files.

Nothing here imports torch: a benchmark's parent process stays small and idle, so that the child that is being measured
has the whole machine.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path(__file__).resolve().parent / "results"
WORDMILL: tuple[str, ...] = (sys.executable, "-m", "wordmill")
T = TypeVar("T")


class BenchmarkError(RuntimeError):
    """A measured process failed; the message holds the end of its output."""


@dataclass(frozen=True)
class Measured:
    """One finished process: what it printed, its wall time and its processor's time in seconds, its peak resident memory in bytes."""

    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int
    cpu: float

    def json(self) -> dict[str, Any]:
        """The last line of standard output that is a JSON object."""
        for line in reversed(self.stdout.splitlines()):
            if line.startswith("{"):
                value = json.loads(line)
                if isinstance(value, dict):
                    return value
        raise BenchmarkError(f"no JSON object in the output:\n{self.stdout[-2000:]}\n{self.stderr[-2000:]}")


def measure(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 3600.0) -> Measured:
    """Run a command to its end; wall time and peak memory come from the kernel's accounting for that process alone.

    Raises BenchmarkError where the command exits with anything but 0, or runs past `timeout` seconds.
    """
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        start = time.perf_counter()
        child = subprocess.Popen(list(command), stdout=out, stderr=err, env={**os.environ, **(env or {})}, start_new_session=True)
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that being stopped stops the child as well
        try:
            status, usage = _wait(child, start + timeout)
        except BaseException:  # Ctrl-C too: nothing that was started here runs on
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if status != 0:
        raise BenchmarkError(f"{' '.join(command)}\nexit code {status}\n{stdout[-1500:]}\n{stderr[-3000:]}")
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kilobytes on Linux
    return Measured(stdout, stderr, seconds, usage.ru_maxrss * scale, usage.ru_utime + usage.ru_stime)


def _wait(child: subprocess.Popen[bytes], deadline: float) -> tuple[int, resource.struct_rusage]:
    """Like Popen.wait with a deadline, but with the child's own resource usage."""
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage
        if time.perf_counter() > deadline:
            os.killpg(child.pid, signal.SIGKILL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = -signal.SIGKILL
            raise BenchmarkError(f"ran past its time limit: {child.args!r}")
        time.sleep(0.02)


def interleave(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run every case once a round, in alternating order, so that drift of the machine falls on all of them alike.

    A case that fails is reported and left out of the later rounds; the others go on.
    """
    results: dict[str, list[T]] = {name: [] for name in cases}
    failed: set[str] = set()
    for round_number in range(rounds):
        names = list(cases) if round_number % 2 == 0 else list(reversed(cases))
        for name in names:
            if name in failed:
                continue
            log(f"round {round_number + 1}/{rounds}: {name}")
            try:
                results[name].append(cases[name]())
            except BenchmarkError as error:
                failed.add(name)
                log(f"  failed: {error}")
    return {name: values for name, values in results.items() if values}


def median(values: Sequence[float]) -> float:
    """The median, as a float."""
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> float:
    """Half the range over the median: 0.1 reads as ±10 %."""
    return (max(values) - min(values)) / 2 / median(values) if len(values) > 1 else 0.0


def log(message: str) -> None:
    """Progress goes to standard error, so that standard output holds the results only."""
    print(message, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """The processor, memory, load, and the versions that the figures depend on."""
    model, flags = platform.processor(), ""
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        text = cpuinfo.read_text()
        model = (re.search(r"model name\s*: (.*)", text) or [None, model])[1] or model
        flags = (re.search(r"flags\s*: (.*)", text) or [None, ""])[1] or ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    versions = {}
    for package in ("torch", "transformers", "tokenizers", "datasets", "tiktoken", "numpy", "wordmill"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gib": round(memory / 2**30, 1),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats as they are formatted by the caller."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def save(name: str, result: Mapping[str, Any], text: str, folder: Path = RESULTS) -> None:
    """Write NAME.json (everything measured, the machine, the command) and NAME.md (the table), and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    command = "python " + " ".join([Path(sys.argv[0]).name, *(_portable(argument) for argument in sys.argv[1:])])
    where = machine()
    record = {"benchmark": name, "command": command, "machine": where, **result}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    heading = (
        f"# {name}\n\n`{command}`\n\n{where['processor']}, {where['cores']} cores, {', '.join(where['bf16']) or 'no bf16'}, "
        f"{where['memory_gib']} GiB; torch {where['versions'].get('torch', '?')}; {where['date']}; "
        f"load average {where['load_average'][0]}\n\n"
    )
    (folder / f"{name}.md").write_text(heading + text + "\n")
    print(text)


def _portable(argument: str) -> str:
    """An argument as others can read it: of a path on this machine, only the last part."""
    return Path(argument).name if argument.startswith(("/", "~")) else argument


def wordmill(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 3600.0) -> Measured:
    """Run a wordmill command as its own process, with this interpreter."""
    return measure([*WORDMILL, *arguments], env=env, timeout=timeout)


def child(script: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 7200.0) -> Measured:
    """Run one of these scripts as a worker: a process of its own, so that its memory and caches are its own."""
    return measure([sys.executable, script, "--worker", *arguments], env=env, timeout=timeout)


def print_json(value: Mapping[str, Any]) -> None:
    """A worker's answer: one line of JSON on standard output."""
    print(json.dumps(value), flush=True)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run folder's metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]
