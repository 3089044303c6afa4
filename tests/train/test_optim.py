"""The optimisers against their definitions: PyTorch's own, and Muon written out for one matrix at a time in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wordmill.batches.batch import Batch, Source
from wordmill.models.config import TransformerConfig
from wordmill.models.folder import build_model
from wordmill.models.heads import HeadConfig, Headed
from wordmill.train import budget
from wordmill.train.objectives import denoise
from wordmill.train.optim import COEFFICIENTS, OptimConfig, Optimizer, assign, orthogonalise

FACTORS = [0.3, 1.0, 0.7, 0.2]


def _gradients(model: nn.Module, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(p.shape, generator=generator).to(p.dtype) for name, p in model.named_parameters()}


def _train(optimizer: Optimizer, steps: int = len(FACTORS), start: int = 0) -> None:
    for step in range(start, steps):
        for name, gradient in _gradients(optimizer.model, step).items():
            optimizer.parameters[name].grad = gradient
        optimizer.collect()
        optimizer.step(FACTORS[step])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_equal_to_pytorchs(make_model, kind, decay):
    config = OptimConfig(kind=kind, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, momentum=0.9, weight_decay=decay)
    ours, theirs = make_model("gpt2"), make_model("gpt2")
    named = dict(theirs.named_parameters())
    groups = [{"params": [named[n] for n in group.names], "weight_decay": group.weight_decay} for group in assign(theirs, config)]
    if kind == "sgd":
        reference = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    else:
        reference = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind](groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    optimizer = Optimizer(ours, config)
    _train(optimizer)
    for step, factor in enumerate(FACTORS):
        for name, gradient in _gradients(theirs, step).items():
            named[name].grad = gradient
        for group in reference.param_groups:
            group["lr"] = 1e-2 * factor
        reference.step()
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, named[name], rtol=1e-5, atol=1e-6)


def _muon(weight: torch.Tensor, gradients: list[torch.Tensor], config: OptimConfig) -> torch.Tensor:
    """One matrix, step by step, as Jordan et al. 2024 write it: Nesterov momentum, Newton–Schulz, √(out/in) for tall ones."""
    moment = torch.zeros_like(weight)
    for gradient, factor in zip(gradients, FACTORS, strict=True):
        weight = weight * (1 - config.matrix_lr * factor * config.weight_decay)
        moment = config.momentum * moment + (1 - config.momentum) * gradient
        x = (1 - config.momentum) * gradient + config.momentum * moment
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (x.norm() + 1e-7)
        a, b, c = COEFFICIENTS
        for _ in range(config.ns_steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x.T if tall else x
        weight = weight - config.matrix_lr * factor * math.sqrt(max(1.0, x.shape[0] / x.shape[1])) * x
    return weight


def test_muon_is_its_definition_matrix_by_matrix(make_model):
    config = OptimConfig(weight_decay=0.1)
    model = make_model("qwen3").double()
    optimizer = Optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _train(optimizer)
    (group,) = [group for group in optimizer.groups if group.rule == "muon"]
    gradients = [_gradients(model, step) for step in range(len(FACTORS))]
    parts = model.matrix_parts()
    assert any(name.endswith("qkv.weight") for name in group.names)
    for name in group.names:
        sizes = parts.get(name) or (before[name].shape[0],)
        pieces = zip(before[name].split(sizes), *(g[name].split(sizes) for g in gradients), strict=True)
        expected = torch.cat([_muon(weight, list(rest), config) for weight, *rest in pieces])
        # Newton–Schulz may run in bfloat16 whatever comes in, which rounds an update by half a percent.
        scale = (expected - before[name]).norm()
        assert (model.get_parameter(name) - expected).norm() < 0.02 * scale, name


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (24, 64)])
def test_singular_values_are_pulled_to_one(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalise(x, 5).double())
    assert float(values.max()) < 1.3
    assert float(values[:, : shape[0] // 2].min()) > 0.6


def test_masters_are_float32_under_a_bfloat16_model(make_model):
    """Updates far below bfloat16's resolution add up in the masters, and the model holds their rounding."""
    model = make_model("qwen3").bfloat16()
    optimizer = Optimizer(model, OptimConfig(kind="adamw", lr=1e-5))
    name = "blocks.0.attention.output.weight"
    start = optimizer.master[name].clone()
    for _ in range(50):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.collect()
        optimizer.step(1.0)
    assert optimizer.master[name].dtype == torch.float32
    torch.testing.assert_close(start - optimizer.master[name], torch.full_like(start, 50e-5), rtol=0.05, atol=0)
    assert torch.equal(model.get_parameter(name), optimizer.master[name].bfloat16())


