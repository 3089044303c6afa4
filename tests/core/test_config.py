from __future__ import annotations

import pytest

from wordmill.core.config import Config, differences, merge, parse_overrides, read_yaml
from wordmill.core.errors import ConfigError


class Inner(Config):
    layers: int = 4
    """Number of layers."""
    rate: float = 0.1
    """Learning rate."""


class Outer(Config):
    model: Inner = Inner()
    """The model."""
    optional: Inner | None = None
    """Another."""
    name: str = "x"
    """A name."""


def test_nested_values_and_defaults():
    config = Outer.of({"model": {"layers": 6}})
    assert config.model.layers == 6
    assert config.model.rate == 0.1
    assert config.plain() == {"model": {"layers": 6, "rate": 0.1}, "optional": None, "name": "x"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "y"}, "Did you mean 'name'"),
        ({"model": {"layer": 6}}, "Did you mean 'layers'"),
        ({"optional": {"layer": 6}}, "Did you mean 'layers'"),
        ({"model": {"layers": "many"}}, "model.layers"),
    ],
)
def test_a_wrong_setting_says_which(values, message):
    with pytest.raises(ConfigError, match=message):
        Outer.of(values)


def test_settings_are_frozen_and_replace_makes_a_new_one():
    config = Inner()
    with pytest.raises(ValueError, match="frozen"):
        config.layers = 5  # type: ignore[misc]
    assert config.replace(layers=5).layers == 5
    assert config.layers == 4
    with pytest.raises(ConfigError):
        config.replace(layer=5)


def test_overrides():
    assert parse_overrides(["model.layers=6", "model.rate=1e-3", "name=a=b", "on=true"]) == {
        "model": {"layers": 6, "rate": 0.001},
        "name": "a=b",
        "on": True,
    }
    assert parse_overrides(["task.pair=", "task.text=null"]) == {"task": {"pair": "", "text": None}}
    assert [parse_overrides([f"a={sign}"])["a"] for sign in " \t|>;"] == [*" \t|>;"], "signs that separate stand for themselves"
    with pytest.raises(ConfigError, match="name=value"):
        parse_overrides(["model.layers"])


def test_merge_keeps_its_arguments():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"b": 5}, "e": 6}) == {"a": {"b": 5, "c": 2}, "d": 3, "e": 6}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_recipes(tmp_path):
    path = tmp_path / "r.yaml"
    with pytest.raises(ConfigError, match="no such recipe"):
        read_yaml(path)
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(ConfigError, match=r"r\.yaml:3"):
        read_yaml(path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="mapping"):
        read_yaml(path)
    path.write_text("a: 1\n")
    assert read_yaml(path) == {"a": 1}


def test_differences():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2, "d": 4}) == ["a.b: 1 → 3", "d: None → 4"]


def test_numbers_are_finite():
    class Settings(Config):
        rate: float = 1.0

    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="rate.*finite number"):
            Settings.of({"rate": value})
