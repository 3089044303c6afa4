"""Padding that is attended to, or that shifts positions, gives a prompt another answer in a batch than alone (transformers #26569, #47651).
Here prompts of different lengths get the same logits and the same text alone, in a batch, in any order and at any padding."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import DECODERS, ENCODER_DECODERS, ENCODERS
from wordmill.generate.beam import BeamConfig, beam_search
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


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_text_after_longer_prompts_have_left_the_batch(make_model, shape):
    """The two short prompts go on at one place, where the long one, which ran into the last position, has left its tokens."""
    model = make_model(shape, **({} if shape in ("lstm", "gru") else {"max_positions": 16}))
    prompts, config = [[0, *range(3, 15)], [0, 5, 6], [0, 8, 9]], SamplingConfig(max_tokens=12, temperature=0)
    assert _answers(model, prompts, config) == [_answers(model, [prompt], config)[0] for prompt in prompts]


SOURCES = [[5, 6, 7, 2], [8, 2], [*range(3, 25), 2], [9, 9, 2]]


@pytest.mark.parametrize("shape", ENCODER_DECODERS)
def test_the_same_target_beside_longer_sources(make_model, shape):
    model = make_model(shape)

    def targets(sources, config):
        found = [[] for _ in sources]
        for step in run(model, [[0]] * len(sources), config, sources=sources, eos=[11]):
            for row, token, _ in step:
                found[row].append(token)
        return found

    for temperature in (0.0, 1.0):
        config = SamplingConfig(max_tokens=12, temperature=temperature, seed=3)
        alone = [targets([source], config.replace(seed=3 + row))[0] for row, source in enumerate(SOURCES)]
        assert targets(SOURCES, config) == alone
    beams = BeamConfig(beams=3, max_tokens=10)
    together = beam_search(model, [[0]] * 4, beams, sources=SOURCES, eos=[11])
    alone = [beam_search(model, [[0]], beams, sources=[source], eos=[11])[0] for source in SOURCES]
    assert [[beam.ids for beam in answers] for answers in together] == [[beam.ids for beam in answers] for answers in alone]


@pytest.mark.parametrize("shape", ["qwen3", "gemma2"])
def test_the_same_beams_beside_longer_prompts(make_model, shape):
    model, beams = make_model(shape), BeamConfig(beams=3, max_tokens=10)
    together = beam_search(model, PROMPTS, beams, eos=[11])
    alone = [beam_search(model, [prompt], beams, eos=[11])[0] for prompt in PROMPTS]
    assert [[beam.ids for beam in answers] for answers in together] == [[beam.ids for beam in answers] for answers in alone]
