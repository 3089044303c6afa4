"""A state carried from call to call can drift from the full forward pass: a layer left out, a reset too many, a sum kept in fewer bits.
Token by token, in chunks, or at once, a recurrent model gives the same outputs at every step."""

from __future__ import annotations

import pytest
import torch

from wordmill.models.config import RecurrentConfig
from wordmill.models.recurrent import RecurrentLM


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_chunks_equal_one_call(cell, dtype, tolerance):
    model = RecurrentLM(RecurrentConfig(cell=cell, vocab_size=50, embedding_size=8, hidden_size=12, layers=3))
    model.initialise(1)
    model = model.to(dtype).eval()
    ids = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(24).expand(2, 24).clone()
    positions[1] = (positions[1] + 13) % 17  # starts inside a document and begins two more
    with torch.no_grad():
        for places in (None, positions):
            whole, end = model(ids, places)
            for size in (1, 5, 8):
                state, parts = None, []
                for start in range(0, 24, size):
                    span = slice(start, start + size)
                    hidden, state = model(ids[:, span], None if places is None else places[:, span], state=state)
                    parts.append(hidden)
                torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=tolerance)
                torch.testing.assert_close(torch.stack(state.h), torch.stack(end.h), rtol=0, atol=tolerance)
                assert places is not None or state.used == end.used == 24
