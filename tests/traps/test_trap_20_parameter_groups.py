"""Weight decay on norms, biases and embeddings, or a tied weight in two groups, makes a model worse without a word.
Every parameter must stand in exactly one group, tied ones once, and only matrices (an untied output layer among them) may decay."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import FAMILIES
from wordmill.train.optim import OptimConfig, Optimizer, assign

KINDS = ("muon", "adamw", "adam", "sgd")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*FAMILIES, "lstm", "gru"])
def test_every_parameter_in_one_group_and_decay_on_matrices_only(make_model, shape, kind, tied):
    model = make_model(shape, tie_embeddings=tied)
    groups = assign(model, OptimConfig(kind=kind, weight_decay=0.1))
    names = [name for group in groups for name in group.names]
    parameters = dict(model.named_parameters())
    assert sorted(names) == sorted(parameters), "each exactly once"
    assert len({id(parameters[name]) for name in names}) == len(names) == len(list(model.parameters()))
    assert ("head.weight" in names) is not tied
    decayed = {name for group in groups if group.weight_decay for name in group.names}
    never = {name for name, p in parameters.items() if p.ndim < 2 or "norm" in name or "bias" in name or "embedding" in name}
    assert not decayed & never
    matrices = set(parameters) - never - {"head.weight"}
    assert matrices <= decayed and matrices
    if kind != "muon" and not tied:
        assert "head.weight" in decayed
    if kind == "muon":
        assert {name for group in groups if group.rule == "muon" for name in group.names} == matrices
    else:
        assert {group.rule for group in groups} == {kind}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*FAMILIES, "lstm", "gru"])
def test_what_really_decays(make_model, shape, kind):
    """With gradients of zero, an update is the decay and nothing else."""
    model = make_model(shape, tie_embeddings=True)
    config = OptimConfig(kind=kind, weight_decay=0.1)
    optimizer = Optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.gradient = {name: torch.zeros_like(p) for name, p in before.items()}
    rates = {name: group.lr * group.weight_decay for group in optimizer.groups for name in group.names}
    optimizer.step(0.5)
    for name, p in model.named_parameters():
        if kind != "adam":  # which adds the decay to the gradient, whose size it then divides out
            torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * rates[name]), rtol=0, atol=1e-7)
        assert torch.equal(p.detach(), before[name]) == (rates[name] == 0)
        assert (rates[name] > 0) == (p.ndim == 2 and "embedding" not in name and "bias" not in name), name
