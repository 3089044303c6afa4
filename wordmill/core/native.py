"""Compiles a C file when it is first needed, and keeps it. Without a C compiler, the callers do the same in PyTorch.

The library's OpenMP runtime is the one that torch has loaded already: two of them would fight for the cores.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from wordmill.core.errors import WordmillError
from wordmill.core.files import hash_values, write_atomic

FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
SECONDS_TO_COMPILE = 60


class Refusal(Exception):
    """Why there is no compiled library."""


def cache_folder() -> Path:
    """Where compiled code is kept: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wordmill"


def load(source: Path, *define: str) -> ctypes.CDLL | str:
    """The library compiled from `source` with the macros in `define`, or the reason why there is none. Callers keep it: loading again
    costs a millisecond."""
    try:
        return ctypes.CDLL(str(_compiled(source, tuple(f"-D{name}" for name in define))))
    except (Refusal, WordmillError, OSError) as error:
        return str(error)


def _compiled(source: Path, macros: tuple[str, ...]) -> Path:
    compiler, runtime = _compiler(), _openmp_runtime()
    flags = FLAGS + WIDE + macros
    key = hash_values(source.read_text(encoding="utf-8"), flags, compiler, str(runtime), torch.__version__, _processor())[:16]
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as temporary:
            made, built = Path(temporary) / "made.o", Path(temporary) / "made.so"
            _call(compiler, *flags, "-c", str(source), "-o", str(made))
            # In a call of its own and without -fopenmp, which would bring the system's runtime in as well.
            _call(compiler, "-shared", str(made), "-o", str(built), str(runtime), "-lm")
            write_atomic(path, lambda part: shutil.copyfile(built, part))
    return path


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_COMPILE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"the C compiler did not run: {error}") from error
    if done.returncode:
        raise Refusal(f"the C compiler failed: {' '.join(done.stderr.split())[-200:]}")


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), "cc", "gcc"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise Refusal("there is no C compiler (cc)")


def _openmp_runtime() -> Path:
    """The libgomp that torch brought along (it is loaded: torch is imported)."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        raise Refusal("only Linux is supported") from None
    found = sorted({Path(line.split()[-1]) for line in maps.splitlines() if "libgomp" in line})
    return own_runtime(found, Path(torch.__file__).resolve().parent.parent)


def own_runtime(found: list[Path], packages: Path) -> Path:
    """Torch's libgomp among those loaded. Other packages (scikit-learn, sentencepiece) bring one along too; torch's lies in its own
    folder below `packages`, or with the system. Raises `Refusal` when that leaves none or several."""
    own = [path for path in found if packages / "torch" in path.parents] or [path for path in found if packages not in path.parents]
    if len(own) != 1:
        raise Refusal(f"torch does not run on one libgomp but on {', '.join(map(str, own)) or 'none'}")
    return own[0]


def _processor() -> str:
    """What -march=native depends on: the cache may be shared between machines."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "") + next(
        (line for line in lines if line.startswith("model name")), ""
    )
