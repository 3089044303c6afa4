"""The arithmetic of the models against the same written out."""

from __future__ import annotations

import pytest
import torch

from wordmill.models.ops import attend


@pytest.mark.parametrize("hidden", [None, "one mask", "a mask a row", "a bias a head"])
@pytest.mark.parametrize("length", [1, 3])
def test_attention_with_fewer_key_heads_equals_that_with_each_repeated(length, hidden):
    """Also for a single query, where nothing is repeated; against the sums written out in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, h, 4, generator=generator).double() for n, h in ((length, 6), (5, 2), (5, 2)))
    bias = None
    if hidden is not None:
        shape = {"one mask": (1, 1), "a mask a row": (2, 1), "a bias a head": (1, 6)}[hidden]
        bias = torch.randn(*shape, length, 5, generator=generator).double()
        bias[..., -1] = -torch.inf
    k_all, v_all = (x.repeat_interleave(3, 2) for x in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, k_all) * 0.5 + (0.0 if bias is None else bias)
    expected = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v_all)
    torch.testing.assert_close(attend(q, k, v, bias, causal=False, scale=0.5), expected)
