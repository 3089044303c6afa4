"""Checkpoints: whole or absent, checksummed, the last few kept.

    checkpoints/step-00000120/   state.safetensors (all tensors)   state.json (everything else, and the checksum)

A checkpoint is written beside its place and renamed into it, so a process killed at any moment leaves the last one
intact. What is random follows from the seed and the step, so no generator has to be saved.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wordmill.core.errors import CheckpointError, DataError, disk_errors
from wordmill.core.files import hash_file, read_json, write_json
from wordmill.models.folder import write_tensors

TENSORS, FACTS = "state.safetensors", "state.json"


@dataclass
class Checkpoint:
    """The state of a run between two steps."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    """Weights, moments, averages, recurrent state."""
    facts: dict[str, Any]
    """Everything that is not a tensor."""


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint into `folder` and drop all but the newest `keep`.

    Raises `DiskFullError`; the older checkpoints are then still there.
    """
    place = folder / f"step-{checkpoint.step:08}"
    part = folder / f".{place.name}.part"
    with disk_errors(place, "writing a checkpoint"):
        try:
            for left in folder.glob(".step-*.part"):  # what a kill has left
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir(parents=True)
            save_tensors(checkpoint.tensors, part / TENSORS)
            write_json(part / FACTS, {"step": checkpoint.step, "sha256": hash_file(part / TENSORS), **checkpoint.facts})
            shutil.rmtree(place, ignore_errors=True)
            os.replace(part, place)
            _sync_folder(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    for old in listing(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a file and flush it to the disk. Raises OSError, with its number, also when the disk is full."""
    write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def listing(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none yet.

    Raises `CheckpointError` for a torn one: it names the file, and the older checkpoint that would be taken without it.
    """
    found = listing(folder)
    if not found:
        return None
    newest = found[-1]
    fix = f"Delete {newest} to resume from " + (found[-2].name if len(found) > 1 else "the beginning")
    try:
        facts = read_json(newest / FACTS)
        if hash_file(newest / TENSORS) != facts.pop("sha256", None):
            raise CheckpointError("this checkpoint is corrupt: its checksum does not fit", where=newest / TENSORS, fix=fix)
        return Checkpoint(int(facts.pop("step")), load_file(newest / TENSORS), facts)
    except (DataError, OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"this checkpoint is corrupt ({error})", where=newest, fix=fix) from error


def step_seed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and whatever else is random in a step: a function of the step, so that resuming needs no generator."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % 2**63)
