"""`torchrun … wordmill pretrain` on two CPU processes: one model folder, and only the first process talks."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from tests.conftest import TINY_RUN
from wordmill.models.folder import load_model
from wordmill.train.distributed import World


def test_shares_hold_every_row_once():
    for rows in (1, 2, 5, 16):
        for size in (1, 2, 3, 7):
            shares = [World(rank, size).share(rows) for rank in range(size)]
            assert [i for first, last in shares for i in range(first, last)] == list(range(rows))
            assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1


def test_torchrun_end_to_end(prepared, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wordmill",
               "pretrain", str(prepared / "corpus"), "--tokenizer", str(prepared / "tokenizer"), "-o", str(out),
               "--steps", "4", "--json", *TINY_RUN]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts["step"] == 4 and facts["tokens"] == 4 * 4 * 16
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps == [1, 2, 3, 4]
    assert done.stderr.count("done in") == 1
    model = load_model(out / "model")
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
