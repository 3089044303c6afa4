"""Settings: frozen, typed, documented, and picky about names.

Every component has one `Config` subclass. A field's docstring (the string under it) gives its meaning and unit.
Unknown keys are errors that suggest the nearest name. Recipes (YAML) and command-line overrides (`model.layers=6`)
fill the same objects; a derived value makes a new object (`config.replace(layers=6)`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wordmill.core.errors import ConfigError, nearest


class Config(BaseModel):
    """The base of all settings objects."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False)
    called_elsewhere: ClassVar[Mapping[str, str]] = {}
    """What others call a setting, and its name here: for hints."""

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, *, where: str = "settings") -> Self:
        """Build from plain values.

        Raises `ConfigError` for an unknown key (naming the nearest known one) or a value of the wrong type.
        """
        values = dict(values or {})
        check_names(cls, values, where)
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(_said(error, cls), where=where) from error

    def replace(self, **changes: Any) -> Self:
        """A new object with some values changed, validated again."""
        return type(self).of({**{name: getattr(self, name) for name in type(self).model_fields}, **changes}, where=type(self).__name__)

    def plain(self) -> dict[str, Any]:
        """JSON-ready values, complete (defaults included)."""
        return self.model_dump(mode="json")


LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "min_length": "no shorter than"}
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "tuple": "a list", "list": "a list",
         "dict": "a mapping", "model": "a mapping", "finite": "a finite number"}  # fmt: skip


def _said(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first of pydantic's complaints in one line: the setting, what is allowed, what was given."""
    first = error.errors()[0]
    # What isn't a field or a place in a list is pydantic's name for one of several allowed types.
    parts = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    name = ".".join(part for n, part in enumerate(parts) if not n or part not in ("int", "float", "str", "bool", "none")) or cls.__name__
    limits = [f"{words} {first['ctx'][limit]}" for limit, words in LIMITS.items() if limit in first.get("ctx", {})]
    kind = KINDS.get(first["type"].partition("_")[0])
    if limits:
        message = f"must be {limits[0]}"
    elif first["type"] == "literal_error":
        message = f"must be {first['ctx']['expected']}"
    elif kind is not None:
        message = f"must be {kind}"
    else:
        message = str(first["msg"]).removeprefix("Value error, ")
    given = repr(first.get("input"))
    if isinstance(first.get("input"), Mapping) and not parts:
        # About several settings at once, or one that has a rule of its own: the message names them.
        named = [f"{key}={value!r}" for key, value in first["input"].items() if re.search(rf"\b{key}\b", message)]
        return f"{message} (got {', '.join(named)})" if named else message
    return f"{name}: {message} (got {given if len(given) <= 60 else given[:57] + '…'})"


def _nested(cls: type[Config], name: str) -> type[Config] | None:
    """The `Config` class of field `name`, when the field is itself a settings object."""
    annotation = cls.model_fields[name].annotation
    options = getattr(annotation, "__args__", ()) or (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Config)), None)


def check_names(cls: type[Config], values: Mapping[str, Any], where: str) -> None:
    """Raises `ConfigError` for a name that `cls` does not have, also inside nested settings; it suggests the nearest."""
    for name, value in values.items():
        if name not in cls.model_fields:
            meant = cls.called_elsewhere.get(name)
            fix = f"It is called {meant!r} here" if meant else nearest(name, cls.model_fields)
            raise ConfigError(f"unknown setting {name!r}", where=where, fix=fix)
        inner = _nested(cls, name)
        if inner is not None and isinstance(value, Mapping):
            check_names(inner, value, f"{where}: {name}")


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`["model.layers=6", "train.ema=true"]` as a nested dict; values are read as YAML scalars.

    Raises `ConfigError` for a pair without `=`.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, separator, raw = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"can't read the override {pair!r}", fix="Write name=value, for example model.layers=6")
        place = tree
        *parents, last = key.strip().split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key} is given, and {parent} as one value too", fix="Leave one of them out")
        if isinstance(place.get(last), dict):
            raise ConfigError(f"{key} is given as one value, and settings within it too", fix="Leave one of them out")
        place[last] = _scalar(raw)
    return tree


def _scalar(raw: str) -> Any:
    """A YAML value, except that 1e-3 (which YAML 1.1 takes for text) is a number, as people expect; that nothing is the empty text (what
    is to be left open is written null) and spaces are spaces; and that | and > are signs, and begin no text of several lines."""
    if not raw.strip() or raw.strip() in ("|", ">"):
        return raw
    if re.fullmatch(r"\s*[-+]?0[0-9]+\s*", raw):
        return int(raw)  # YAML 1.1 takes 010 for 8
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"can't read the value {raw!r}", fix="Values are written as in YAML; put quotes around text with special signs"
        ) from error
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict with the values of `over` laid over those of `base`; neither is changed."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a recipe or a run's config.yaml. Raises `ConfigError` when the file is missing, is not YAML, or is not a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such recipe", where=path) from None
    except OSError as error:
        raise ConfigError(f"can't read this file: {error.strerror}", where=path) from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise ConfigError("not valid YAML: this file is not text in UTF-8", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"not valid YAML: {getattr(error, 'problem', error)}", where=f"{path}:{mark.line + 1}" if mark else path
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("settings are a mapping (name: value), which this file is not", where=path)
    return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `name: old → new` for every value that differs between two nested dicts."""
    lines = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a!r} → {b!r}")
    return lines
