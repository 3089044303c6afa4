"""Mistral (arXiv 2310.06825): Llama with one attention window for all layers (none in later versions)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family, same_window


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    shared = _llama.from_hf(values, "mistral", "sliding_window", {"attention_bias": (False,)}, context=131_072)
    window = values.get("sliding_window", 4096)
    return {**_llama.PARTS, **shared, **_rope.from_hf(values, "mistral"), "windows": (window or 0,)}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json. Raises `ModelError` where some layers have a window and some have none."""
    values = _llama.to_hf(config)
    del values["attention_bias"]
    return {**values, "sliding_window": same_window(config)}


FAMILY = Family("mistral", "MistralForCausalLM", from_hf, to_hf, _llama.weights, _llama.PARTS, grouped=True, bare="MistralModel",
                heads=_llama.heads("Mistral"))  # fmt: skip
