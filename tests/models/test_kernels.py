"""The C kernels against PyTorch in float64: values and gradients, at shapes that fill no vector evenly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wordmill.core import native
from wordmill.models import kernels
from wordmill.models.config import TransformerConfig
from wordmill.models.ops import linear_cross_entropy, rms_norm, rotary_table, rotate, token_losses
from wordmill.models.transformer import ACTIVATIONS, Transformer

pytestmark = pytest.mark.skipif(kernels._library() is None, reason="needs a C compiler: without one PyTorch does the same work")

ROUNDING = {torch.bfloat16: 1e-2, torch.float32: 3e-6}  # relative to the norm of the tensor; bfloat16 rounds each number by up to 4e-3
DTYPE = torch.bfloat16


@pytest.fixture(params=ROUNDING, ids=str, autouse=True)
def _dtype(request: pytest.FixtureRequest) -> None:
    """Every test runs in both of the dtypes that the kernels are compiled for."""
    global DTYPE
    DTYPE = request.param


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DTYPE)


def check_close(ours: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and the gradients of all inputs, under a random gradient of the output."""
    results = []
    for function, cast in ((ours, DTYPE), (reference, torch.float64)):
        leaves = [x.to(cast).requires_grad_(True) for x in inputs]
        out = function(*leaves)
        gradients = torch.autograd.grad(out, leaves, draw(*out.shape, seed=9).to(cast))
        results.append([out.detach(), *gradients])
    for index, (got, truth) in enumerate(zip(*results, strict=True)):
        error = (got.double() - truth).norm() / truth.norm().clamp(min=1e-9)
        assert error < ROUNDING[DTYPE], f"result {index}: relative error {error:.2g}"


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (33, 70), (64, 128), (129, 15)])
def test_transpose_is_exact(shape: tuple[int, int]) -> None:
    x = draw(*shape).to(torch.bfloat16)
    assert torch.equal(kernels.transpose(x), x.t())


@pytest.mark.parametrize("units", [False, True])
def test_a_product_across_rows_is_the_same_on_either_kind_of_cpu(units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "matrix_units", lambda: units)
    wide, narrow = draw(40, 33), draw(40, 20, seed=1)
    for a, b in ((wide, narrow), (narrow, wide)):
        truth = a.double().t() @ b.double()
        assert (kernels.across(a, b).double() - truth).norm() / truth.norm() < ROUNDING[DTYPE]


