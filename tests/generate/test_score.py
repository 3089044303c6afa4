from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from wordmill.core.errors import UsageError
from wordmill.generate.score import score_documents, windows

DOCUMENTS = [[0, *range(1, 50)], [0, 5], [0, *range(30, 3, -1)], [0], [0, 7, 7, 7, 7, 7, 7, 9]]


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (8, 1), (7, 3), (100, 50), (1, 1)])
def test_every_token_is_counted_exactly_once(context, stride):
    ids = list(range(45))
    seen = [window.ids[i + 1] for window in windows(0, ids, context, stride) for i in range(window.first, len(window.ids) - 1)]
    assert seen == ids[1:]
    for window in list(windows(0, ids, context, stride))[1:]:
        assert window.first >= context - stride


@torch.no_grad()
def _one_by_one(model, ids):
    hidden, _ = model(torch.tensor([ids[:-1]]))
    return float(F.cross_entropy(model.logits(hidden)[0].double(), torch.tensor(ids[1:]), reduction="sum"))


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm", "gru"])
def test_scores_equal_a_plain_forward_whatever_the_batch(make_model, shape):
    model = make_model(shape).double()
    expected = [_one_by_one(model, ids) if len(ids) > 1 else 0.0 for ids in DOCUMENTS]
    for batch_tokens in (1, 60, 10_000):
        found = list(score_documents(model, DOCUMENTS, batch_tokens=batch_tokens))
        assert [score.tokens for score in found] == [len(ids) - 1 for ids in DOCUMENTS]
        assert [score.nats for score in found] == pytest.approx(expected, rel=1e-6)


def test_windows_give_the_same_number_whatever_the_batch(make_model):
    model = make_model()
    found = [sum(s.nats for s in score_documents(model, DOCUMENTS, context=16, stride=5, batch_tokens=n)) for n in (1, 64, 9999)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_a_recurrent_state_is_carried_past_the_reading_length(make_model):
    model = make_model("gru").double()
    ids = [0, *(i % 90 for i in range(700))]
    (found,) = score_documents(model, [ids], batch_tokens=1)
    assert found.nats == pytest.approx(_one_by_one(model, ids), rel=1e-6)


def test_sizes_that_do_not_fit_are_refused(make_model):
    with pytest.raises(UsageError, match="64 positions"):
        list(score_documents(make_model(), DOCUMENTS, context=65))
    with pytest.raises(UsageError, match="leave tokens out"):
        list(score_documents(make_model(), DOCUMENTS, context=8, stride=9))
    with pytest.raises(UsageError, match="no window"):
        list(score_documents(make_model("lstm"), DOCUMENTS, context=8))
