"""Rows: every target once an epoch, a pure function of seed and step, lanes that go on where they stopped."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordmill.batches.batch import IGNORE
from wordmill.batches.pack import CarriedRows, PackedRows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _pairs(batch):
    """(input, target) of every counted place, row by row."""
    return [
        list(zip(ids[targets != IGNORE].tolist(), targets[targets != IGNORE].tolist(), strict=True))
        for ids, targets in zip(batch.input_ids, batch.targets, strict=True)
    ]


def _numbered(store):
    object.__setattr__(store, "tokens", np.arange(len(store.tokens), dtype=np.uint32))
    return store


@SETTINGS
@given(lengths=LENGTHS, context=st.integers(1, 17), rows=st.integers(1, 5), seed=st.integers(0, 9), epoch=st.integers(0, 2))
def test_an_epoch_is_the_flat_stream_once(make_store, lengths, context, rows, seed, epoch):
    """Inputs are followed by their own targets; over `rows_per_epoch` rows every target of the store comes once."""
    store = _numbered(make_store(lengths))
    packed = PackedRows(store, context, 1, seed)
    found = [pair for i in range(packed.rows_per_epoch) for row in _pairs(packed.batch(epoch * packed.rows_per_epoch + i)) for pair in row]
    assert sorted(found) == [(i, i + 1) for i in range(store.n_tokens)]
    together = PackedRows(store, context, rows, seed)
    rows_of_step = list(_pairs(together.batch(1)))
    alone = [row for i in range(rows) for row in _pairs(packed.batch(rows + i))]
    assert rows_of_step == alone, "the number of rows a step doesn't change the order"


@SETTINGS
@given(lengths=LENGTHS, seed=st.integers(0, 9), steps=st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_a_step_is_a_function_of_seed_and_step(make_store, lengths, seed, steps):
    store = make_store(lengths)
    for kind in (PackedRows, CarriedRows):
        first, second = kind(store, 8, 3, seed), kind(store, 8, 3, seed)
        expected = {step: second.batch(step) for step in sorted(set(steps))}
        for step in steps:
            batch = first.batch(step)
            for name in ("input_ids", "targets", "positions"):
                assert torch.equal(getattr(batch, name), getattr(expected[step], name))
            part = first.batch(step, 1, 3)
            assert torch.equal(part.targets, batch.targets[1:3]) and torch.equal(part.positions, batch.positions[1:3])


def test_seeds_and_epochs_differ(make_store):
    store = make_store([9] * 20)
    a, b = PackedRows(store, 16, 2, 0), PackedRows(store, 16, 2, 1)
    assert not torch.equal(a.batch(0).input_ids, b.batch(0).input_ids)
    assert a.rows_per_epoch == 12
    assert not torch.equal(a.batch(0).input_ids, a.batch(6).input_ids)


@SETTINGS
@given(lengths=LENGTHS, context=st.integers(1, 17), rows=st.integers(1, 5), seed=st.integers(0, 9))
def test_lanes_go_on_where_they_stopped(make_store, lengths, context, rows, seed):
    """Laid end to end, a lane's targets are one stretch of the epoch's stream, and the state is reset where a document starts and nowhere
    else."""
    store = _numbered(make_store(lengths))
    carried = CarriedRows(store, context, rows, seed)
    starts = set(store.offsets[:-1].tolist())
    found = []
    for lane in range(rows):
        pairs, positions = [], []
        for step in range(carried.steps_per_epoch):
            batch = carried.batch(step)
            counted = batch.targets[lane] != IGNORE
            assert bool((batch.positions[lane][~counted] == -1).all())
            pairs += _pairs(batch)[lane]
            positions += batch.positions[lane][counted].tolist()
        for place, ((before, target), (after, _)) in enumerate(zip(pairs, pairs[1:]), 1):
            assert (positions[place] == 0) == (after in starts)
            assert after == target or after in starts
            assert before + 1 == target
        assert not positions or positions[0] == 0, "a lane starts with an empty state"
        found += pairs
    assert sorted(found) == [(i, i + 1) for i in range(store.n_tokens)]


def test_a_share_without_rows_is_one_row_of_padding(make_store):
    batch = PackedRows(make_store([9, 9]), 8, 4, 0).batch(0, 2, 2)
    assert batch.input_ids.shape == (1, 8) and batch.n_targets == 0
