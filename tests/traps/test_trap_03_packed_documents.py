"""Documents packed into one row can see each other through attention, which trains on noise and makes a model's answer depend on its
neighbours. Changing one document must not change another's logits by one bit, positions must restart, and a pack of one document must cost
no mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import DECODERS, ENCODER_DECODERS, ENCODERS
from wordmill.batches.pack import PackedRows
from wordmill.models import kernels

POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]])
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * 8 + [1] * 4], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [*DECODERS, *ENCODERS, "qwen3-windowed"])
def test_a_document_does_not_see_its_neighbours(make_model, shape, dtype):
    model = make_model(shape).to(dtype)
    ids = torch.randint(0, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    changed = ids.clone()
    changed[0, 5:9] = (ids[0, 5:9] + 1) % 97  # the one in the middle: neither those before nor those after may notice
    changed[1, :8] = (ids[1, :8] + 1) % 97
    with torch.no_grad():
        before, after = (model.logits(model(x, POSITIONS, DOCUMENTS)[0]) for x in (ids, changed))
    assert not torch.equal(before[0, 5:9], after[0, 5:9])
    assert torch.equal(before[0, :5], after[0, :5])
    assert torch.equal(before[0, 9:], after[0, 9:])
    assert torch.equal(before[1, 8:], after[1, 8:])


@pytest.mark.parametrize("shape", [*DECODERS, *ENCODERS, "qwen3-windowed"])
def test_packed_is_as_if_alone(make_model, shape):
    model = make_model(shape).double()
    ids = torch.randint(0, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        packed, _ = model(ids, POSITIONS, DOCUMENTS)
        alone, _ = model(ids[:1, 5:9])
    torch.testing.assert_close(packed[:1, 5:9], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", ENCODER_DECODERS)
def test_a_target_sees_the_source_of_its_own_document(make_model, shape):
    model = make_model(shape)
    source = torch.randint(0, 97, (1, 10), generator=torch.Generator().manual_seed(3))
    places, documents = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2, -1]]), torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 9]])
    ids = torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(4))
    changed = source.clone()
    changed[0, 4:6] = (source[0, 4:6] + 1) % 97  # the source of the one in the middle
    with torch.no_grad():
        before, after = (
            model.logits(model(ids, POSITIONS[:1], DOCUMENTS[:1], memory=model.encode(x, places, documents))[0]) for x in (source, changed)
        )
        alone, _ = model(ids[:, 5:9], memory=model.encode(source[:, 4:6]))
    assert torch.equal(before[0, :5], after[0, :5]) and torch.equal(before[0, 9:], after[0, 9:])
    assert (before[0, 5:9] != after[0, 5:9]).any(-1).all()
    torch.testing.assert_close(before[:, 5:9], model.logits(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", ENCODER_DECODERS)
def test_a_target_without_a_source_sees_none(make_model, shape):
    model = make_model(shape)
    ids, source = torch.arange(3, 9)[None], torch.arange(20, 26)[None]
    positions, documents = torch.tensor([[0, 1, 2, 0, 1, 2]]), torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        states = [
            model(ids, positions, documents, memory=model.encode(x, torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.int64)))[0]
            for x in (source, source + 7)
        ]
    assert bool(states[0].isfinite().all()) and torch.equal(states[0][:, 3:], states[1][:, 3:])
    assert (states[0][:, :3] != states[1][:, :3]).any()


def test_no_gradient_crosses_the_boundary(make_model):
    model = make_model("qwen3").double()
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, given, out: (out.retain_grad(), seen.append(out))[0])
    hidden, _ = model(torch.randint(0, 97, POSITIONS.shape), POSITIONS, DOCUMENTS)
    hidden[0, 5:9].sum().backward()
    gradient = seen[0].grad
    assert (gradient[0, :5] == 0).all() and (gradient[0, 9:] == 0).all() and (gradient[1] == 0).all()
    assert (gradient[0, 5:9] != 0).any(-1).all()


def test_the_packer_marks_documents_and_restarts_positions(make_store):
    store = make_store([5, 1, 9, 30, 4])
    for step in range(4):
        batch = PackedRows(store, 16, 2, seed=3).batch(step)
        documents = np.zeros_like(batch.positions) if batch.documents is None else batch.documents.numpy()
        for row in range(2):
            ids, positions = batch.input_ids[row].numpy(), batch.positions[row].numpy()
            starts = np.flatnonzero(np.diff(documents[row], prepend=documents[row][0] - 1))
            for start, stop in zip(starts, [*starts[1:], 16], strict=True):
                if positions[start] == -1:
                    assert (positions[start:stop] == -1).all()
                    continue
                assert (positions[start:stop] == np.arange(stop - start)).all()
                assert (ids[start + 1 : stop] != 0).all(), "a document mark inside a document"


def test_one_document_a_row_costs_no_mask(make_model, make_store, monkeypatch):
    batch = PackedRows(make_store([64]), 16, 2, seed=0).batch(0)
    assert batch.documents is None
    model = make_model("qwen3")
    if kernels.usable(model.embedding.weight):
        assert model._view(batch.positions, batch.documents, None, torch.float32).stretches == {0: (None, None)}
    assert model.double()._view(batch.positions, batch.documents, None, torch.float64).biases == {0: None}
    mixed = PackedRows(make_store([3, 61]), 16, 4, seed=0).batch(0)
    assert mixed.documents is not None
    plain = [mixed.rows(i, i + 1).documents is None for i in range(4)]
    assert sum(plain) == 3, "micro-batches without a boundary need no mask"
