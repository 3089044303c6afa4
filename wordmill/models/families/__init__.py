"""All families, found by their `model_type`: every module here that has a `FAMILY`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from wordmill.core.errors import ModelError, nearest
from wordmill.models.families._base import Family, Weight

__all__ = ["Family", "Weight", "families", "family"]


@cache
def families() -> dict[str, Family]:
    """Name → family. Looked for once: the head of each example asks."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )
    return {module.FAMILY.name: module.FAMILY for module in modules}


def family(name: str) -> Family:
    """The family of a `model_type`. Raises `ModelError` with the nearest name for one that we don't have."""
    known = families()
    if name not in known:
        raise ModelError(f"model type {name!r} is not supported", fix=nearest(name, known))
    return known[name]
