"""An evaluation that cuts long texts to the model's context scores less than it was given, and nobody sees it (lm-evaluation-harness
#3115, #1426). Here every token is scored through a sliding window, and what was cut on request is counted and printed."""

from __future__ import annotations

import pytest

from wordmill.evaluate import evaluate_text

LONG = "The mill stands by the river, and the river never asks. " * 20


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm"])
def test_every_token_of_a_long_text_is_scored(make_loaded, shape):
    loaded = make_loaded(shape)
    tokens = len(loaded.tokenizer.encode(LONG)) + 1
    assert tokens > 3 * 64, "the text must be longer than the model's positions"
    found = evaluate_text(loaded, [LONG])
    assert (found.tokens, found.bytes, found.cut_bytes) == (tokens, len(LONG.encode()), 0)
    assert "cut                   nothing" in found.text()


def test_every_window_but_the_first_has_context_before_what_it_scores(make_loaded):
    loaded = make_loaded()
    # Blocks without overlap forget everything at each border: another number than a window that slides.
    sliding, blocks = (evaluate_text(loaded, [LONG], context=32, stride=stride) for stride in (16, 32))
    assert sliding.tokens == blocks.tokens
    assert sliding.nats != pytest.approx(blocks.nats, rel=1e-6)


def test_a_cut_that_was_asked_for_is_told(make_loaded):
    found = evaluate_text(make_loaded(), [LONG, LONG], max_tokens=100)
    assert found.tokens <= 100
    assert found.cut_documents == 2
    assert found.bytes + found.cut_bytes == 2 * len(LONG.encode())
    assert "cut                   2 documents" in found.text()
