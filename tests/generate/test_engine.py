from __future__ import annotations

import pytest
import torch

from wordmill.core.errors import UsageError
from wordmill.generate import engine
from wordmill.generate.engine import run
from wordmill.generate.sampling import SamplingConfig

PROMPTS = [[0, 5, 6, 7], [0], [0, *range(3, 25)], [0, 9, 9]]


def _answers(model, prompts, config, **rest):
    found = {row: [] for row in range(len(prompts))}
    reasons = {}
    for step in run(model, prompts, config, **rest):
        for row, token, reason in step:
            found[row].append(token)
            reasons[row] = reason
    return [found[row] for row in range(len(prompts))], [reasons[row] for row in range(len(prompts))]


@pytest.mark.parametrize("shape", ["qwen3", "lstm"])
def test_long_prompts_are_read_in_pieces_with_the_same_result(make_model, shape, monkeypatch):
    model, config = make_model(shape), SamplingConfig(max_tokens=8)
    whole = _answers(model, PROMPTS, config)
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 20)
    assert _answers(model, PROMPTS, config) == whole


def test_rows_end_at_the_end_token_each_on_its_own(make_model):
    model, config = make_model(), SamplingConfig(max_tokens=40, temperature=1.5)
    free, _ = _answers(model, PROMPTS, config)
    end = free[2][5]
    cut, reasons = _answers(model, PROMPTS, config, eos=[end])
    for row, reason, tokens in zip(cut, reasons, free, strict=True):
        expected = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        assert row == expected
        assert reason == ("eos" if end in tokens else "length")


def test_rows_that_the_caller_drops_leave_the_batch(make_model):
    config, dropped, seen = SamplingConfig(max_tokens=6), {1}, []
    for step in run(make_model(), PROMPTS, config, dropped=dropped):
        seen.append([token.row for token in step])
    assert seen == [[0, 1, 2, 3]] + [[0, 2, 3]] * 5


def test_an_answer_ends_at_the_last_position_and_says_so(make_model):
    model = make_model(max_positions=12)
    tokens, reasons = _answers(model, [[0, 1, 2], [0] * 11], SamplingConfig(max_tokens=50))
    assert reasons == ["context", "context"]
    assert [len(x) for x in tokens] == [10, 2]  # the last token drawn is not read any more


def test_prompts_that_are_too_long_or_empty_are_refused(make_model):
    with pytest.raises(UsageError, match="prompt 2 has 12 tokens, and the model has 12 positions"):
        list(run(make_model(max_positions=12), [[0], [0] * 12], SamplingConfig()))
    with pytest.raises(UsageError, match="no tokens"):
        list(run(make_model(), [[]], SamplingConfig()))
    assert list(run(make_model(), [], SamplingConfig())) == []


def test_the_mode_is_put_back_also_when_the_caller_stops_early(make_model):
    model = make_model(dropout=0.5).train()
    steps = run(model, PROMPTS, SamplingConfig())
    next(steps)
    assert not model.training
    steps.close()
    assert model.training
    assert not torch.is_inference_mode_enabled()
