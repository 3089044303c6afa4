"""Beam and greedy search of decoders and encoder–decoders against `transformers` on small random models."""

from __future__ import annotations

import pytest
import torch

from tests.models.reference import pair
from wordmill.core.errors import ConfigError, UsageError
from wordmill.generate import BeamConfig, SamplingConfig, beam_search, run

END = 23
SOURCES = [[5, 9, 30, 41, 7], [8], [60, 61, 62], [12, 13, 14, 15, 16, 17, 18, 19]]
CASES = ["t5 1.0", "t5 1.1", "mt5", "bart", "mbart"]


def _theirs(model, ids, *, source, **settings):
    model.generation_config.forced_eos_token_id = None  # BART's default makes the last token an end token
    kept = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": END, "pad_token_id": 1, "use_cache": False, **settings}
    config = type(model.generation_config)(**kept, decoder_start_token_id=model.config.decoder_start_token_id if source else None)
    row = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(row, attention_mask=torch.ones_like(row), generation_config=config)[0].tolist()
    out = out[1:] if source else out[len(ids) :]
    return out[: out.index(END) + 1] if END in out else out


def _greedy(model, prompts, sources):
    found = [[] for _ in prompts]
    for step in run(model, prompts, SamplingConfig(temperature=0, max_tokens=12), eos=[END], sources=sources):
        for row, token, _ in step:
            found[row].append(token)
    return found


@pytest.mark.parametrize("case", CASES)
def test_greedy_targets_equal_those_of_transformers_token_for_token(case):
    theirs, ours, _ = pair(case)
    starts = [[ours.config.decoder_start_id] for _ in SOURCES]
    found = _greedy(ours, starts, SOURCES)
    assert found == [_theirs(theirs, source, source=True) for source in SOURCES]
    assert found == [_greedy(ours, [starts[0]], [source])[0] for source in SOURCES]


@pytest.mark.parametrize("case", [*CASES, "gpt2", "qwen3", "gemma2"])
@pytest.mark.parametrize(("beams", "penalty"), [(4, 1.0), (3, 0.0), (2, 2.0)])
def test_beams_equal_those_of_transformers(case, beams, penalty):
    theirs, ours, _ = pair(case)
    reads = ours.encoder is not None
    prompts = [[ours.config.decoder_start_id] for _ in SOURCES] if reads else SOURCES
    config = BeamConfig(beams=beams, length_penalty=penalty, max_tokens=12)
    found = beam_search(ours, prompts, config, eos=[END], sources=SOURCES if reads else None)
    expected = [_theirs(theirs, source, source=reads, num_beams=beams, length_penalty=penalty) for source in SOURCES]
    assert [answers[0].ids for answers in found] == expected
    assert all(a.score >= b.score for answers in found for a, b in zip(answers, answers[1:]))


def _likelihood(model, prompt, ids):
    hidden, _ = model(torch.tensor([[*prompt, *ids[:-1]]]))
    scores = model.logits(hidden)[0, len(prompt) - 1 :].log_softmax(-1)
    return float(scores[torch.arange(len(ids)), torch.tensor(ids)].sum())


@torch.no_grad()
def test_with_beams_enough_nothing_likelier_is_left(make_model):
    """Against every answer there is, in a vocabulary small enough to try them all."""
    model, end = make_model("qwen3", vocab_size=5), 4
    config = BeamConfig(beams=64, length_penalty=0.0, max_tokens=3)
    (found,) = beam_search(model, [[0, 1]], config, eos=[end])
    every = [[a] for a in [end]] + [[a, end] for a in range(4)] + [[a, b, c] for a in range(4) for b in range(4) for c in range(5)]
    ranked = sorted(((_likelihood(model, [0, 1], ids), ids) for ids in every), reverse=True)
    assert [answer.ids for answer in found[:10]] == [ids for _, ids in ranked[:10]]
    assert [answer.score for answer in found[:10]] == pytest.approx([score for score, _ in ranked[:10]], abs=1e-4)
    assert {answer.reason for answer in found} == {"eos", "length"}


def test_one_beam_is_greedy_and_positions_end_an_answer(make_model):
    model = make_model("qwen3", max_positions=8)
    prompts = [[0, 5, 6], [0]]
    found = beam_search(model, prompts, BeamConfig(beams=1, max_tokens=30))
    assert [answers[0].ids for answers in found] == _greedy_until(model, prompts)
    assert [(len(answers[0].ids), answers[0].reason) for answers in found] == [(6, "context"), (8, "context")]


def _greedy_until(model, prompts):
    found = [[] for _ in prompts]
    for step in run(model, prompts, SamplingConfig(temperature=0, max_tokens=30)):
        for row, token, _ in step:
            found[row].append(token)
    return found


def test_what_can_not_be_searched_is_refused(make_model):
    decoder, both, encoder = make_model("qwen3", max_positions=8), make_model("bart", max_positions=8), make_model("bert")
    for model, prompts, sources, part in [
        (decoder, [[]], None, "no tokens"), (decoder, [[0] * 8], None, "8 positions"), (decoder, [[0]], [[1]], "takes a source"),
        (both, [[0]], None, "takes a source"), (both, [[0]], [[]], "source 1 has no tokens"),
        (both, [[0]], [[1] * 9], "source 1 has 9 tokens"),
        (encoder, [[0]], None, "an encoder can't write"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=part):
            beam_search(model, prompts, BeamConfig(), sources=sources)
        with pytest.raises(UsageError, match=part):
            list(run(model, prompts, SamplingConfig(), sources=sources))
    assert beam_search(decoder, [], BeamConfig()) == []
    for settings, part in [({"beams": 4}, "temperature must be 0"), ({"length_penalty": 0.5}, "set beams"), ({"beams": 0}, "at least 1"),
                           ({"beams": 2, "temperature": 0, "top_k": 3}, "top_k must be 0")]:  # fmt: skip
        with pytest.raises(ConfigError, match=part):
            SamplingConfig.of(settings)
