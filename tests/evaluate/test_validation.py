from __future__ import annotations

import numpy as np
import pytest

from wordmill.batches.store import TokenStore
from wordmill.evaluate import evaluate_store
from wordmill.generate.score import score_documents

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
