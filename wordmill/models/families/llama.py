"""Llama (arXiv 2302.13971) and its many relatives (SmolLM2, TinyLlama): RMSNorm, rotary positions, SwiGLU, grouped queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Biases in the feed-forward part are an error, not a guess."""
    fixed = {"mlp_bias": (False,), "rope_interleaved": (False,), "is_llama_config": (True,)}
    return {**_llama.PARTS, **_llama.from_hf(values, "llama", "", fixed), **_rope.from_hf(values, "llama")}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {**_llama.to_hf(config), "mlp_bias": False}


FAMILY = Family(
    "llama", "LlamaForCausalLM", from_hf, to_hf, _llama.weights, _llama.PARTS, grouped=True, bare="LlamaModel",
    skip=(".rotary_emb.inv_freq",), heads=_llama.heads("Llama"),
)  # fmt: skip
