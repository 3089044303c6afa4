"""Rows of whole examples: each once, none beyond the capacity, no dearer than rows as full as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wordmill.batches.examples import ACROSS, WIDTHS, balanced, cheapest


def cost(lengths: list[int], rows: list[list[int]]) -> float:
    """Slots, padding included, and the pairs that attention looks at."""
    width = -(-max(sum(lengths[i] for i in row) for row in rows) // WIDTHS) * WIDTHS
    return len(rows) * width * (1 + width / ACROSS)


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40), capacity=st.sampled_from([0, 64, 128, 512]))
def test_rows_hold_all_and_cost_no_more_than_full_ones(lengths, capacity):
    rows = cheapest(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    most = max(capacity, *lengths)
    assert max(sum(lengths[i] for i in row) for row in rows) <= most
    assert cost(lengths, rows) <= cost(lengths, balanced(lengths, most))


def test_narrower_rows_are_taken_where_full_ones_would_be_mostly_padding():
    """Five texts of 60 tokens in rows of 128: three rows of two, one of them half empty; one a row has none."""
    assert len(cheapest([60] * 5, 128)) == 5
    assert cheapest([7, 30, 7], 0) == balanced([7, 30, 7], 30)
