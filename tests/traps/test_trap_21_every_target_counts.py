"""Dropping the last incomplete row or batch, or ending a schedule one step early, loses data and the whole point of the decay without a
word. One epoch must hold every target exactly once, however rows and steps divide, and the last step must run at the schedule's floor."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordmill.batches.batch import IGNORE
from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.train import loop
from wordmill.train.schedule import ScheduleConfig, factor

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def _numbered(store):
    """The same store with tokens that number the places, so that every target can be told from every other."""
    tokens = np.arange(len(store.tokens), dtype=np.uint32)
    object.__setattr__(store, "tokens", tokens)
    return store


def _seen(rows, steps):
    counts: Counter[int] = Counter()
    for step in range(steps):
        targets = rows.batch(step).targets.numpy()
        counts.update(targets[targets != IGNORE].tolist())
    return counts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=LENGTHS, context=st.integers(1, 17), size=st.integers(1, 9), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_whole_epochs_hold_every_target_equally_often(make_store, lengths, context, size, epochs, seed):
    store = _numbered(make_store(lengths))
    plain = PackedRows(store, context, size, seed)
    rows = PackedRows(store, context, size, seed, limit=plain.rows_for(epochs * store.n_tokens))
    steps = rows.steps(epochs * store.n_tokens)
    counts = _seen(rows, steps)
    assert counts == dict.fromkeys(range(1, store.n_tokens + 1), epochs)
    assert rows.batch(steps - 1).n_targets > 0, "no step is empty"
    assert rows.batch(steps).n_targets == 0, "and nothing comes after"
    carried = CarriedRows(store, context, size, seed)
    assert _seen(carried, carried.steps(epochs * store.n_tokens)) == counts


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "step"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_last_step_runs_at_the_floor(kind, steps, floor):
    config = ScheduleConfig(kind=kind, floor=floor, drops=(0.2, 0.6), drop_factor=0.0)
    assert factor(config, steps / steps) == pytest.approx(floor)
    assert factor(config, 0.5 / steps) >= 0


def test_the_loop_gives_the_last_step_the_floor_and_sees_every_target(make_training):
    run = make_training(rows=3, steps=3, schedule={"kind": "linear", "floor": 0.1, "warmup": 0.0})
    assert run.rows.rows_per_epoch == 9 and run.rows.targets_per_epoch == 137
    factors: list[float] = []
    run.callbacks.append(lambda run, event: factors.append(run.last["lr_factor"]) if event == "step" else None)
    loop.fit(run)
    assert factors == pytest.approx([0.7, 0.4, 0.1])
    assert run.targets == 137


def test_the_plan_of_some_epochs_counts_to_the_last_target(make_store, tiny_tokenizer, monkeypatch):
    """Nine rows, four a step, two epochs: five steps, of which the last has two rows."""
    import torch

    from wordmill.core.progress import SILENT
    from wordmill.tasks import plan as planning
    from wordmill.tasks.pretrain import PretrainConfig
    from wordmill.train.budget import Speed

    monkeypatch.setattr(planning, "_measure", lambda *_, **__: Speed(0.01, 64, 1e6, 1e4))
    monkeypatch.setattr(planning, "matmul_rate", lambda *arguments: 10.0)
    store = make_store((7, 23, 1, 40, 12, 31, 5, 18))
    config = PretrainConfig.of({"epochs": 2, "sources": ["x"], "model": {"width": 32, "layers": 1}, "train": {"context": 16, "rows": 4}})
    made = planning.make_plan(config, store, None, tiny_tokenizer, torch.device("cpu"), 1, 0.0, SILENT)
    assert (made.train.steps, made.train.row_limit) == (5, 18)
    rows = PackedRows(store, made.train.context, made.train.rows, 0, limit=made.train.row_limit)
    assert sum(rows.batch(step).n_targets for step in range(5)) == 2 * 137
