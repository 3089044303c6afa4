"""The recurrent models against PyTorch's own, and what PyTorch's cannot do: resets, padding, carried state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wordmill.models.config import RecurrentConfig
from wordmill.models.recurrent import Marks, RecurrentLayer, RecurrentLM, RecurrentState, flops_per_token

CELLS = ("lstm", "gru")
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _pair(cell: str, inputs: int, size: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, RecurrentLayer]:
    torch.manual_seed(1)
    theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(inputs, size).to(dtype)
    ours = RecurrentLayer(cell, inputs, size).to(dtype)
    for name in NAMES:
        getattr(ours, name).data.copy_(getattr(theirs, f"{name}_l0").data)
    return theirs, ours


def _model(cell: str, **settings: object) -> RecurrentLM:
    model = RecurrentLM(RecurrentConfig(**{"cell": cell, "vocab_size": 29, "embedding_size": 6, "hidden_size": 7, "layers": 2, **settings}))
    model.initialise(0)
    return model.double().eval()


def _marks(reset: torch.Tensor, padding: torch.Tensor) -> Marks:
    return Marks(reset[..., None], padding[..., None], reset.any(1).tolist(), padding.any(1).tolist())


@pytest.mark.parametrize("steps", [1, 3, 12])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_pytorchs(cell, steps):
    theirs, ours = _pair(cell, 5, 7)
    x, h, c = torch.randn(steps, 3, 5).double(), torch.randn(3, 7).double(), torch.randn(3, 7).double()
    weights = [torch.randn(steps, 3, 7).double(), torch.randn(3, 7).double(), torch.randn(3, 7).double()]

    def run(module: nn.Module) -> list[torch.Tensor]:
        inputs = [t.clone().requires_grad_() for t in ((x, h, c) if cell == "lstm" else (x, h))]
        if module is theirs:
            out, last = module(inputs[0], (inputs[1][None], inputs[2][None]) if cell == "lstm" else inputs[1][None])
            results = [out, last[0][0], last[1][0]] if cell == "lstm" else [out, last[0]]
        else:
            out, last_h, last_c = module(inputs[0], inputs[1], inputs[2] if cell == "lstm" else None, None)
            results = [out, last_h, last_c] if cell == "lstm" else [out, last_h]
        sum((result * weight).sum() for result, weight in zip(results, weights, strict=False)).backward()
        suffix = "_l0" if module is theirs else ""
        return [*results, *(t.grad for t in inputs), *(getattr(module, name + suffix).grad for name in NAMES)]

    for mine, reference in zip(run(ours), run(theirs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_with_resets_and_padding(cell):
    _, ours = _pair(cell, 2, 3)
    reset = torch.zeros(5, 3, dtype=torch.bool)
    padding = reset.clone()
    reset[2, 0] = reset[3, 0] = reset[4, 2] = reset[1, 1] = True
    padding[0, 1] = padding[3, 1] = padding[4, 1] = padding[2, 2] = padding[3, 2] = True
    marks = _marks(reset, padding)
    state = [torch.randn(3, 3).double().requires_grad_() for _ in range(2 if cell == "lstm" else 1)]

    def run(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state, weights = rest[:-4], rest[-4:]
        named = dict(zip(NAMES, weights, strict=True))
        results = torch.func.functional_call(ours, named, (x, state[0], state[1] if cell == "lstm" else None, marks))
        return tuple(result for result in results if result is not None)

    weights = [getattr(ours, name).detach().clone().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(run, (torch.randn(5, 3, 2).double().requires_grad_(), *state, *weights))


@pytest.mark.parametrize("cell", CELLS)
def test_the_wide_sums_of_bfloat16_are_no_worse_than_pytorchs(cell):
    _, exact = _pair(cell, 64, 520)  # large enough for the product in bfloat16
    exact = exact.to(torch.bfloat16).double()
    theirs, ours = (module.to(torch.bfloat16) for module in _pair(cell, 64, 520))
    x, weight = torch.randn(40, 4, 64).bfloat16(), torch.randn(40, 4, 520).bfloat16()
    zero = torch.zeros(4, 520)
    results = []
    for module in (exact, ours, theirs):
        dtype = torch.float64 if module is exact else torch.float32
        inputs = x.to(next(module.parameters()).dtype).clone().requires_grad_()
        out = module(inputs)[0] if module is theirs else module(inputs, zero.to(dtype), zero.to(dtype) if cell == "lstm" else None, None)[0]
        out.backward(weight.to(out.dtype))
        recurrent = getattr(module, "weight_hh_l0" if module is theirs else "weight_hh")
        results.append([out.detach().double(), inputs.grad.double(), recurrent.grad.double()])
    for reference, mine, other in zip(*results, strict=True):
        scale = reference.norm()
        assert (mine - reference).norm() / scale < 0.02
        assert (mine - reference).norm() < 1.2 * (other - reference).norm()


def test_a_bfloat16_cell_goes_on_adding():
    layer = RecurrentLayer("lstm", 1, 1).bfloat16()
    with torch.no_grad():  # the forget and input gates fully open, and every step adds tanh(0.1)
        layer.weight_ih.zero_()
        layer.weight_hh.zero_()
        layer.bias_ih.copy_(torch.tensor([100.0, 100.0, 0.1, 0.0]))
        _, _, c = layer(torch.zeros(1000, 1, 1).bfloat16(), torch.zeros(1, 1), torch.zeros(1, 1), None)
    assert c.item() == pytest.approx(99.7, rel=0.01)


@pytest.mark.parametrize("cell", CELLS)
def test_initial_gradient_flows_only_when_not_reset(cell):
    model = _model(cell)
    ids = torch.randint(0, 29, (2, 4))
    state = model.new_state(2, 0)
    state.h[0] = state.h[0].clone().requires_grad_()
    start = state.h[0]
    hidden, _ = model(ids, torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]]), state=state)
    hidden.sum().backward()
    assert (start.grad[0] == 0).all()
    assert (start.grad[1] != 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_acts_in_training_only(cell):
    model = _model(cell, dropout=0.5)
    ids = torch.randint(0, 29, (2, 5))
    assert torch.equal(model(ids)[0], model(ids)[0])
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_token_dropout_drops_whole_tokens_in_training_only(cell, both):
    """What is left of a text is a text whose dropped tokens have an embedding of zeros, the others scaled up."""
    model = _model(cell, token_dropout=0.5, bidirectional=both, lm_head=not both)
    ids = torch.randint(1, 29, (3, 7))
    assert torch.equal(model(ids)[0], model(ids)[0])
    model.train()
    seen: list[torch.Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(ids)
    ratio = seen[0] / model.embedding(ids.t()).detach()
    kept = ratio[..., 0] != 0
    assert 0 < kept.sum() < kept.numel() and torch.allclose(ratio, 2.0 * kept[..., None].expand_as(ratio).to(ratio), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [{}, {"hidden_size": 3}, {"tie_embeddings": False}])
def test_both_ways_with_an_output_layer_each_text_is_read_whole_and_alone(cell, sizes):
    """Texts side by side in a row give what each gives by itself, and each token's logits depend on what stands before and behind it."""
    model = _model(cell, bidirectional=True, **sizes)
    assert model.config.kind == "encoder" and not model.config.causal and model.config.width == 2 * model.config.hidden_size
    first, second = torch.randint(0, 29, (1, 5)), torch.randint(0, 29, (1, 4))
    row = torch.cat((first, second, torch.zeros(1, 2, dtype=torch.long)), 1)
    positions = torch.tensor([[*range(5), *range(4), -1, -1]])
    together = model.logits(model(row, positions)[0])
    for ids, part in ((first, together[:, :5]), (second, together[:, 5:9])):
        torch.testing.assert_close(part, model.logits(model(ids)[0]))
    assert together.shape == (1, 11, 29) and flops_per_token(model.config, 8) > flops_per_token(model.config.replace(lm_head=False), 8)
    embedded = model.embedding(first).detach().requires_grad_(True)
    model.embedding.register_forward_hook(lambda *_: embedded.transpose(0, 1))
    model.logits(model(first)[0])[0, 2].sum().backward()
    assert (embedded.grad[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_output_layer(cell, tied):
    model = _model(cell, tie_embeddings=tied)
    hidden, _ = model(torch.randint(0, 29, (2, 5)))
    weight, bias = model.output_layer()
    assert hidden.shape == (2, 5, 6 if tied else 7)
    assert weight.shape == (29, hidden.shape[-1])
    assert (weight is model.embedding.weight) == tied
    assert (model.projection is not None) == tied
    torch.testing.assert_close(model.logits(hidden), hidden @ weight.t() + bias)


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_can_be_written_down_and_its_rows_chosen(cell):
    model = _model(cell)
    first, later = torch.randint(0, 29, (3, 4)), torch.randint(0, 29, (3, 2))
    _, state = model(first)
    copy = RecurrentState.from_tensors(state.tensors())
    assert copy.used == state.used == 4
    expected, state = model(later, state=state)
    rows = torch.tensor([2, 0])
    chosen, _ = model(later[rows], state=copy.select(rows))
    torch.testing.assert_close(chosen, expected[rows])
    assert state.used == 6
    assert not state.detach().h[0].requires_grad


@pytest.mark.parametrize("cell", CELLS)
def test_a_seed_means_the_same_weights(cell):
    first, second = _model(cell), _model(cell)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in first.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_the_librarys_kernel_takes_the_same_weights(cell):
    _, layer = _pair(cell, 5, 7)
    x, h, c = torch.randn(4, 3, 5).double(), torch.randn(3, 7).double(), torch.randn(3, 7).double() if cell == "lstm" else None
    weights = tuple(getattr(layer, name) for name in NAMES)
    for fused, own in zip(layer._fused(x, h, c, weights), layer(x, h, c, None), strict=True):
        if own is not None:
            torch.testing.assert_close(fused, own, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch, steps", [(1, 1), (2, 9)])
@pytest.mark.parametrize("cell", CELLS)
def test_a_call_changes_neither_weights_nor_inputs(cell, batch, steps):
    model = _model(cell)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = model.new_state(batch, 0)
    held = [*state.h, *(state.c or [])]
    hidden, _ = model(torch.randint(0, 29, (batch, steps)), state=state)
    hidden.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all((tensor == 0).all() for tensor in held)


def test_flops_per_token():
    config = RecurrentConfig(cell="lstm", vocab_size=100, embedding_size=10, hidden_size=20, layers=2, tie_embeddings=True)
    assert flops_per_token(config, 35) == 6 * (4 * 20 * (10 + 20) + 4 * 20 * (20 + 20) + 20 * 10 + 100 * 10)
