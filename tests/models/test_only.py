"""Where few states are wanted, the last block makes these alone: the same states and gradients as from all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import SHAPES
from wordmill.batches.batch import IGNORE, Batch
from wordmill.models.folder import compile_blocks, recompute_blocks
from wordmill.models.heads import HeadConfig, with_head
from wordmill.models.transformer import Transformer
from wordmill.train.objectives import OBJECTIVES

ONLY = torch.tensor([0, 7, 13, 14, 31, 40])
"""Of 3 rows of 14 places, in each of which stand two documents and some padding."""


def rows(vocab: int = 97) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, vocab, (3, 14), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[*range(5), *range(7), -1, -1]] * 3)
    documents = torch.tensor([[0] * 5 + [1] * 7 + [-1] * 2] * 3, dtype=torch.int32)
    return ids, positions, documents


def states(model: Any, only: torch.Tensor | None) -> torch.Tensor:
    ids, positions, documents = rows()
    named: dict[str, Any] = {} if only is None else {"only": only}
    if getattr(model, "encoder", None) is not None:
        named["memory"] = model.encode(ids, positions, documents)
    return model(ids, positions, documents, **named)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, "parallel", "bilstm"])
def test_the_states_and_gradients_of_the_wanted_places(make_model, shape, dtype) -> None:
    own = {"parallel": ("llama", {"parallel": True}), "bilstm": ("lstm", {"bidirectional": True})}
    family, settings = own.get(shape, (shape, {}))
    model = make_model(family, **settings).to(dtype).requires_grad_(True)
    found = []
    for some in (False, True):
        model.zero_grad()
        hidden = states(model, ONLY) if some else states(model, None).flatten(0, 1)[ONLY]
        assert len(hidden) == 6 and hidden.ndim == 2
        hidden.mul(torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        found.append((hidden.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (whole, slopes), (few, few_slopes) = found
    near = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-4}
    torch.testing.assert_close(few, whole, **near)
    assert slopes.keys() == few_slopes.keys() and slopes
    for name, slope in slopes.items():
        torch.testing.assert_close(few_slopes[name], slope, **near, msg=lambda text, name=name: f"{name}: {text}")


def fed(model: Transformer) -> list[int]:
    """The rows that go into each block's feed-forward part, counted call by call."""
    found: list[int] = []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].numel() // inputs[0].shape[-1]))
    return found


def batch(targets: list[int]) -> Batch:
    ids, positions, documents = rows()
    wanted = torch.full_like(ids, IGNORE)
    wanted.view(-1)[targets] = 0
    return Batch(ids, wanted, positions, documents)


def test_a_classifier_reads_the_places_that_answer_alone(make_model) -> None:
    model = with_head(make_model("bert"), HeadConfig(kind="sequence", labels=("a", "b")), seed=0)
    counted = fed(model.base)
    assert model(batch([0, 5, 14])).shape == (3, 2) and counted == [42, 3]
    whole = with_head(make_model("bert"), HeadConfig(kind="sequence", labels=("a", "b"), pooling="mean"), seed=0)
    counted = fed(whole.base)
    assert whole(batch([0, 5, 14])).shape == (3, 2) and counted == [42, 42]  # the mean is of all of them


def test_masked_learning_makes_the_hidden_places_alone(make_model) -> None:
    model = make_model("modernbert")
    counted = fed(model)
    found = OBJECTIVES["mlm"](model, batch([3, 20]))
    assert counted == [42, 2] and found.n_targets == 2
    whole = model.logits(states(model, None).flatten(0, 1)[[3, 20]]).log_softmax(-1)[:, 0]
    torch.testing.assert_close(found.loss_sum, -whole.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # compiling imports what the library itself calls deprecated
def test_blocks_computed_again_and_compiled_ones(make_model) -> None:
    """The first compute few states twice, the second all of them, since they are made for one shape."""
    model = make_model("bert").requires_grad_(True).train()
    recompute_blocks(model)
    counted = fed(model)
    states(model, ONLY).sum().backward()
    assert counted == [42, 6, 6, 42]
    model = make_model("bert")
    compile_blocks(model)
    assert model.uniform
    model = make_model("bert")
    model.uniform, counted = True, fed(model)
    assert states(model, ONLY).shape == (6, 48) and counted == [42, 42]
