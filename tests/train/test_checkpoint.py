"""Checkpoints: whole or absent, checked, the last few kept."""

from __future__ import annotations

import pytest
import torch

from wordmill.core.errors import CheckpointError, DiskFullError
from wordmill.train import checkpoint
from wordmill.train.checkpoint import Checkpoint, listing, load_newest, save


def _state(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"w": torch.full((100, 100), float(step)), "empty": torch.zeros(0)}, {"seconds": 1.5, "memory": {"word": "磨坊"}}
    )


def test_there_and_back_and_only_the_newest_are_kept(tmp_path):
    assert load_newest(tmp_path) is None
    for step in (1, 2, 10):
        save(tmp_path, _state(step), keep=2)
    assert [place.name for place in listing(tmp_path)] == ["step-00000002", "step-00000010"]
    newest = load_newest(tmp_path)
    assert newest is not None and newest.step == 10
    assert torch.equal(newest.tensors["w"], torch.full((100, 100), 10.0))
    assert newest.facts == {"seconds": 1.5, "memory": {"word": "磨坊"}}
    save(tmp_path, _state(10), keep=2)  # the same step again, after a resume
    assert len(listing(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["flipped bit", "torn tensors", "torn json", "no json", "no tensors", "not json", "empty json"])
def test_a_corrupt_one_names_itself_and_the_older_one(tmp_path, harm):
    save(tmp_path, _state(1), keep=2)
    place = save(tmp_path, _state(2), keep=2)
    tensors, facts = place / checkpoint.TENSORS, place / checkpoint.FACTS
    data = tensors.read_bytes()
    if harm == "flipped bit":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "torn tensors":
        tensors.write_bytes(data[:5000])
    elif harm == "torn json":
        facts.write_text(facts.read_text()[:20])
    elif harm == "not json":
        facts.write_bytes(b"\xff\xfe\x00")
    elif harm == "empty json":
        facts.write_text("{}")
    else:
        (facts if harm == "no json" else tensors).unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002.*Delete .*step-00000002.* resume from step-00000001") as caught:
        load_newest(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_only_one_corrupt(tmp_path):
    (save(tmp_path, _state(1), keep=2) / checkpoint.FACTS).unlink()
    with pytest.raises(CheckpointError, match="from the beginning"):
        load_newest(tmp_path)


def test_a_kill_leaves_the_last_one(tmp_path, monkeypatch):
    """Whatever a kill interrupts, what is there is whole: the part folder is no checkpoint, and the next save sweeps it up."""
    save(tmp_path, _state(1), keep=2)
    (tmp_path / ".step-00000002.part").mkdir()
    (tmp_path / ".step-00000002.part" / checkpoint.TENSORS).write_bytes(b"half")
    newest = load_newest(tmp_path)
    assert newest is not None and newest.step == 1
    save(tmp_path, _state(2), keep=2)
    assert not list(tmp_path.glob(".*"))


def test_leftovers_of_other_steps_are_swept_up(tmp_path):
    (tmp_path / ".step-00000007.part").mkdir(parents=True)
    save(tmp_path, _state(9), keep=2)
    assert [place.name for place in tmp_path.iterdir()] == ["step-00000009"]


def test_a_full_disk_is_one_line_and_leaves_the_last_one(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from wordmill.models import folder

    save(tmp_path, _state(1), keep=1)

    def full(tensors, path, metadata=None):
        path.write_bytes(b"some")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # what the library says

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(DiskFullError, match="no space left while writing a checkpoint") as caught:
        save(tmp_path, _state(2), keep=1)
    assert "\n" not in str(caught.value)
    assert [place.name for place in tmp_path.iterdir()] == ["step-00000001"]
    newest = load_newest(tmp_path)
    assert newest is not None and newest.step == 1
