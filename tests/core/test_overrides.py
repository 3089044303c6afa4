"""Overrides that contradict one another, and numbers that YAML 1.1 reads in another way than people."""

import pytest

from wordmill.core.config import parse_overrides
from wordmill.core.errors import ConfigError


@pytest.mark.parametrize("pairs", [["train.optim=3", "train.optim.lr=1"], ["width.x=3", "width=4"]])
def test_a_value_and_settings_within_it(pairs):
    with pytest.raises(ConfigError, match="Leave one of them out"):
        parse_overrides(pairs)


def test_a_leading_zero_makes_no_octal_number():
    assert parse_overrides(["model.layers=010", "a=-07", "b=0", "c=0.5"]) == {"model": {"layers": 10}, "a": -7, "b": 0, "c": 0.5}
