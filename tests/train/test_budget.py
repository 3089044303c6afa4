"""From a size or a number of epochs to settings."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wordmill.batches.batch import IGNORE, Batch
from wordmill.core.errors import ConfigError
from wordmill.models.config import RecurrentConfig
from wordmill.train import budget
from wordmill.train.objectives import OBJECTIVES

COMMON = {"vocab_size": 4096}


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "lstm", "gru"])
@pytest.mark.parametrize("size", [1e6, 5e6, 3e7])
def test_the_nearest_shape_of_a_size(family, size):
    config = budget.for_size(family, size, COMMON)
    assert 0.5 < budget.count_parameters(config) / size < 2
    assert isinstance(config, RecurrentConfig) == (family in ("lstm", "gru"))
    if isinstance(config, RecurrentConfig):
        assert config.cell == family


@pytest.mark.parametrize("size", [100, 1e12])
def test_sizes_out_of_reach_say_what_is_there(size):
    with pytest.raises(ConfigError, match="Choose between .* and "):
        budget.for_size("qwen3", size, COMMON)


def test_more_time_takes_larger_models():
    sizes = [budget.block_parameters(budget.for_operations("qwen3", operations, COMMON)) for operations in (1e12, 1e14, 1e16, 1e18)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_counts_of_weights():
    config = budget.model_config("qwen3", {**budget.family_shape("qwen3", 64, 2), **COMMON, "tie_embeddings": True})
    untied = config.replace(tie_embeddings=False)
    assert budget.count_parameters(untied) - budget.count_parameters(config) == 4096 * 64
    assert budget.count_parameters(config) - budget.block_parameters(config) == 4096 * 64


def test_small_corpora_are_regularised():
    assert set(budget.regularisation(1.0).values()) == {0.0}
    few, many = budget.regularisation(4), budget.regularisation(20)
    assert 0 < few["dropout"] <= many["dropout"] and few["ema"] > 0 and few["weight_decay"] > 0


@pytest.mark.parametrize("tokens", [1e4, 1e6, 1e9])
def test_rows_are_powers_of_two(tokens):
    rows = budget.rows_for(tokens, 256)
    assert rows >= 1 and rows & (rows - 1) == 0


@pytest.mark.parametrize(("family", "prefixed"), [("bert", False), ("modernbert", False), ("qwen3", True), ("qwen3", False)])
def test_operations_are_those_that_are_done(make_model, family, prefixed):
    """Against the library's count of what it multiplies, where few of the places are targets."""
    model = make_model(family, windows=(0, 0)).double().requires_grad_(True)
    ids = torch.randint(1, 97, (3, 16), generator=torch.Generator().manual_seed(0))
    targets = torch.full_like(ids, IGNORE)
    targets[:, ::4] = ids[:, ::4]
    prefix = torch.zeros_like(ids, dtype=torch.bool) if prefixed else None
    batch = Batch(ids, targets, torch.arange(16).expand(3, 16), None, prefix=prefix)
    objective = OBJECTIVES["prefix" if prefixed else "clm" if model.config.causal else "mlm"]
    with FlopCounterMode(display=False) as counter:
        objective(model, batch).loss_sum.backward()
    expected = budget.step_flops(model, batch, 16)
    if objective is OBJECTIVES["clm"]:  # all rows go through the output layer there, also those that are no targets
        expected += 6.0 * (48 - 12) * 97 * 48
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)
