"""A cache that stores keys at wrong positions, or lets a window slip, gives other logits than the full forward pass, a little more with
every step (x-transformers #219). Here cached and uncached logits are equal at every step, for every family, windowed attention included."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import DECODERS, ENCODER_DECODERS
from wordmill.generate import native
from wordmill.generate.decode import OneRow
from wordmill.generate.engine import Batch

SHAPES = [*DECODERS, "qwen3-windowed", "lstm", "gru"]


def _full(model, ids):
    return model.logits(model(torch.tensor([ids]))[0])[0, -1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [(4,), (3, 3), (1, 6, 11)], ids=["one", "equal", "uneven"])
def test_cached_logits_equal_the_full_forward_at_every_step(make_model, shape, lengths):
    model = make_model(shape)
    rows = [[0, *range(5, 4 + length)] for length in lengths]
    with torch.inference_mode():
        batch = Batch(model, rows, 20)
        for step in range(20):
            for row, logits in zip(rows, batch.logits, strict=True):
                assert torch.allclose(logits, _full(model, row), atol=1e-5, rtol=1e-5)
                row.append(30 + (step * 7 + len(row)) % 60)
            batch.step([row[-1] for row in rows])


@pytest.mark.parametrize("shape", ["qwen3", "qwen3-windowed", "gpt2"])
@pytest.mark.parametrize("compiled", [True, False], ids=["c", "torch"])
def test_the_lean_step_takes_over_where_rows_leave(make_model, shape, compiled):
    if compiled and isinstance(native.library(), str):
        pytest.skip(str(native.library()))
    model, rows = make_model(shape), [[0, 5, 6], [0, *range(5, 15)]]
    with torch.inference_mode():
        batch = Batch(model, rows, 20)
        batch.step([40, 41])
        row = [*rows[1], 41]
        batch.keep([1])
        batch.one = OneRow(model, batch.state, len(row), batch.slots, compiled=compiled)
        for step in range(15):
            assert torch.allclose(batch.logits[0], _full(model, row), atol=1e-5, rtol=1e-5)
            row.append(30 + step * 7 % 60)
            batch.step(row[-1:])


@pytest.mark.parametrize("shape", ENCODER_DECODERS)
def test_an_encoder_decoder_reads_its_source_once(make_model, shape):
    """The source's keys and values come from the cache after the first call; rows reordered, as beams are, keep their own source."""
    model = make_model(shape)
    source = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(1))
    places = torch.arange(9).repeat(3, 1)
    places[1, 5:] = -1
    ids = torch.randint(3, 97, (3, 12), generator=torch.Generator().manual_seed(2))
    order = torch.tensor([1, 1, 0])
    with torch.inference_mode():
        memory, state = model.encode(source, places), model.new_state(3, 20)
        _, state = model(ids[:, :6], None, None, state, memory=memory)
        cross = [k.clone() for k, _ in state.cross]
        state.select(order)
        for step in range(6, 12):
            hidden, state = model(ids[:, step : step + 1], None, None, state)
            rows = torch.cat((ids[order, :6], ids[:, 6 : step + 1]), 1)
            full, _ = model(rows, memory=model.encode(source[order], places[order]))
            assert torch.allclose(hidden[:, -1], full[:, -1], atol=1e-5, rtol=1e-5)
        assert all(torch.equal(state.crossed(layer)[0], old[order]) for layer, old in enumerate(cross))


@pytest.mark.parametrize("shape", ENCODER_DECODERS)
@pytest.mark.parametrize(
    "moves", [[[0, 0, 1, 1], [1, 0, 3, 3], [2, 3, 3]], [[0, 1, 1, 1], [1, 0, 2, 2], [3, 2]], [[1, 1, 0, 0], [0, 1, 2, 3]]]
)
def test_beams_share_what_was_read_of_their_source(make_model, shape, moves):
    """Rows branch, change places within their source, and leave; even or not, each sees its own source."""
    model = make_model(shape)
    source = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(1))
    places = torch.arange(9).repeat(2, 1)
    places[0, 6:] = -1
    ids = torch.randint(3, 97, (2, 3), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        memory, state = model.encode(source, places), model.new_state(2, 20)
        _, state = model(ids, None, None, state, memory=memory)
        owners = torch.arange(2)
        for step, move in enumerate(map(torch.tensor, moves)):
            state.select(move)
            owners = owners[move]
            new = torch.arange(len(move))[:, None] + 40 + step
            ids = torch.cat((ids[move], new), 1)
            hidden, state = model(new, None, None, state)
            full, _ = model(ids, memory=model.encode(source[owners], places[owners]))
            assert torch.allclose(hidden[:, -1], full[:, -1], atol=5e-5, rtol=1e-5)
            assert len(state.cross[0][0]) == len(owners.unique_consecutive())
