"""Documents packed into one row can leak into each other through the recurrent state, which makes training learn noise at every start.
The state must be reset before the first token of each document, so that nothing that follows depends on what stood before, bit for bit."""

from __future__ import annotations

import pytest
import torch

from wordmill.models.config import RecurrentConfig
from wordmill.models.recurrent import RecurrentLM

# Three documents in the first row (5, 4 and 3 tokens), the middle of one and a whole one in the second.
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], [7, 8, 9, 10, 11, 12, 13, 14, 0, 1, 2, 3]])


def _model(cell: str, dtype: torch.dtype, size: int) -> RecurrentLM:
    model = RecurrentLM(RecurrentConfig(cell=cell, vocab_size=50, embedding_size=16, hidden_size=size, layers=2))
    model.initialise(1)
    return model.to(dtype).eval()


@pytest.mark.parametrize("size", [24, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_document_does_not_see_the_one_before_it(cell, dtype, size):
    model = _model(cell, dtype, size)
    ids = torch.randint(0, 50, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    changed = ids.clone()
    changed[0, :5] = (ids[0, :5] + 1) % 50
    changed[1, :8] = (ids[1, :8] + 1) % 50
    with torch.no_grad():
        before, after = model(ids, POSITIONS)[0], model(changed, POSITIONS)[0]
    assert not torch.equal(before[0, :5], after[0, :5])
    assert torch.equal(before[0, 5:], after[0, 5:])
    assert torch.equal(before[1, 8:], after[1, 8:])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_no_gradient_crosses_the_boundary(cell):
    model = _model(cell, torch.float64, 24)
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, given, out: (out.retain_grad(), seen.append(out))[0])
    hidden, _ = model(torch.randint(0, 50, POSITIONS.shape), POSITIONS)
    hidden[0, 9:].sum().backward()
    gradient = seen[0].grad.transpose(0, 1)
    assert (gradient[0, :9] == 0).all()
    assert (gradient[1] == 0).all()
    assert (gradient[0, 9:] != 0).any(-1).all()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_reset_is_a_fresh_start(cell):
    model = _model(cell, torch.float64, 24)
    ids = torch.randint(0, 50, POSITIONS.shape)
    state = model.new_state(2, 0)
    model(ids, state=state)  # whatever was before
    with torch.no_grad():
        again, _ = model(ids, torch.arange(12).expand(2, 12), state=state)
        fresh, _ = model(ids)
        packed, _ = model(ids, POSITIONS)
        alone, _ = model(ids[:1, 5:9])
    assert torch.equal(again, fresh)
    torch.testing.assert_close(packed[:1, 5:9], alone, rtol=0, atol=1e-14)
