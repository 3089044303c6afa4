from __future__ import annotations

import numpy as np
import pytest
import torch

from wordmill.batches.batch import IGNORE
from wordmill.batches.conversations import ConversationRows, Example, best_fit
from wordmill.core.errors import DataError
from wordmill.train.objectives import causal

CONTEXT = 32


def examples(n=40, seed=0):
    draw = np.random.default_rng(seed)
    found = []
    for number in range(n):
        length = int(draw.integers(2, CONTEXT + 1))
        targets = np.full(length, IGNORE, np.int64)
        targets[length // 2 :] = draw.integers(1, 97, length - length // 2)
        found.append(Example(draw.integers(1, 97, length), targets, f"here:{number}", 10))
    return found


def test_an_epoch_has_every_example_once_whatever_the_epoch():
    rows = ConversationRows(examples(), CONTEXT, 3, seed=7)
    n = rows.rows_per_epoch
    for epoch in range(3):
        seen = [index for row in range(epoch * n, (epoch + 1) * n) for index in rows.members(row)]
        assert sorted(seen) == list(range(40))
    assert [rows.members(i) for i in range(n)] != [rows.members(n + i) for i in range(n)]
    assert rows.targets_per_epoch == sum(int((e.targets != IGNORE).sum()) for e in rows.examples)
    # Best fit leaves little unused.
    assert n <= -(-sum(len(e.ids) for e in rows.examples) // CONTEXT) + 2


def test_a_step_is_a_function_of_its_number():
    """Any order of steps, in a new object too, and cut into micro-batches: the same rows."""
    rows = ConversationRows(examples(), CONTEXT, 4, seed=3)
    forward = [rows.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        fresh = ConversationRows(examples(), CONTEXT, 4, seed=3).batch(step)
        parts = [rows.batch(step, first, first + 2) for first in (0, 2)]
        assert torch.equal(fresh.input_ids, forward[step].input_ids) and torch.equal(fresh.targets, forward[step].targets)
        assert torch.equal(torch.cat([part.targets for part in parts]), fresh.targets)
    other = ConversationRows(examples(), CONTEXT, 4, seed=4).batch(0)
    assert not torch.equal(other.input_ids, forward[0].input_ids)


def test_a_batch_keeps_examples_apart_and_counts_their_targets_alone():
    rows = ConversationRows(examples(), CONTEXT, 5, seed=1)
    batch = rows.batch(0)
    for i in range(5):
        at = 0
        for number, index in enumerate(rows.members(i)):
            one = rows.examples[index]
            here = slice(at, at + len(one.ids))
            assert batch.input_ids[i, here].tolist() == one.ids.tolist()
            assert batch.targets[i, here].tolist() == one.targets.tolist()
            assert batch.positions[i, here].tolist() == list(range(len(one.ids)))
            assert set(batch.documents[i, here].tolist()) == {number}
            at += len(one.ids)
        assert set(batch.positions[i, at:].tolist()) <= {-1} and set(batch.targets[i, at:].tolist()) <= {IGNORE}


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_the_loss_of_packed_examples_is_that_of_each_alone(make_model, shape):
    model, some = make_model(shape).double(), examples(9)
    rows = ConversationRows(some, CONTEXT, 20, seed=1)
    packed = causal(model, rows.batch(0, 0, rows.rows_per_epoch))
    alone = [causal(model, ConversationRows([one], CONTEXT, 1, 0).batch(0)) for one in some]
    assert packed.loss_sum.item() == pytest.approx(sum(one.loss_sum.item() for one in alone), rel=1e-9)
    assert packed.n_targets == sum(one.n_targets for one in alone)


def test_one_example_that_fills_its_row_needs_no_documents():
    one = Example(np.arange(CONTEXT), np.arange(CONTEXT), "here", 1)
    assert ConversationRows([one, one], CONTEXT, 2, 0).batch(0).documents is None


def test_an_example_longer_than_a_row_is_named():
    with pytest.raises(DataError, match=r"here:\d+: this conversation has \d+ tokens, and a row 20"):
        ConversationRows(examples(), 20, 1, 0)


def test_best_fit():
    assert best_fit([5, 4, 3, 2, 2], 8) == [[0, 2], [1, 3, 4]]
    assert best_fit([8, 8, 1], 8) == [[0], [1], [2]]
