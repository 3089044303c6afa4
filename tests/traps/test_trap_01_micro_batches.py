"""Averaging each micro-batch's mean loss weighs a target by how many others stand beside it, so training changes with the way a step is cut
up. Every split of one batch with uneven targets must give the gradient and the loss of the whole batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordmill.batches.batch import IGNORE, Batch
from wordmill.train import loop

ROWS = 7


def _uneven(seed: int, masked: float) -> Batch:
    """Rows whose numbers of targets differ widely; the first has one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (ROWS, 12), generator=generator)
    targets = torch.randint(0, 97, (ROWS, 12), generator=generator)
    shares = torch.rand(ROWS, 1, generator=generator) * masked
    targets[torch.rand(ROWS, 12, generator=generator) < shares] = IGNORE
    targets[0, 1:] = IGNORE
    targets[0, 0] = 3
    return Batch(ids, targets, torch.arange(12).expand(ROWS, 12), None)


def _result(make_training, shape: str, batch: Batch, micro_rows: int) -> tuple[float, dict[str, torch.Tensor]]:
    kind = {"objective": "mlm", "model": {"causal": False}} if shape == "masked" else {}
    run = make_training("qwen3" if kind else shape, dtype=torch.float64, rows=ROWS, micro_rows=micro_rows, **kind)
    n = batch.n_targets
    return float(loop.gradients(run, batch, n)) / n, run.optimizer.gradient


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm", "masked"])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), masked=st.floats(0, 1), micro_rows=st.integers(1, ROWS - 1))
def test_any_split_gives_the_same_gradient_and_loss(make_training, shape, seed, masked, micro_rows):
    batch = _uneven(seed, masked)
    loss, whole = _result(make_training, shape, batch, ROWS)
    loss_of_parts, parts = _result(make_training, shape, batch, micro_rows)
    assert abs(loss - loss_of_parts) < 1e-10
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_whole_runs_are_the_same(make_training, micro_rows):
    """Steps of rows with padding (`row_limit`), through the optimiser: losses and weights."""
    losses, weights = [], []
    for size in (5, micro_rows):
        run = make_training("qwen3", dtype=torch.float64, rows=5, micro_rows=size, steps=3, row_limit=13)
        run.rows.limit = 13
        seen: list[float] = []
        run.callbacks.append(lambda run, event, seen=seen: seen.append(run.last["loss"]) if event == "step" else None)
        loop.fit(run)
        losses.append(seen)
        weights.append(dict(run.optimizer.master))
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-8)
