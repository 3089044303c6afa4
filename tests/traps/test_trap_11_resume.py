"""A run resumed after a kill may repeat or skip data, or forget its random state, moments or recurrent state, and nobody can tell from the
loss. A run killed with SIGKILL at any step, mid-epoch or while it writes a checkpoint, and resumed must end with the weights, metrics and
samples of one that never stopped."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TINY_LSTM, TINY_RUN
from wordmill.cli.app import main

STEPS = 30
COMMON = [
    "--steps",
    str(STEPS),
    "model.dropout=0.2",
    "train.ema=0.9",
    "train.save_steps=4",
    "train.evaluations=6",
    "--seed",
    "3",
    "--quiet",
]
CASES = {"transformer": [*TINY_RUN, "--dtype", "bf16", *COMMON], "lstm": [*TINY_LSTM, "--dtype", "fp32", *COMMON]}

# The killed run, in a process of its own: the command, unmeasured as the others are; the second argument says at which checkpoint it
# kills itself.
DRIVER = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from wordmill.tasks import plan
from wordmill.train import checkpoint
from wordmill.train.budget import Speed
plan._measure = lambda *a, **k: Speed(0.01, 64, 1e6, 1e4)
plan.matmul_rate = lambda *a, **k: 10.0
real, count, fatal = checkpoint.write_json, 0, int(sys.argv[1])
def write_json(path, value):
    global count
    count += 1
    if count == fatal:
        path.write_text('{"step": 1')
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, value)
checkpoint.write_json = write_json
from wordmill.cli.app import main
sys.exit(main(sys.argv[2:]))
"""


def _arguments(prepared: Path, case: str, out: Path) -> list[str]:
    return ["pretrain", str(prepared / "corpus"), "--tokenizer", str(prepared / "tokenizer"), "-o", str(out), *CASES[case]]


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """Runs that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        from wordmill.tasks import plan
        from wordmill.train.budget import Speed

        patch.setattr(plan, "_measure", lambda *a, **k: Speed(0.01, 64, 1e6, 1e4))
        patch.setattr(plan, "matmul_rate", lambda *a, **k: 10.0)
        folder = tmp_path_factory.mktemp("whole")
        for case in CASES:
            assert main(_arguments(prepared, case, folder / case)) == 0
    return folder


def _kill(prepared: Path, case: str, out: Path, *, at_row: int | None, in_checkpoint: int = 0) -> None:
    """Start the run and kill it: when its log has that many rows, or inside the writing of a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(in_checkpoint), *_arguments(prepared, case, out)], stderr=subprocess.PIPE, text=True
    )
    log = out / "metrics.jsonl"
    while at_row is not None and process.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= at_row:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == -signal.SIGKILL, f"it was to be killed, and ended with {process.returncode}: {errors[-1500:]}"


def _rows(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("time", "tokens_per_second", "mfu")} for row in rows]


def _same(a: Path, b: Path) -> None:
    assert _rows(a / "metrics.jsonl") == _rows(b / "metrics.jsonl")
    assert (a / "samples.jsonl").read_text() == (b / "samples.jsonl").read_text()
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.usefixtures("unmeasured")
def test_killed_at_a_random_step(prepared, whole, case, tmp_path):
    at_row = random.randrange(6, STEPS - 6)
    print(f"killed after {at_row} rows of the log")  # shown when the test fails
    out = tmp_path / "run"
    _kill(prepared, case, out, at_row=at_row)
    assert not (out / "model").exists()
    assert main(["pretrain", "-o", str(out), "--resume", "--quiet"]) == 0
    _same(out, whole / case)


@pytest.mark.usefixtures("unmeasured")
def test_killed_while_writing_a_checkpoint(prepared, whole, tmp_path):
    out = tmp_path / "run"
    _kill(prepared, "transformer", out, at_row=None, in_checkpoint=3)
    places = sorted(place.name for place in (out / "checkpoints").glob("*step-*"))
    assert places == [".step-00000012.part", "step-00000004", "step-00000008"]
    assert main(["pretrain", "-o", str(out), "--resume", "--quiet"]) == 0
    _same(out, whole / "transformer")
    assert not list((out / "checkpoints").glob(".*")), "what was half-written is swept up"


@pytest.mark.usefixtures("unmeasured")
def test_a_finished_run_is_left_alone(whole, capsys):
    weights = whole / "lstm" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(["pretrain", "-o", str(whole / "lstm"), "--resume"]) == 0
    assert "finished" in capsys.readouterr().err
    assert weights.stat().st_mtime_ns == before
