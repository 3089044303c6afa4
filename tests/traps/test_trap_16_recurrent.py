"""Padding that runs through the recurrence changes the state, so a prompt answers differently in a batch than alone.
Padded steps must leave the state as it was, wherever they stand, and pass no gradient to the padding."""

from __future__ import annotations

import pytest
import torch

from wordmill.models.config import RecurrentConfig
from wordmill.models.recurrent import RecurrentLM


def _model(cell: str) -> RecurrentLM:
    model = RecurrentLM(RecurrentConfig(cell=cell, vocab_size=50, embedding_size=8, hidden_size=12, layers=2))
    model.initialise(1)
    return model.double().eval()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_prompts_of_different_lengths_stand_in_one_batch(cell, side):
    model, lengths, width = _model(cell), (3, 7, 5), 9
    ids = torch.full((3, width), 1)
    positions = torch.full((3, width), -1)
    prompts = [torch.randint(0, 50, (n,)) for n in lengths]
    places = [slice(0, n) if side == "right" else slice(width - n, width) for n in lengths]
    for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        ids[row, place], positions[row, place] = prompt, torch.arange(len(prompt))
    following = torch.randint(0, 50, (3, 1))
    with torch.no_grad():
        hidden, state = model(ids, positions)
        other, _ = model(torch.where(positions < 0, 17, ids), positions)
        then, _ = model(following, torch.tensor(lengths)[:, None], state=state)
        for row, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
            alone, carried = model(prompt[None])
            torch.testing.assert_close(hidden[row, place], alone[0], rtol=0, atol=1e-13)
            torch.testing.assert_close(then[row], model(following[row : row + 1], state=carried)[0][0], rtol=0, atol=1e-13)
    assert torch.equal(hidden[positions >= 0], other[positions >= 0])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_padding_learns_nothing(cell):
    model = _model(cell)
    ids = torch.tensor([[5, 6, 7, 1, 1]])
    hidden, _ = model(ids, torch.tensor([[0, 1, 2, -1, -1]]))
    hidden.sum().backward()
    assert (model.embedding.weight.grad[1] == 0).all()
    assert (model.embedding.weight.grad[5:8] != 0).all()
