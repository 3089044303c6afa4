"""Padding that is attended to, or that shifts positions, gives a prompt another answer in a batch than alone (transformers #26569, #47651).
Here prompts of different lengths get the same logits and the same text alone, in a batch, in any order and at any padding."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import DECODERS, ENCODERS
from wordmill.generate.engine import Batch, run
from wordmill.generate.sampling import SamplingConfig

SHAPES = ["qwen3", "qwen3-windowed", "gpt2", "mistral", "gemma2", "lstm", "gru"]
PROMPTS = [[0, 5, 6, 7], [0], [0, *range(3, 25)], [0, 9, 9]]


def _answers(model, prompts, config):
    found = [[] for _ in prompts]
    for step in run(model, prompts, config):
        for row, token, _ in step:
            found[row].append(token)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_text_alone_and_in_a_batch(make_model, shape, temperature):
    model, config = make_model(shape), SamplingConfig(max_tokens=12, temperature=temperature, seed=3, repetition_penalty=1.1)
    together = _answers(model, PROMPTS, config)
    alone = [_answers(model, [prompt], config.replace(seed=3 + row))[0] for row, prompt in enumerate(PROMPTS)]
    assert together == alone
    if temperature == 0.0:
        assert _answers(model, PROMPTS[::-1], config)[::-1] == together


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_logits_beside_longer_prompts_at_every_step(make_model, shape):
    model = make_model(shape)
    with torch.inference_mode():
        batch = Batch(model, PROMPTS, 10)
        single = [Batch(model, [prompt], 10) for prompt in PROMPTS]
        for token in range(40, 48):
            for row, one in enumerate(single):
                assert torch.allclose(batch.logits[row], one.logits[0], atol=1e-5)
                one.step([token + row])
            batch.step([token + row for row in range(len(PROMPTS))])


@pytest.mark.parametrize("shape", [*DECODERS, *ENCODERS, "qwen3-windowed", "lstm", "gru"])
def test_the_same_logits_at_any_padding(make_loaded, shape):
    loaded = make_loaded(shape)
    plain = loaded.logits([[0, 5, 6, 7]])
    for left, right in ((0, 3), (4, 0), (2, 2)):
        ids = [[9] * left + [0, 5, 6, 7] + [8] * right]
        padded = loaded.logits(ids, [[0] * left + [1] * 4 + [0] * right])
        assert torch.allclose(padded[:, left : left + 4], plain, atol=1e-5)
