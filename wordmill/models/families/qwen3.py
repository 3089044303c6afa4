"""Qwen3 (arXiv 2505.09388): Llama with norms on each head's queries and keys. The default decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family, layer_types, one_window, windows

PARTS = {"qk_norm": True}


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Windows follow `layer_types`, in older files `max_window_layers`."""
    known = "sliding_window max_window_layers layer_types use_sliding_window"
    shared = _llama.from_hf({"head_dim": 128, **values}, "qwen3", known, context=32_768)
    window = values.get("sliding_window", 4096) if values.get("use_sliding_window") else None
    full = values.get("max_window_layers", 28) if window else shared["layers"]
    kinds = ["full_attention" if layer < full else "sliding_attention" for layer in range(shared["layers"])]
    return {**PARTS, **shared, **_rope.from_hf(values, "qwen3"), "windows": windows(values, kinds, window, "qwen3")}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    window = one_window(config)
    return {**_llama.to_hf(config), "use_sliding_window": window is not None, "sliding_window": window, "layer_types": layer_types(config),
            "max_window_layers": 0 if window else config.layers}  # fmt: skip


FAMILY = Family("qwen3", "Qwen3ForCausalLM", from_hf, to_hf, _llama.weights, PARTS, grouped=True, bare="Qwen3Model",
                heads=_llama.heads("Qwen3"))  # fmt: skip
