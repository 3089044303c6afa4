from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TEXT
from wordmill.batches.batch import IGNORE
from wordmill.batches.corrupted import objective_rows
from wordmill.batches.store import TokenStore
from wordmill.core.progress import SILENT
from wordmill.evaluate import evaluate_rows, evaluate_store
from wordmill.evaluate.watch import Watch
from wordmill.generate.score import score_documents
from wordmill.tokenizer import TokenizerConfig, train_tokenizer
from wordmill.train.log import Log
from wordmill.train.loop import TrainConfig, Training, fit
from wordmill.train.objectives import masked
from wordmill.train.report import write_report

DOCUMENTS = [list(range(2, 40)), [7], [9, 8, 7, 6, 5], list(range(50, 2, -1))]


@pytest.fixture
def store(tmp_path):
    flat = [0, *(token for document in DOCUMENTS for token in (*document, 0))]
    offsets = np.cumsum([0, *(len(document) + 1 for document in DOCUMENTS)])
    return TokenStore(tmp_path, np.array(flat, np.uint16), offsets, np.array([len(d) * 3 for d in DOCUMENTS]))


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm"])
def test_rows_long_enough_give_the_sum_of_the_documents_scores(make_model, store, shape):
    model = make_model(shape, max_positions=256).double()
    found = evaluate_store(model, store, context=256, batch_tokens=256)
    expected = sum(score.nats for score in score_documents(model, [[0, *d, 0] for d in DOCUMENTS]))
    assert found.nats == pytest.approx(expected, rel=1e-6)
    assert (found.tokens, found.bytes) == (store.n_tokens, 3 * (store.n_tokens - len(DOCUMENTS)))


@pytest.mark.parametrize("shape", ["qwen3", "gru"])
def test_every_target_counts_once_whatever_the_rows(make_model, store, shape):
    model = make_model(shape).train()
    for context, batch in ((8, 8), (8, 33), (20, 4000)):
        assert evaluate_store(model, store, context=context, batch_tokens=batch).tokens == store.n_tokens
    assert model.training


def test_the_batch_changes_nothing_for_rows_that_stand_alone(make_model, store):
    model = make_model()
    found = [evaluate_store(model, store, context=16, batch_tokens=size).nats for size in (16, 50, 4096)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_a_limit_reads_less_and_takes_bytes_in_proportion(make_model, store):
    found = evaluate_store(make_model(), store, context=16, batch_tokens=16, max_targets=40)
    assert found.tokens == 32
    assert found.bytes == round(int(store.doc_bytes.sum()) * 32 / store.n_tokens)


def _corrupted(name, tokenizer, context, rows=3, **settings):
    documents = [tokenizer.encode(text) for text in TEXT.splitlines()]
    flat = [tokenizer.eos_id, *(i for d in documents for i in (*d, tokenizer.eos_id))]
    offsets = np.cumsum([0, *(len(d) + 1 for d in documents)])
    store = TokenStore(Path("unused"), np.array(flat, np.uint16), offsets, np.ones(len(documents), np.int64))
    return objective_rows(name, store, context, rows, 0, tokenizer, **settings)


@pytest.fixture(scope="module")
def bert_tokenizer():
    return train_tokenizer([TEXT] * 4, TokenizerConfig(kind="wordpiece", vocab=160))


def test_masked_loss_and_accuracy_are_those_of_a_plain_pass(make_model, bert_tokenizer):
    """The same at every call and for any number of rows at a time; the mode is put back."""
    model = make_model("qwen3", vocab_size=160, causal=False).double().train()
    found = [evaluate_rows(model, _corrupted("mlm", bert_tokenizer, 24, rows)) for rows in (3, 3, 50)]
    assert model.training
    assert found[0] == found[1]
    assert (found[0].targets, found[0].correct) == (found[2].targets, found[2].correct)
    assert found[0].nats == pytest.approx(found[2].nats, rel=1e-9)
    rows = _corrupted("mlm", bert_tokenizer, 24, 50)
    batch = rows.batch(0, 0, rows.rows_per_epoch)
    with torch.no_grad():
        logits = model.eval().logits(model(batch.input_ids, batch.positions, batch.documents)[0])[batch.targets != IGNORE]
    right = batch.targets[batch.targets != IGNORE]
    assert found[0].loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, right)), rel=1e-9)
    assert found[0].accuracy == pytest.approx(float((logits.argmax(-1) == right).double().mean()))
    some = evaluate_rows(model, _corrupted("mlm", bert_tokenizer, 24, 2), max_rows=3)
    assert 0 < some.targets < found[0].targets


def test_a_run_is_watched_on_corrupted_rows(make_model, bert_tokenizer, tmp_path):
    """Loss and accuracy in the log, no bits per byte; tokens are those read, which are more than the targets."""
    run = Training(
        make_model("qwen3", vocab_size=160, causal=False).float(),
        masked,
        _corrupted("mlm", bert_tokenizer, 24),
        TrainConfig.of({"steps": 6, "rows": 3, "micro_rows": 3, "context": 24, "evaluations": 3, "optim": {"kind": "adamw", "lr": 1e-2}}),
        folder=tmp_path,
    )
    rows = _corrupted("mlm", bert_tokenizer, 24, shuffle=False)
    with SILENT.task("training", total=1.0) as task:
        log = Log(tmp_path, task, flops_per_token=1.0, peak=0.0, bytes_per_token=None)
        watch = Watch(log, None, bert_tokenizer, prompts=(), max_targets=None, keep_best=False, rows=rows)
        run.callbacks += [log, watch]
        fit(run)
    rows_of_log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [row for row in rows_of_log if "validation_loss" in row]
    assert [row["step"] for row in seen] == [2, 4, 6]
    assert set(seen[-1]) == {"step", "time", "tokens", "validation_loss", "validation_accuracy"}
    last = evaluate_rows(run.model, rows)
    assert (seen[-1]["validation_loss"], seen[-1]["validation_accuracy"]) == pytest.approx((last.loss, last.accuracy), rel=1e-6)
    assert seen[-1]["tokens"] == run.tokens == sum(run.rows.batch(step).n_tokens for step in range(6)) > 4 * run.targets
    assert "right" in write_report(tmp_path).read_text()
