"""Rotary positions in config.json: `rope_parameters` (since transformers 5) or `rope_theta` and `rope_scaling` (before), and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import RotaryScaling, TransformerConfig
from wordmill.models.positions import ntk_theta

KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings", "truncate"),
}
"""The settings that each kind of scaling knows."""


def from_hf(values: Mapping[str, Any], family: str, *, theta: float = 10_000.0, kinds: tuple[str, ...] = tuple(KEYS)) -> dict[str, Any]:
    """Base, scaling and share of the rotary positions. Raises `ModelError` for a scaling that we can't honour, naming it."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    given = dict(values.get(name) or {})
    share = given.pop("partial_rotary_factor", values.get("partial_rotary_factor")) or 1.0
    base = given.pop("rope_theta", None) or values.get("rope_theta") or theta
    return {"rope_theta": base, "rope_share": share, "rope_scaling": scaling(given, values, f"{family}: {name}", kinds)}


def scaling(given: Mapping[str, Any], values: Mapping[str, Any], where: str, kinds: tuple[str, ...] = tuple(KEYS)) -> RotaryScaling | None:
    """The scaling that one set of rope parameters asks for; None for none."""
    kind = given.get("rope_type", given.get("type", "default"))
    where = f"config.json ({where})"
    if kind not in kinds:
        raise ModelError(f"rope_type {kind!r} is not supported (supported: {', '.join(kinds)})", where=where)
    for name in given:
        if name not in (*KEYS[kind], "rope_type", "type"):
            raise ModelError(f"unknown setting {name!r} for rope_type {kind!r}", where=where)
    if kind == "default":
        return None
    longest = values.get("max_position_embeddings")
    first = values.get("original_max_position_embeddings") or given.get("original_max_position_embeddings") or longest or 0
    factor = given.get("factor")
    if factor is None:
        raise ModelError(f"rope_type {kind!r} needs a factor", where=where)
    if kind == "linear":
        return RotaryScaling(kind="linear", factor=factor)
    if kind == "llama3":
        slow, fast = given.get("low_freq_factor", 1.0), given.get("high_freq_factor", 4.0)
        return RotaryScaling(kind="llama3", factor=factor, first_context=first, slow=slow, fast=fast)
    return RotaryScaling(
        kind="yarn", factor=factor, first_context=first, fast=given.get("beta_fast") or 32.0, slow=given.get("beta_slow") or 1.0,
        attention=given.get("attention_factor"), round_borders=given.get("truncate", True),
    )  # fmt: skip


def parameters(config: TransformerConfig) -> dict[str, Any]:
    """One set of rope parameters. The ntk scaling is nothing but another base, and is written as that."""
    s, base = config.rope_scaling, config.rope_theta
    if s is None or s.kind == "ntk":
        found: dict[str, Any] = {"rope_type": "default", "rope_theta": base if s is None else ntk_theta(config, s)}
    elif s.kind == "linear":
        found = {"rope_type": "linear", "rope_theta": base, "factor": s.factor}
    elif s.kind == "llama3":
        found = {"rope_type": "llama3", "rope_theta": base, "factor": s.factor, "low_freq_factor": s.slow, "high_freq_factor": s.fast,
                 "original_max_position_embeddings": s.first_context}  # fmt: skip
    else:
        found = {"rope_type": "yarn", "rope_theta": base, "factor": s.factor, "beta_fast": s.fast, "beta_slow": s.slow,
                 "original_max_position_embeddings": s.first_context, "truncate": s.round_borders}  # fmt: skip
        if s.attention is not None:
            found["attention_factor"] = s.attention
    return found if config.rope_share == 1 else {**found, "partial_rotary_factor": config.rope_share}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """The way back, at the places that versions of `transformers` before and since 5 read."""
    found = parameters(config)
    old = {"rope_theta": found["rope_theta"]}
    if found["rope_type"] != "default":
        old["rope_scaling"] = {name: value for name, value in found.items() if name not in ("rope_theta", "partial_rotary_factor")}
    return {"rope_parameters": found, **old}
