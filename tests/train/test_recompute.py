"""`train.recompute`: blocks computed again in the backward pass. The gradients are the same, bit for bit, and less is kept."""

from __future__ import annotations

import pytest
import torch

from wordmill.batches.batch import Batch, Source
from wordmill.core.errors import ConfigError
from wordmill.models.adapters import add_lora
from wordmill.models.folder import recompute_blocks
from wordmill.models.lora import LoraConfig
from wordmill.train.loop import TrainConfig
from wordmill.train.objectives import causal, denoise, masked


def _batch(*, packed: bool, source: bool = False) -> Batch:
    """Two rows; packed: several documents in each, and padding behind."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 97, (2, 12), generator=generator)
    positions, documents = torch.arange(12).expand(2, 12).clone(), None
    if packed:
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, -1, -1, -1], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
        documents = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3, [0] * 2 + [1] * 10], dtype=torch.int32)
    targets = torch.where(positions < 0, -100, ids.roll(-1, 1))
    return Batch(ids, targets, positions, documents, Source(ids, positions, documents) if source else None)


def _gradients(model, objective, batch, dtype):
    model.to(dtype).train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    found = objective(model, batch)
    found.loss_sum.backward()
    return float(found.loss_sum.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("shape", "objective"), [("qwen3", causal), ("gpt2", causal), ("bert", masked), ("t5", denoise)])
def test_gradients_are_the_same_to_the_bit_with_dropout_on(make_model, shape, objective, packed, dtype):
    batch = _batch(packed=packed, source=objective is denoise)
    model = make_model(shape).requires_grad_(True)
    model.set_dropout(0.3)
    loss, kept = _gradients(model, objective, batch, dtype)
    recompute_blocks(model)
    again, made = _gradients(model, objective, batch, dtype)
    assert loss == again and kept.keys() == made.keys()
    for name, gradient in kept.items():
        assert torch.equal(gradient, made[name]), name
    different = _gradients(make_model(shape).requires_grad_(True), objective, batch, dtype)[0]
    assert different != loss, "dropout was on"


def test_an_adapter_learns_the_same_and_the_frozen_weights_get_nothing(make_model):
    model = make_model("llama")
    add_lora(model, LoraConfig(rank=4, dropout=0.2), 0)
    _, kept = _gradients(model, causal, _batch(packed=True), torch.float32)
    recompute_blocks(model)
    _, made = _gradients(model, causal, _batch(packed=True), torch.float32)
    assert kept and all(".adapters." in name for name in kept)
    assert all(torch.equal(kept[name], made[name]) for name in kept)


def test_less_is_kept_for_the_backward_pass(make_model):
    def kept(model):
        held = 0

        def count(x):
            nonlocal held
            held += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            loss = causal(model.train(), _batch(packed=True)).loss_sum
        assert loss.requires_grad
        return held

    whole, lean = make_model(layers=6).requires_grad_(True), make_model(layers=6).requires_grad_(True)
    recompute_blocks(lean)
    # The hooks inside a recomputed block are its own: what is counted here is what stands outside of the blocks.
    assert kept(lean) < 0.5 * kept(whole)


def test_scoring_and_generation_are_left_alone(make_model, monkeypatch):
    from wordmill.models import transformer

    model = make_model()
    recompute_blocks(model)
    monkeypatch.setattr(transformer, "checkpoint", lambda *a, **k: pytest.fail("nothing is to be recomputed"))
    with torch.no_grad():
        assert model.train()(torch.tensor([[1, 2, 3]]))[0].shape[:2] == (1, 3)
    assert model.eval()(torch.tensor([[1, 2, 3]]))[0].shape[:2] == (1, 3)


def test_what_can_t_be_honoured_is_refused(make_model):
    with pytest.raises(ConfigError, match="recurrent"):
        recompute_blocks(make_model("lstm"))
    with pytest.raises(ConfigError, match="compile"):
        TrainConfig.of({"steps": 1, "compile": True, "recompute": True})
