"""Tensors in files, read without taking more memory than they need.

A safetensors file is mapped into memory; a tensor's pages are copied piece by piece and given back, so that the file
never stands beside the weights made of it. Old `.bin` files are pickles: they are read with PyTorch's restricted
unpickler, which builds tensors and plain containers and refuses everything that would run code.
"""

from __future__ import annotations

import json
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wordmill.core.errors import ModelError
from wordmill.core.files import hash_file, read_json

WEIGHTS = "model.safetensors"
OLD_WEIGHTS = "pytorch_model.bin"
PIECE = 2**23
"""Bytes that are copied at a time."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass
class Stored:
    """A tensor in a file: its shape and dtype are known, its entries not yet read."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    _map: mmap.mmap | None = None
    _start: int = 0
    _tensor: Tensor | None = field(default=None, repr=False)

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, some rows) from the first to the last; a piece is gone when the next one is asked for."""
        if self._tensor is not None:
            yield 0, self._tensor
            return
        assert self._map is not None
        shape = self.shape or (1,)
        width = self.dtype.itemsize
        for size in shape[1:]:
            width *= size
        rows = max(1, PIECE // max(width, 1))
        for first in range(0, shape[0] if width else 0, rows):
            count = min(rows, shape[0] - first)
            start = self._start + first * width
            entries = count * width // self.dtype.itemsize
            yield first, torch.frombuffer(self._map, dtype=self.dtype, count=entries, offset=start).view(count, *shape[1:])
            _give_back(self._map, start, start + count * width)

    def copy_to(self, out: Tensor, *, shift: float = 0.0) -> None:
        """Write the entries (plus `shift`) into `out`, of the same shape and any dtype."""
        target = out if self.shape else out.view(1)
        for first, piece in self.pieces():
            rows = target[first : first + len(piece)] if piece.ndim else target[0]
            rows.copy_(piece)
            if shift:
                rows.add_(shift)

    def equals(self, other: Stored) -> bool:
        """Whether both hold the same entries."""
        if self.shape != other.shape:
            return False
        return all(torch.equal(a[1], b[1]) for a, b in zip(self.pieces(), other.pieces(), strict=True))


def _give_back(mapped: mmap.mmap, start: int, stop: int) -> None:
    """Let go of the pages that lie wholly between two places; they are read from the file again if they are wanted."""
    page = mmap.PAGESIZE
    start, stop = -(-start // page) * page, stop // page * page
    if stop > start and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)


def open_weights(folder: Path) -> dict[str, Stored]:
    """All tensors of a model folder: model.safetensors, else pytorch_model.bin, whole or in shards.

    Raises `ModelError` for a file that is missing, torn, or a pickle that would run code.
    """
    found: dict[str, Stored] = {}
    for path in weight_files(folder):
        found.update(read_pickle(path) if path.suffix == ".bin" else read_safetensors(path))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that a model folder is opened by. Raises `ModelError` where one is missing."""
    for name in (WEIGHTS, OLD_WEIGHTS):
        index = folder / f"{name}.index.json"
        if index.exists():
            files = sorted(set(_weight_map(index).values()))
        elif (folder / name).exists():
            files = [name]
        else:
            continue
        for file in files:
            if not (folder / file).exists():
                raise ModelError(f"this model folder has no {file}, which {index.name} names", where=folder)
        return [folder / file for file in files]
    raise ModelError(f"this model folder has no {WEIGHTS} (nor {OLD_WEIGHTS})", where=folder)


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of weights that a model folder is opened by, by their names. Raises as `weight_files`."""
    return {path.name: _hashed(path, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(folder)}


@cache
def _hashed(path: Path, size: int, changed: int) -> str:
    """Of a file as it was then: read once in a process."""
    return hash_file(path)


def _weight_map(index: Path) -> dict[str, str]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) and Path(name).name == name for name in files.values()):
        raise ModelError("weight_map must give for each tensor the name of a file beside it", where=index)
    return files


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file. Raises `ModelError` when it is torn or is not safetensors."""
    try:
        with safe_open(path, framework="pt"):
            pass  # checks the whole header against the file's length
    except (SafetensorError, OSError) as error:
        raise ModelError(f"this file is torn or is not safetensors ({error})", where=path, fix="Copy or download it again") from error
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header: dict[str, Any] = json.loads(mapped[8:start])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"tensor {name} has the dtype {entry['dtype']}, which is not supported", where=path)
        found[name] = Stored(path, tuple(entry["shape"]), DTYPES[entry["dtype"]], mapped, start + entry["data_offsets"][0])
    return found


def read_pickle(path: Path) -> dict[str, Stored]:
    """The tensors of an old `.bin` file. Raises `ModelError` when it is torn, holds something else, or would run code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other makers, which are refused below if they are no weights
            # A zip file can be mapped; the format before PyTorch 1.6 can't.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            "this pickle would run code, or is damaged, so it is not opened",
            where=path,
            fix=f"Ask for the model as {WEIGHTS}",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(f"this file is torn or holds no weights ({error})", where=path, fix="Copy or download it again") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ModelError("this file holds something else than weights", where=path)
    return {name: Stored(path, tuple(x.shape), x.dtype, _tensor=x) for name, x in found.items()}