def test_gradients_are_added_up_in_float32() -> None:
    sums, parts = torch.zeros(7, 33), [draw(7, 33, seed=seed) for seed in range(50)]
    for part in parts:
        kernels.add_(sums, part)
    assert torch.allclose(sums.double(), torch.stack(parts).double().sum(0), atol=1e-5)
    kernels.add_(sums.t(), parts[0].t())  # not contiguous
    assert torch.allclose(sums.double(), torch.stack([*parts, parts[0]]).double().sum(0), atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_linear(bias: bool) -> None:
    inputs = (draw(3, 11, 24), draw(40, 24, seed=1), *([draw(40, seed=2)] if bias else []))
    check_close(lambda x, w, b=None: kernels.linear(x, w, b), lambda x, w, b=None: F.linear(x, w, b), *inputs)


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_bias_is_added_within_the_product_whatever_the_layout(rows: int, dtype: torch.dtype) -> None:
    whole = draw(48, 2 * rows, seed=1).to(dtype)
    weights = draw(3 * 40, 48, seed=2).to(dtype)
    for x in (whole.t()[:rows].contiguous(), whole.t()[:rows], whole.t()[::2]):
        for weight in (weights[40:80], weights[::3], weights[:40].t().contiguous().t()):
            bias = draw(40, seed=3).to(dtype)
            torch.testing.assert_close(kernels.biased(x, weight, bias), torch.addmm(bias, x, weight.t()), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", list(kernels.FUSED))
def test_activations_within_the_product(name: str, bias: bool) -> None:
    x, weight = draw(3, 11, 24).bfloat16(), draw(40, 24, seed=1).bfloat16()
    addend = draw(40, seed=2).bfloat16() if bias else None
    assert not kernels.activates(x, name), "with gradients what goes in between is needed"
    with torch.no_grad():
        assert not kernels.activates(x.float(), name) and not kernels.activates(x, "silu")
        assert kernels.activates(x, name) == kernels._layers()
        if not kernels._layers():
            pytest.skip("oneDNN has no layers in bfloat16 for this CPU")
        found = kernels.activated(x, weight, addend, name)
    exact = ACTIVATIONS[name](F.linear(x.double(), weight.double(), None if addend is None else addend.double()))
    torch.testing.assert_close(found.double(), exact, rtol=2 * ROUNDING[torch.bfloat16], atol=0.01)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", list(kernels.KINDS))
def test_activations(name: str, gated: bool) -> None:
    def reference(x: Tensor) -> Tensor:
        if not gated:
            return ACTIVATIONS[name](x)
        gate, up = x.chunk(2, dim=-1)
        return ACTIVATIONS[name](gate) * up

    check_close(lambda x: kernels.activate(x, name, gated), reference, 3 * draw(5, 7, 38))


def test_activations_at_the_edges() -> None:
    x = torch.tensor([[-3e4, -100.0, -10.0, -0.0, 0.0, 10.0, 100.0, 3e4]]).to(DTYPE)
    for name in kernels.KINDS:
        expected, error = ACTIVATIONS[name](x.double()).to(DTYPE), ROUNDING[DTYPE]
        torch.testing.assert_close(kernels.activate(x, name, False), expected, rtol=error, atol=error / 100)


@pytest.mark.parametrize("width", [16, 50, 384])
def test_norms(width: int) -> None:
    x, w, b = 2 * draw(6, 5, width) + 1, 1 + 0.1 * draw(width, seed=1), draw(width, seed=2)
    check_close(lambda x, w: kernels.norm(x, w, None, 1e-6), lambda x, w: rms_norm(x, w, 1e-6), x, w)
    check_close(lambda x, w, b: kernels.norm(x, w, b, 1e-5), lambda x, w, b: F.layer_norm(x, (width,), w, b, 1e-5), x, w, b)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("parts", ["plain", "rotary", "norm", "norm and rotary", "packed"])
def test_attention(groups: int, parts: str) -> None:
    batch, length, heads, size = 2, 21, 4, 16
    positions = torch.arange(length).expand(batch, length)
    first = torch.zeros(batch, length, dtype=torch.int32)
    if parts == "packed":
        first[1, 8:] = 8
        positions = torch.stack((torch.arange(length), torch.cat((torch.arange(8), torch.arange(length - 8)))))
    frequencies = 100.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    turned, normed = "rotary" in parts or parts == "packed", "norm" in parts

    def ours(qkv: Tensor, *w: Tensor) -> Tensor:
        table = rotary_table(positions, frequencies, torch.float32) if turned else None
        weights = w if normed else (None, None)
        return kernels.attention(
            qkv, *weights, table, first if parts == "packed" else None, heads=heads, groups=groups, scale=0.3, eps=1e-6
        )

    def reference(qkv: Tensor, *w: Tensor) -> Tensor:
        q, k, v = qkv.split((heads, groups, groups), dim=2)
        if normed:
            q, k = rms_norm(q, w[0], 1e-6), rms_norm(k, w[1], 1e-6)
        if turned:
            table = rotary_table(positions, frequencies, torch.float64)
            q, k = rotate(q, table), rotate(k, table)
        k, v = (x.repeat_interleave(heads // groups, dim=2) for x in (k, v))
        scores = 0.3 * torch.einsum("bthk,bshk->bhts", q, k)
        place = torch.arange(length)
        hidden = (place[None, None, :] > place[None, :, None]) | (place[None, None, :] < first[:, :, None])
        return torch.einsum("bhts,bshk->bthk", scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1), v).flatten(2)

    inputs = (draw(batch, length, heads + 2 * groups, size), *([1 + 0.1 * draw(size, seed=s) for s in (1, 2)] if normed else []))
    check_close(ours, reference, *inputs)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("parts", ["plain", "norm and rotary"])
@pytest.mark.parametrize("length", [5, 16, 61])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_one_pass_is_that_of_whole_products(causal: bool, length: int, parts: str, groups: int) -> None:
    """Rows of several texts of 1 to 20 tokens, and places at the end that see nothing."""
    batch, heads, size = 3, 4, 32
    cuts = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 0.15
    cuts[:, 0] = True
    number = cuts.int().cumsum(1)
    first = torch.stack([torch.searchsorted(row, row) for row in number]).int()
    last = torch.stack([torch.searchsorted(row, row, right=True) for row in number]).int()
    if not causal:
        first[1, -3:] = last[1, -3:] = 0
    qkv = draw(batch, length, heads + 2 * groups, size)
    w = [1 + 0.1 * draw(size, seed=s) for s in (1, 2)] if "norm" in parts else (None, None)
    frequencies = 100.0 ** -(torch.arange(0, size, 2) / size)
    table = rotary_table(torch.arange(length).expand(batch, length), frequencies, torch.float32) if "rotary" in parts else None

    def attention() -> Tensor:
        return kernels.attention(qkv, *w, table, first, None if causal else last, heads=heads, groups=groups, scale=0.3, eps=1e-6)

    whole = attention()
    with torch.no_grad():
        once = attention()
    blind = torch.zeros(batch, length, dtype=torch.bool) if causal else first == last
    assert not once[blind].any()
    error = (once[~blind].double() - whole[~blind].double()).norm() / whole[~blind].double().norm()
    assert 0 < error < ROUNDING[DTYPE], "nearly the same, and not by the same way"


def test_a_norm_of_a_sum() -> None:
    x, more, w, b = draw(6, 5, 50), draw(6, 5, 50, seed=3), 1 + 0.1 * draw(50, seed=1), draw(50, seed=2)
    check_close(
        lambda x, more, w, b: kernels.norm(x, w, b, 1e-5, more),
        lambda x, more, w, b: F.layer_norm(x + more, (50,), w, b, 1e-5),
        *(x, more, w, b),
    )
    truth = F.layer_norm(x.double() + more.double(), (50,), w.double(), b.double(), 1e-5)
    with torch.no_grad():
        found = kernels.norm(x, w, b, 1e-5, more).double()
    assert (found - truth).norm() / truth.norm() < ROUNDING[DTYPE]


def test_dropout_drops_its_share_and_the_way_back_drops_the_same() -> None:
    x = torch.ones(400, 501).to(DTYPE).requires_grad_(True)
    torch.manual_seed(0)
    out = kernels.dropout(x, 0.3)
    out.sum().backward()
    assert torch.equal(out, x.grad), "the gradient of kept places is their scale, of dropped ones 0"
    kept = out != 0
    assert abs(kept.double().mean().item() - 0.7) < 0.005 and torch.allclose(out[kept], torch.tensor(1 / 0.7).to(DTYPE))
    assert kept.double().mean(0).std() < 0.03 and kept.double().mean(1).std() < 0.03, "no stripes"
    again = kernels.dropout(x, 0.3)
    assert abs((kept & (again != 0)).double().mean().item() - 0.49) < 0.005, "the next draw is another one"
    torch.manual_seed(0)
    assert torch.equal(kernels.dropout(x, 0.3), out)


@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_cross_entropy(softcap: float) -> None:
    targets = torch.randint(0, 77, (19,), generator=torch.Generator().manual_seed(0))
    targets[3] = -100
    check_close(
        lambda h, w: linear_cross_entropy(h, w, None, targets, softcap=softcap)[None],
        lambda h, w: linear_cross_entropy(h, w, None, targets, softcap=softcap)[None],
        draw(19, 24),
        draw(77, 24, seed=1),
    )


@pytest.mark.parametrize("shift", [0.0, -50.0, 50.0, -1e4])
@pytest.mark.parametrize("tokens", [1, 31, 200])
def test_the_largest_logit_may_have_any_sign(tokens: int, shift: float) -> None:
    """bfloat16 is compared as integers, in which negative numbers stand upside down."""
    logits, targets = draw(6, tokens) * 3 + shift, torch.arange(6) % tokens
    logits[2] = 0.0
    logits[3, 0] = -0.0
    exact = logits.double().requires_grad_(True)
    wanted = F.cross_entropy(exact, targets, reduction="none")
    (slope,) = torch.autograd.grad(wanted.sum(), exact)
    losses = kernels.cross_entropy_(logits, targets, 0.0, back=True)
    assert torch.allclose(losses.double(), wanted, rtol=1e-5, atol=2e-6 * (1 + abs(shift)))
    assert torch.allclose(logits.double(), slope, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_scores_of_tokens_are_those_of_the_plain_path(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = draw(50, 24), draw(77, 24, seed=1), torch.randint(0, 77, (50,))
    targets[::7] = -100
    own = draw(77, seed=2) if bias else None
    fast = token_losses(hidden, weight, own, targets)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    plain = token_losses(hidden, weight, own, targets)
    assert torch.allclose(fast, plain, rtol=1e-5, atol=1e-5) and not bool(fast[::7].any())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_a_loss_that_is_no_number(bad: float) -> None:
    logits = draw(2, 30)
    logits[1, 7] = bad
    losses = kernels.cross_entropy_(logits, torch.tensor([3, 4]), 0.0, back=True)
    assert bool(losses[0].isfinite()) and not bool(losses[1].isfinite())


@pytest.mark.parametrize("windows", [(0,), (0, 6)])
def test_a_model_with_packed_rows_agrees_with_the_plain_path(windows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    config = TransformerConfig(
        vocab_size=60, width=32, layers=2, heads=4, kv_heads=2, head_size=16, ffn_size=48, windows=windows, tie_embeddings=False
    )
    model = Transformer(config)
    model.initialise(0, zero_outputs=False)
    model.to(DTYPE)
    ids, documents = torch.randint(0, 60, (2, 30)), torch.tensor([[0] * 12 + [1] * 18, [0] * 30])
    positions = torch.stack((torch.cat((torch.arange(12), torch.arange(18))), torch.arange(30)))
    fast, _ = model(ids, positions, documents)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    plain, _ = model(ids, positions, documents)
    assert ((fast - plain).norm() / plain.norm()).item() < ROUNDING[DTYPE]


@pytest.mark.parametrize("how", ["whole", "padded", "packed"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "gemma3_text", "distilbert", "bart"])
def test_every_kind_of_family_agrees_with_the_plain_path(family: str, how: str, make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(family, seed=3).to(DTYPE).requires_grad_(True)
    ids, positions, documents = torch.randint(3, 97, (2, 30)), None, None
    if how == "padded":
        positions = torch.stack((torch.cat((torch.full((4,), -1), torch.arange(20), torch.full((6,), -1))), torch.arange(30)))
    elif how == "packed":
        documents = torch.tensor([[0] * 12 + [1] * 15 + [2] * 3, [0] * 30])
        positions = torch.stack((torch.cat((torch.arange(12), torch.arange(15), torch.full((3,), -1))), torch.arange(30)))
    real = torch.ones(2, 30, dtype=torch.bool) if positions is None else positions >= 0
    weight = torch.randn(2, 30, 48).double() * real[..., None]

    def run() -> list[Tensor]:
        memory = model.encode(ids, positions, documents) if model.config.encoder_layers else None
        hidden, _ = model(ids, positions, documents, memory=memory)
        gradient = torch.autograd.grad((hidden * weight.to(hidden.dtype)).sum(), model.embedding.weight)[0]
        return [hidden[real].double(), gradient.double()]

    fast = run()
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    plain = run()
    model.double()
    for a, b, truth in zip(fast, plain, run(), strict=True):
        assert not torch.equal(a, b), "two paths"
        errors = [((x - truth).norm() / truth.norm()).item() for x in (a, b)]
        assert errors[0] < ROUNDING[DTYPE] + 1.3 * errors[1] < 15 * ROUNDING[DTYPE]


def test_without_a_compiler_pytorch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> str:
        raise native.Refusal("there is no C compiler (cc)")

    monkeypatch.setattr(native, "_compiler", no_compiler)
    found = native.load(Path(kernels.__file__).with_name("kernels.c"))
    assert found == "there is no C compiler (cc)"
    monkeypatch.setattr(kernels, "_library", lambda dtype: None)
    assert not kernels.usable(draw(2, 2))


def test_denormal_numbers_are_zero_inside_and_back_outside_in_every_thread() -> None:
    tiny = torch.full((1 << 20,), 1e-39)  # large enough for all threads to have a share
    seen = []

    @kernels.flushed_denormals()
    def work() -> None:
        seen.append(bool(((tiny * 0.5) == 0).all()))
        raise ZeroDivisionError

    assert bool(((tiny * 0.5) != 0).all())
    with pytest.raises(ZeroDivisionError):
        work()
    assert seen == [True]
    assert bool(((tiny * 0.5) != 0).all())
