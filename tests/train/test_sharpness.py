"""`train.sam`: the gradient of the place uphill moves the weights of the place below, and nothing else is another than without."""

from __future__ import annotations

import pytest
import torch

from wordmill.core.errors import UsageError
from wordmill.train import checkpoint, loop
from wordmill.train.sharpness import uphill

RADIUS, RATE = 0.5, 0.1
SGD = {"kind": "sgd", "lr": RATE, "momentum": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize("micro_rows", [4, 1])
def test_one_step_as_written_out_by_hand(make_training, micro_rows):
    settings = {"steps": 1, "clip": 0.0, "optim": SGD, "model": {"dropout": 0.2}, "dtype": torch.float64}
    run = make_training(sam=RADIUS, micro_rows=micro_rows, **settings)
    model = make_training(**settings).model.train()
    batch = run.rows.batch(0)

    def gradients() -> dict[str, torch.Tensor]:
        checkpoint.step_seed(0, 0, 0)
        sums: dict[str, torch.Tensor] = {}
        for first in range(0, 4, micro_rows):
            loss = run.objective(model, batch.rows(first, first + micro_rows)).loss_sum / batch.n_targets
            for (name, p), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                assert p.requires_grad
                sums[name] = sums.get(name, 0.0) + g
        return sums

    below = {name: p.detach().clone() for name, p in model.named_parameters()}
    slope = gradients()
    norm = torch.stack([g.square().sum() for g in slope.values()]).sum().sqrt()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(RADIUS * slope[name] / norm)
    there = gradients()
    loop.fit(run)
    for name, p in run.model.named_parameters():
        torch.testing.assert_close(p.detach(), below[name] - RATE * there[name], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(p.detach(), below[name] - RATE * slope[name], rtol=1e-4, atol=1e-7), name


def test_weights_come_back_to_the_bit(make_training):
    run = make_training()
    loop.gradients(run, run.rows.batch(0), 10)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    with uphill(run.optimizer, RADIUS):
        moved = torch.stack([(p.detach() - before[name]).square().sum() for name, p in run.model.named_parameters()]).sum().sqrt()
        assert float(moved) == pytest.approx(RADIUS, rel=1e-3)
        assert not run.optimizer.gradient
    assert all(torch.equal(p.detach(), before[name]) for name, p in run.model.named_parameters())


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_where_nothing_is_learned_all_losses_are_as_without(make_training, shape):
    """What a recurrent model carries from step to step is that of the weights below, too."""
    losses: list[list[float]] = []
    for radius in (0.0, RADIUS):
        told: list[float] = []
        run = make_training(shape, steps=4, sam=radius, optim={**SGD, "lr": 1e-30}, model={"dropout": 0.1})
        run.callbacks.append(lambda run, event, told=told: told.append(run.last["loss"]) if event == "step" else None)
        loop.fit(run)
        losses.append(told)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_resumed_it_ends_as_if_never_stopped(make_training, tmp_path, shape):
    def stop(run, event):
        if run.step == 2 and event == "step":
            run.stop = "SIGTERM"

    whole = make_training(shape, sam=RADIUS, model={"dropout": 0.1})
    loop.fit(whole)
    first = make_training(shape, sam=RADIUS, model={"dropout": 0.1}, folder=tmp_path, callbacks=[stop])
    with pytest.raises(loop.Stopped):
        loop.fit(first)
    second = make_training(shape, sam=RADIUS, model={"dropout": 0.1}, folder=tmp_path)
    loop.restore(second, checkpoint.load_newest(tmp_path / "checkpoints"))
    loop.fit(second)
    assert second.step == whole.step
    assert all(torch.equal(w, second.optimizer.master[name]) for name, w in whole.optimizer.master.items())


def test_weights_too_coarse_to_be_moved_are_refused(make_training):
    with pytest.raises(UsageError, match="bfloat16 can't be moved by so little"):
        make_training(dtype=torch.bfloat16, sam=0.05)
