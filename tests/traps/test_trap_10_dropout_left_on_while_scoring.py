"""A model scored while dropout is on gives another, worse number each time, and one left without dropout afterwards trains on without
regularisation (trl #2042, LLaMA-Factory #10779). Here two scorings are identical, and every module goes back to the mode it was in."""

from __future__ import annotations

import numpy as np
import pytest

from wordmill.batches.store import TokenStore
from wordmill.evaluate import evaluate_store, evaluate_text

TEXTS = ["The mill stands by the river.", "磨坊在河边。"]


def _modes(model) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm", "gru"])
def test_scoring_is_without_dropout_and_training_goes_on_with_it(make_loaded, tmp_path, shape):
    loaded = make_loaded(shape, dropout=0.5)
    model = loaded.model
    store = TokenStore(tmp_path, np.array([0, 5, 6, 7, 0], np.uint16), np.array([0, 4]), np.array([9]))
    calls = {
        "text": lambda: evaluate_text(loaded, TEXTS).nats,
        "store": lambda: evaluate_store(model, store, context=8).nats,
        "score": lambda: loaded.score("The mill").nats,
        "logits": lambda: loaded.logits([0, 5, 6]).sum().item(),
        "generate": lambda: loaded.generate("The", max_tokens=8),
    }
    quiet = {name: call() for name, call in calls.items()}  # the model came in evaluation mode
    model.train()
    next(model.children()).eval()  # a frozen part stays as it was
    before = _modes(model)
    for name, call in calls.items():
        assert call() == quiet[name] == call(), name
        assert _modes(model) == before, name


def test_the_mode_is_put_back_after_an_error(make_loaded, monkeypatch):
    loaded = make_loaded(dropout=0.5)
    loaded.model.train()
    monkeypatch.setattr(loaded.model, "output_layer", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_text(loaded, TEXTS)
    assert all(_modes(loaded.model))