def test_a_weight_that_is_unfrozen_late_starts_at_its_rate():
    """Its moments start at zero in its own first step: by the count of all steps they would count as grown, and the step be too large."""
    model = nn.Linear(4, 4)
    optimizer = Optimizer(model, OptimConfig(kind="adamw", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-12))
    for step in range(330):
        model.weight.grad = torch.ones(4, 4) if step >= 300 else None
        model.bias.grad = torch.ones(4)
        before = optimizer.master["weight"].clone()
        optimizer.collect()
        optimizer.step(1.0)
        if step >= 300:
            torch.testing.assert_close(before - optimizer.master["weight"], torch.full((4, 4), 1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["muon", "adamw", "adam", "sgd"])
def test_state_goes_there_and_back(make_model, kind):
    config = OptimConfig(kind=kind, weight_decay=0.1)
    whole, part = Optimizer(make_model("qwen3"), config), Optimizer(make_model("qwen3"), config)
    _train(whole)
    _train(part, 2)
    state = {name: tensor.clone() for name, tensor in part.state().items()}
    again = Optimizer(make_model("qwen3", seed=5), config)
    again.load_state(state)
    _train(again, start=2)
    for name, p in whole.model.named_parameters():
        assert torch.equal(p, again.model.get_parameter(name)), name


def _learned(settings: dict[str, object], steps: int) -> list[float]:
    """The losses of an encoder–decoder that learns for some steps by Muon."""
    sizes = {"width": 48, "heads": 4, "kv_heads": 2, "head_size": 12, "ffn_size": 64, "max_positions": 64}
    kind = {"layers": 2, "encoder_layers": 2, "decoder_start_id": 0, "qk_norm": False}
    model = build_model(TransformerConfig(vocab_size=97, **kind, **sizes, **settings))
    model.initialise(0)
    optimizer = Optimizer(model.double(), OptimConfig(matrix_lr=0.1))
    generator = torch.Generator().manual_seed(1)
    ids, positions = torch.randint(1, 97, (2, 12), generator=generator), torch.arange(12).expand(2, 12)
    batch, losses = Batch(ids, ids.roll(-1, 1), positions, None, Source(ids, positions, None)), []
    for _ in range(steps):
        loss = denoise(model, batch).loss_sum
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.collect()
        optimizer.step(1.0)
    return losses


def test_a_model_that_divides_no_scores_learns_as_one_that_does():
    """Queries √head_size smaller, updated by √head_size less, give the scores that division gives: T5's way and the others' are one."""
    plain, divided = _learned({"attention_scale": 1.0}, 6), _learned({"attention_scale": None}, 6)
    assert plain[-1] < plain[0] - 1
    assert plain == pytest.approx(divided, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert", "bart", "qwen3", "modernbert", "t5", "wordmill-transformer"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_added_to_the_embedding_learns_at_its_rate(family, tied):
    """Places and kinds that learned faster than tied token embeddings drowned them: GPT-2's loss stayed near that of single words."""
    shape = {**budget.family_shape(family, 64, 1), "tie_embeddings": tied, "vocab_size": 97}
    config = OptimConfig(lr=0.001)
    groups = assign(build_model(TransformerConfig.of(shape, where="model")), config)
    rates = {name: group.lr for group in groups for name in group.names if "embedding" in name}
    norms = {rates.pop(name) for name in list(rates) if "norm" in name}
    assert set(rates.values()) == {config.head_lr if tied else config.embedding_lr}
    assert norms <= {config.lr}


def test_rows_that_are_answers_are_not_for_muon(make_model):
    model = make_model("qwen3", tie_embeddings=False)
    headed = Headed(make_model("modernbert"), HeadConfig(kind="token", labels=("O", "B-X", "I-X"), crf=True))
    for one, answers in ((model, {"head.weight"}), (headed, {"out.weight", "crf.transitions"})):
        rules = {name: group.rule for group in assign(one, OptimConfig()) for name in group.names}
        assert {name for name in answers if rules[name] == "muon"} == set()
        assert any(rule == "muon" for rule in rules.values())
        assert set(rules) == {name for name, _ in one.named_parameters()}
