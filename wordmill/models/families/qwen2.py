"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Llama with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family, layer_types, one_window, windows

PARTS = {**_llama.PARTS, "attention_bias": True}


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Windows follow `layer_types`, in older files `max_window_layers`."""
    known = "sliding_window max_window_layers layer_types use_sliding_window"
    shared = _llama.from_hf(values, "qwen2", known, {"attention_bias": (True,), "use_mrope": (False,)}, context=32_768)
    window = values.get("sliding_window", 4096) if values.get("use_sliding_window") else None
    full = values.get("max_window_layers", 28) if window else shared["layers"]
    kinds = ["full_attention" if layer < full else "sliding_attention" for layer in range(shared["layers"])]
    own = {"attention_bias": True, "output_bias": False, "windows": windows(values, kinds, window, "qwen2")}
    return {**PARTS, **shared, **_rope.from_hf(values, "qwen2"), **own}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    values, window = _llama.to_hf(config), one_window(config)
    del values["attention_bias"], values["head_dim"]
    return {**values, "use_sliding_window": window is not None, "sliding_window": window, "layer_types": layer_types(config),
            "max_window_layers": 0 if window else config.layers}  # fmt: skip


FAMILY = Family("qwen2", "Qwen2ForCausalLM", from_hf, to_hf, _llama.weights, PARTS, grouped=True, bare="Qwen2Model",
                heads=_llama.heads("Qwen2"))  # fmt: skip
