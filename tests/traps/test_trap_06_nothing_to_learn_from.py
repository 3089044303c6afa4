"""A step in which every target is masked logs a loss of 0 or NaN and nobody notices, and one loss that is not finite spoils all weights for
good. The first must stop the run with an error that names the step; the second must stop it before the weights change, with the last good
checkpoint kept."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from wordmill.batches.batch import IGNORE
from wordmill.core.errors import TrainingError
from wordmill.train import checkpoint, loop


class _Spoilt:
    """Rows of which one step's targets are all masked."""

    def __init__(self, rows, bad_step):
        self.rows, self.bad_step = rows, bad_step

    def batch(self, step, first=0, last=None):
        batch = self.rows.batch(step, first, last)
        return dataclasses.replace(batch, targets=torch.full_like(batch.targets, IGNORE)) if step == self.bad_step else batch


def test_a_step_without_targets_is_an_error_that_names_it(make_training):
    run = make_training()
    run.rows = _Spoilt(run.rows, 2)
    with pytest.raises(TrainingError, match="step 3 has no target"):
        loop.fit(run)
    assert run.step == 2


def _poison(at_step):
    """An objective whose loss is not a number from one step on."""
    calls = []

    def objective(model, batch, state=None):
        from wordmill.train.objectives import causal

        calls.append(1)
        out = causal(model, batch, state)
        return dataclasses.replace(out, loss_sum=out.loss_sum * math.nan) if len(calls) > at_step else out

    return objective


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(make_training, tmp_path):
    run = make_training(folder=tmp_path, save_steps=1)
    run.module.objective = _poison(3)
    with pytest.raises(TrainingError, match="loss is not finite at step 4") as caught:
        loop.fit(run)
    assert "step-00000003" in str(caught.value)
    kept = checkpoint.load_newest(tmp_path / "checkpoints")
    assert kept is not None and kept.step == 3
    assert all(bool(x.isfinite().all()) for x in kept.tensors.values())
    assert all(bool(w.isfinite().all()) for w in run.optimizer.master.values()), "the weights were changed by a loss that is no number"


def test_weights_that_are_not_finite_are_never_saved(make_training, tmp_path):
    """The loss of a step can be a number while its update is not: the next checkpoint must not replace the good ones."""
    run = make_training(folder=tmp_path, save_steps=1)

    def spoil(run, event):
        if event == "step" and run.step == 3:
            next(iter(run.optimizer.master.values())).view(-1)[0] = math.inf

    run.callbacks.append(spoil)
    with pytest.raises(TrainingError, match="not finite at step 3"):
        loop.fit(run)
    kept = checkpoint.load_newest(tmp_path / "checkpoints")
    assert kept is not None and kept.step == 2
