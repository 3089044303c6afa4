"""The training loop: clipping, averaging, callbacks, time, learning."""

from __future__ import annotations

import json

import pytest
import torch

from wordmill.core.errors import CheckpointError
from wordmill.core.progress import Task
from wordmill.train import loop
from wordmill.train.log import Log
from wordmill.train.loop import Stopped, TrainConfig


def test_it_learns_and_tells_the_callbacks(make_training):
    events: list[tuple[str, int]] = []
    losses: list[float] = []
    run = make_training(steps=30, callbacks=[lambda run, event: events.append((event, run.step))])
    run.callbacks.append(lambda run, event: losses.append(run.last["loss"]) if event == "step" else None)
    loop.fit(run)
    assert losses[-1] < losses[0] - 1
    assert events == [("step", i + 1) for i in range(30)] + [("end", 30)]
    assert not run.model.training


def test_long_gradients_are_clipped_to_the_norm(make_training):
    norms: list[float] = []
    for clip in (0.01, 0.0):
        run = make_training(steps=1, clip=clip)
        step = run.optimizer.step
        run.optimizer.step = lambda factor, run=run, step=step: (norms.append(float(run.optimizer.gradient_norm())), step(factor))
        loop.fit(run)
        norms.append(run.last["grad_norm"])
    clipped, seen, whole, seen_again = norms
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert seen == pytest.approx(seen_again) == pytest.approx(whole)
    assert whole > 0.1


def test_the_average_follows_its_rule_and_is_what_is_saved(make_training):
    run = make_training(steps=6, ema=0.6)
    name = "embedding.weight"
    expected = run.optimizer.master[name].clone()

    def follow(run, event):
        nonlocal expected
        if event == "step":
            decay = min(0.6, run.step / (9 + run.step))
            expected = decay * expected + (1 - decay) * run.optimizer.master[name]

    run.callbacks.append(follow)
    loop.fit(run)
    torch.testing.assert_close(run.weights()[name], expected)
    assert not torch.equal(run.weights()[name], run.optimizer.master[name])
    assert make_training().weights() is not None


def test_time_mode_ends_on_time(make_training, monkeypatch):
    """Steps of 0.9 s on a clock of our own: 10 s are 11 steps, within half a step, with the rate near its floor at the last."""
    clock = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    rates: list[float] = []
    run = make_training(seconds=10.0, schedule={"kind": "linear", "warmup": 0.0}, save_seconds=3.0)

    batch = run.rows.batch

    def slow(*arguments):
        clock[0] += 0.9
        return batch(*arguments)

    run.rows.batch = slow
    run.callbacks.append(lambda run, event: rates.append(run.last["lr_factor"]) if event == "step" else None)
    loop.fit(run)
    assert abs(clock[0] - 110.0) <= 0.45
    assert run.step == 11
    assert rates == sorted(rates, reverse=True)


def test_a_stop_saves_and_raises(make_training, tmp_path):
    run = make_training(steps=9, folder=tmp_path)
    run.callbacks.append(lambda run, event: setattr(run, "stop", "SIGTERM") if event == "step" and run.step == 4 else None)
    with pytest.raises(Stopped) as stopped:
        loop.fit(run)
    assert stopped.value.args == ("SIGTERM", tmp_path)
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_restored_runs_go_on_to_the_bit(make_training, tmp_path, shape):
    settings = {"ema": 0.9, "model": {"dropout": 0.2}, "steps": 8}
    whole = make_training(shape, **settings)
    loop.fit(whole)
    first = make_training(shape, **settings, folder=tmp_path)
    first.callbacks.append(lambda run, event: setattr(run, "stop", "SIGINT") if event == "step" and run.step == 3 else None)
    with pytest.raises(Stopped):
        loop.fit(first)
    second = make_training(shape, **settings, folder=tmp_path)
    saved = loop.checkpoint.load_newest(tmp_path / "checkpoints")
    assert saved is not None
    loop.restore(second, saved)
    assert (second.step, second.targets) == (3, first.targets)
    loop.fit(second)
    for name, weight in whole.weights().items():
        assert torch.equal(weight, second.weights()[name]), name
    assert second.last["loss"] == whole.last["loss"] and second.targets == whole.targets


@pytest.mark.parametrize(("shape", "setting"), [("qwen3", "embedding_std"), ("lstm", "token_dropout")])
def test_a_setting_that_there_was_not_yet_has_its_default(make_training, tmp_path, shape, setting):
    """Whoever resumes a run of an earlier version changed nothing."""
    first = make_training(shape, folder=tmp_path)
    first.resumed_config = {"model": first.model.config.plain(), "train": first.config.plain()}
    loop.save(first)
    saved = loop.checkpoint.load_newest(tmp_path / "checkpoints")
    del saved.facts["config"]["model"][setting], saved.facts["config"]["train"]["recompute"]
    loop.restore(first, saved)
    first.resumed_config["model"] = {**first.resumed_config["model"], setting: 0.5}
    with pytest.raises(CheckpointError, match=setting):
        loop.restore(first, saved)


@pytest.mark.parametrize("values", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 1, "rows": 0}, {"steps": 1, "ema": 1.0}])
def test_settings_that_contradict_are_refused(values):
    with pytest.raises(Exception, match="(steps or seconds|at least 1|ema)"):
        TrainConfig.of(values)


def test_the_log_tells_the_rates_themselves(make_training, tmp_path):
    schedule = {"kind": "linear", "warmup": 0.0}
    run = make_training(steps=4, folder=tmp_path, schedule=schedule, optim={"kind": "muon", "lr": 0.02, "matrix_lr": 0.1})
    run.callbacks.append(Log(tmp_path, Task("training", 1.0, ""), flops_per_token=0.0, peak=0.0, bytes_per_token=None))
    loop.fit(run)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == pytest.approx([0.015, 0.01, 0.005, 0])
    assert [row["matrix_lr"] for row in rows] == pytest.approx([0.075, 0.05, 0.025, 0])
