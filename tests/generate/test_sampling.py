from __future__ import annotations

import math

import pytest
import torch

from wordmill.core.errors import ConfigError
from wordmill.generate.sampling import Sampler, SamplingConfig, filtered, inverse_cdf, penalise


def _kept(probabilities: list[float], **settings: float) -> list[int]:
    logits = torch.tensor([probabilities]).log()
    out = filtered(logits, SamplingConfig(**{"temperature": 1.0, **settings}))
    return torch.isfinite(out)[0].nonzero()[:, 0].tolist()


def test_each_filter_keeps_what_its_definition_says():
    p = [0.1, 0.4, 0.05, 0.25, 0.2]
    assert _kept(p) == [0, 1, 2, 3, 4]
    assert _kept(p, top_k=2) == [1, 3]
    assert _kept(p, top_p=0.64) == [1, 3]
    assert _kept(p, top_p=0.66) == [1, 3, 4]
    assert _kept(p, min_p=0.3) == [1, 3, 4]
    assert _kept(p, top_k=1, top_p=0.01) == [1]


def test_top_p_is_right_when_the_nucleus_is_larger_than_the_first_try():
    logits = torch.zeros(2, 5000)
    logits[1, 7] = 30.0
    out = filtered(logits + torch.linspace(0, 1e-3, 5000), SamplingConfig(temperature=1.0, top_p=0.5))
    assert abs(int(torch.isfinite(out[0]).sum()) - 2500) < 5
    assert torch.isfinite(out[1]).nonzero().tolist() == [[7]]


def test_the_draw_follows_the_distribution_and_never_takes_what_was_filtered_out():
    logits = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log()
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = inverse_cdf(logits.expand(10_000, -1), uniform).bincount(minlength=4)
    assert drawn.tolist() == pytest.approx([5000, 0, 3000, 2000], abs=2)
    edges = torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)
    assert inverse_cdf(torch.tensor([[0.0, 1.0, 0.0]]).log().expand(2, -1), edges).tolist() == [1, 1]


def test_penalty_divides_positive_and_multiplies_negative_logits():
    out = penalise(torch.tensor([[2.0, -2.0, 3.0]]), torch.tensor([[True, True, False]]), 2.0)
    assert out.tolist() == [[1.0, -4.0, 3.0]]


def test_penalty_counts_prompt_and_answer_but_not_the_start_token():
    sampler = Sampler(SamplingConfig(temperature=0, repetition_penalty=10.0), [[0, 2]], 4, torch.device("cpu"))
    logits = torch.tensor([[5.0, 4.0, 6.0, 3.0]])
    assert [sampler.draw(logits, [0])[0] for _ in range(3)] == [0, 1, 3]


@pytest.mark.parametrize(
    ("values", "part"),
    [({"top_p": 0.0}, "top_p"), ({"temperature": -1}, "temperature"), ({"temperature": math.nan}, "temperature"),
     ({"temperature": 1e-320}, "temperature"), ({"repetition_penalty": math.nan}, "repetition"),
     ({"repetition_penalty": math.inf}, "repetition"),
     ({"max_tokens": 0}, "max_tokens"), ({"stop": ("",)}, "stop"),
     ({"top_n": 3}, "Did you mean"), ({"min_p": 2}, "min_p"), ({"repetition_penalty": 0}, "repetition_penalty"), ({"top_k": -1}, "top_k")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values, part):
    with pytest.raises(ConfigError, match=part):
        SamplingConfig.of(values)


def test_any_seed_will_do():
    for seed in (2**63, 10**23):
        sampler = Sampler(SamplingConfig(seed=seed), [[0], [0]], 4, torch.device("cpu"))
        assert len(sampler.draw(torch.zeros(2, 4), [0, 1])) == 2
