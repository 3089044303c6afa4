"""The learning rate over a run, as a function of the share that is done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmill.core.errors import ConfigError
from wordmill.train.schedule import ScheduleConfig, factor

KINDS = ("constant", "linear", "cosine", "wsd", "step")


@given(
    kind=st.sampled_from(KINDS), warmup=st.floats(0, 0.4), floor=st.floats(0, 0.5), points=st.lists(st.floats(0, 1), min_size=2, max_size=9)
)
def test_up_to_one_then_never_up_again_and_never_below_the_floor(kind, warmup, floor, points):
    config = ScheduleConfig(kind=kind, warmup=warmup, floor=floor)
    assert factor(config, warmup) == pytest.approx(1.0)
    after = [factor(config, p) for p in sorted(points) if p >= warmup]
    assert all(a >= b - 1e-12 for a, b in zip(after, after[1:]))
    assert all(floor - 1e-12 <= f <= 1 + 1e-12 for f in after)
    before = [factor(config, p) for p in sorted(points) if p < warmup]
    assert all(a <= b for a, b in zip(before, before[1:]))


def test_known_values():
    assert factor(ScheduleConfig(kind="cosine", warmup=0), 0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(ScheduleConfig(kind="linear", warmup=0.2, floor=0.5), 0.6) == pytest.approx(0.75)
    assert factor(ScheduleConfig(kind="wsd", warmup=0.1, decay=0.4), 0.5) == 1.0
    assert factor(ScheduleConfig(kind="wsd", warmup=0.1, decay=0.4), 0.8) == pytest.approx(0.5)
    assert [factor(ScheduleConfig(kind="step", warmup=0), p) for p in (0.4, 0.5, 0.75)] == pytest.approx([1, 0.1, 0.01])
    assert factor(ScheduleConfig(warmup=0.1), 0.05) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [{"warmup": 1.0}, {"warmup": -0.1}, {"decay": 1.5}, {"warmup": 0.6, "decay": 0.5}, {"kind": "zigzag"}])
def test_what_contradicts_itself_is_refused(values):
    with pytest.raises(ConfigError):
        ScheduleConfig.of(values)
