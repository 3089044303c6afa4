"""Objectives beyond causal: the sums they give, and that they go through the one training loop as causal does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wordmill.batches.batch import IGNORE
from wordmill.batches.corrupted import objective_rows
from wordmill.core.errors import CheckpointError, UsageError
from wordmill.evaluate import evaluate_rows
from wordmill.train import checkpoint, loop
from wordmill.train.objectives import OBJECTIVES, masked

LENGTHS = (7, 23, 1, 40, 12, 31, 5, 18)


KINDS = {"mlm": {"causal": False}, "denoise": {"encoder_layers": 2}, "infill": {"encoder_layers": 2}, "prefix": {}}
"""What makes a model one that can learn an objective."""


@pytest.fixture(scope="module")
def tokenizer():
    from tests.conftest import TEXT
    from wordmill.batches.vocabulary import SENTINEL
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer

    return train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400, extra_special=("<|mask|>", *map(SENTINEL.format, range(9)))))


@pytest.fixture
def make_run(make_model, make_store, tokenizer):
    """`make_run("mlm", …)`: a run with that objective, in float64."""

    def make(name, *, dtype=torch.float64, callbacks=(), **settings):
        values = {"rows": 5, "micro_rows": 5, "context": 24, "steps": 4, "optim": {"kind": "adamw", "lr": 1e-2}, **settings}
        config = loop.TrainConfig.of(values)
        store = make_store(LENGTHS, vocab=tokenizer.vocab_size)
        rows = objective_rows(name, store, config.context, config.rows, config.seed, tokenizer)
        model = make_model("qwen3", vocab_size=tokenizer.vocab_size, **KINDS[name])
        return loop.Training(model.to(dtype), OBJECTIVES[name], rows, config, callbacks=list(callbacks))

    return make


NAMES = ["mlm", "denoise", "infill", "prefix"]


@pytest.mark.parametrize("name", NAMES)
def test_the_sum_is_that_of_a_plain_cross_entropy(make_run, name):
    """As the library computes it from whole logits, every row alone."""
    run = make_run(name)
    batch = run.rows.batch(0)
    expected = 0.0
    for i in range(5):
        row = batch.rows(i, i + 1)
        if row.source is not None:
            memory = run.model.encode(row.source.input_ids, row.source.positions, row.source.documents)
            hidden, _ = run.model(row.input_ids, row.positions, row.documents, None, memory=memory)
        elif row.prefix is not None:
            hidden, _ = run.model(row.input_ids, row.positions, row.documents, prefix=row.prefix)
        else:
            hidden, _ = run.model(row.input_ids, row.positions, row.documents)
        logits = hidden @ run.model.output_layer()[0].T
        expected += F.cross_entropy(logits[0], row.targets[0], ignore_index=IGNORE, reduction="sum").item()
    found = run.objective(run.model, batch)
    assert found.n_targets == batch.n_targets > 0
    assert found.loss_sum.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("micro_rows", [1, 3])
def test_any_split_into_micro_batches_gives_the_same_run(make_run, name, micro_rows):
    runs = []
    for size in (5, micro_rows):
        losses: list[float] = []
        run = make_run(name, micro_rows=size, callbacks=[lambda run, event, losses=losses: losses.append(run.last["loss"])])
        loop.fit(run)
        runs.append((losses, dict(run.optimizer.master)))
    assert runs[0][0] == pytest.approx(runs[1][0], abs=1e-10) and len(runs[0][0]) == 5
    for key, weight in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][key], weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_targets_costs_nothing_and_keeps_its_place_in_the_exchange(make_run, name):
    run = make_run(name)
    batch = run.rows.batch(0, 2, 2)
    found = run.objective(run.model, batch)
    found.loss_sum.backward()
    assert found.loss_sum.item() == 0.0 and found.n_targets == 0
    assert all(p.grad is None or not p.grad.any() for p in run.model.parameters())
    assert run.model.embedding.weight.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_validation_gives_the_loss_of_the_same_rows(make_run, name):
    run = make_run(name)
    n, found = run.rows.rows_per_epoch, evaluate_rows(run.model, run.rows)
    whole = [run.objective(run.model, run.rows.batch(step, 0, min(5, n - 5 * step))) for step in range(-(-n // 5))]
    assert found.targets == sum(part.n_targets for part in whole)
    assert found.nats == pytest.approx(sum(part.loss_sum.item() for part in whole), rel=1e-9)
    assert 0 <= found.correct < found.targets


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_as_one_that_never_stopped(make_run, name, tmp_path):
    """Trap 11: what is hidden after the checkpoint is what would have been hidden; bit for bit."""
    whole = make_run(name, steps=7, save_steps=3)
    loop.fit(whole)
    cut = make_run(name, steps=7, save_steps=3)
    cut.folder = tmp_path
    cut.callbacks.append(lambda run, event: setattr(run, "stop", "SIGINT" if run.step == 4 else None))
    with pytest.raises(loop.Stopped):
        loop.fit(cut)
    resumed = make_run(name, steps=7, save_steps=3)
    loop.restore(resumed, checkpoint.load_newest(tmp_path / "checkpoints"))
    assert resumed.step == 4
    loop.fit(resumed)
    assert (resumed.targets, resumed.tokens, resumed.last["loss"]) == (whole.targets, whole.tokens, whole.last["loss"])
    assert all(torch.equal(weight, whole.optimizer.master[key]) for key, weight in resumed.optimizer.master.items())


def test_a_checkpoint_of_another_version_is_one_line(make_run):
    run = make_run("mlm", steps=2)
    saved = loop.snapshot(run, [])
    name = next(name for name in saved.tensors if name.startswith("count."))
    del saved.tensors[name]
    with pytest.raises(CheckpointError, match=f"another version of wordmill: it lacks {name}. Resume with the version that wrote it"):
        loop.restore(run, saved)


def test_the_model_learns_to_fill_masks(make_run):
    losses: list[float] = []
    loop.fit(make_run("mlm", dtype=torch.float32, steps=60, callbacks=[lambda run, event: losses.append(run.last["loss"])]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_masked_documents_do_not_see_each_other(make_run, tokenizer):
    """Trap 3 for a model that looks both ways: another text in one piece changes nothing in its neighbours, padding included."""
    run = make_run("mlm")
    batch = run.rows.batch(0)
    assert batch.documents is not None
    other = torch.where(batch.documents == 0, (batch.input_ids + 9) % tokenizer.vocab_size, batch.input_ids)
    with torch.no_grad():
        before, after = (run.model(ids, batch.positions, batch.documents)[0] for ids in (batch.input_ids, other))
    apart = batch.documents > 0
    assert bool(apart.any()) and torch.equal(before[apart], after[apart]) and not torch.equal(before, after)


def test_a_model_that_looks_one_way_is_refused(make_model):
    with pytest.raises(UsageError, match="looks both ways"):
        masked(make_model("qwen3"), SimpleNamespace())
    with pytest.raises(UsageError, match="looks both ways"):
        masked(make_model("lstm"), SimpleNamespace())
