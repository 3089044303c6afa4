"""Each process averaging over its own targets weighs a target by the process that it happens to land on, and a schedule that counts steps
once a process ends early. Two processes with uneven targets must give the gradient and the weights of one, with the learning rate following
the steps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.batches.store import TokenStore
from wordmill.models.config import RecurrentConfig, TransformerConfig
from wordmill.models.folder import build_model
from wordmill.train import loop
from wordmill.train.distributed import world
from wordmill.train.loop import TrainConfig, Training
from wordmill.train.objectives import causal

STEPS = 4
LENGTHS = (7, 23, 1, 40, 12, 31, 5, 18)
TRANSFORMER = TransformerConfig(vocab_size=50, width=16, layers=2, heads=2, kv_heads=1, head_size=8, ffn_size=24)
LSTM = RecurrentConfig(vocab_size=50, embedding_size=12, hidden_size=14)
RUNS = {"transformer": (TRANSFORMER, 5), "lstm": (LSTM, 5), "transformer-one-row": (TRANSFORMER, 1), "lstm-one-row": (LSTM, 1)}
"""Models and rows a step: five divide neither by two processes nor by micro-batches, and of one the other process has none."""


def train(out: Path) -> None:
    """Run in every process: both models some steps, each step's gradients, rates and losses written down by the first."""
    import numpy as np

    offsets = np.concatenate(([0], np.cumsum(LENGTHS)))
    tokens = np.random.default_rng(0).integers(1, 50, offsets[-1] + 1).astype(np.uint16)
    tokens[offsets] = 0
    store = TokenStore(out, tokens, offsets, np.asarray(LENGTHS))
    with world(torch.device("cpu")) as group:
        for name, (shape, n_rows) in RUNS.items():
            model = build_model(shape)
            model.initialise(0)
            model.double()
            settings = {"rows": n_rows, "micro_rows": 2, "context": 16, "steps": STEPS, "optim": {"kind": "adamw", "lr": 1e-2}, "clip": 0.5}
            rows = CarriedRows(store, 16, n_rows, 0) if shape is LSTM else PackedRows(store, 16, n_rows, 0, limit=18)
            run = Training(model, causal, rows, TrainConfig.of(settings), world=group)
            found: dict[str, torch.Tensor] = {}
            step = run.optimizer.step

            def record(factor: float, run=run, step=step, found=found) -> None:
                found.update({f"{run.step}.gradient.{n}": g.clone() for n, g in run.optimizer.gradient.items()})
                found[f"{run.step}.facts"] = torch.tensor([factor, run.last["loss"], run.last["grad_norm"]], dtype=torch.float64)
                step(factor)

            run.optimizer.step = record
            loop.fit(run)
            found |= {f"end.{n}": w.clone() for n, w in run.optimizer.master.items()} | {"targets": torch.tensor(run.targets)}
            save_file({n: x.contiguous() for n, x in found.items()}, out / f"{name}-{group.size}-{group.rank}.safetensors")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(out: Path, processes: int) -> list[subprocess.Popen[str]]:
    common = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, str(out)]
    return [subprocess.Popen(command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one and two processes found."""
    out = tmp_path_factory.mktemp("ranks")
    train(out)
    for process in _start(out, 2):
        errors = process.communicate(timeout=200)[1]
        assert process.returncode == 0, errors[-2000:]
    return out


@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_do_what_one_does(runs, name):
    alone = load_file(runs / f"{name}-1-0.safetensors")
    for rank in range(2):
        together = load_file(runs / f"{name}-2-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=0, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", list(RUNS))
def test_the_schedule_counts_steps(runs, name):
    facts = load_file(runs / f"{name}-2-0.safetensors")
    factors = [float(facts[f"{step}.facts"][0]) for step in range(STEPS)]
    assert factors == pytest.approx([1.0, 1.0, 0.5, 0.0]), "the end of the schedule is the end of the run"


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # what is to be compared is written; the library's threads were seen to abort the interpreter while it was going down
