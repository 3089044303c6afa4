"""Phi-3 and Phi-4 mini (arXiv 2404.14219): Llama whose stacked matrices are stored stacked; part of each head may be left unturned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family, Weight, same_window

KNOWN = "sliding_window resid_pdrop embd_pdrop original_max_position_embeddings partial_rotary_factor"


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. LongRoPE, whose angles depend on a text's length, is an error, not a guess."""
    shared = _llama.from_hf(values, "phi3", KNOWN, {"attention_bias": (False,)}, eps=1e-5, context=4096)
    rope = _rope.from_hf(values, "phi3", kinds=("default",))
    return {**_llama.PARTS, **shared, **rope, "windows": (values.get("sliding_window") or 0,)}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json. Raises `ModelError` where some layers have a window and some have none."""
    values = _llama.to_hf(config)
    del values["attention_bias"], values["head_dim"]
    return {**values, "sliding_window": same_window(config), "resid_pdrop": config.dropout, "embd_pdrop": 0.0,
            "original_max_position_embeddings": config.max_positions, "partial_rotary_factor": config.rope_share}  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Llama's names, with the stacked matrices under one name each."""
    return _llama.weights(config, qkv=("qkv_proj",), up=("gate_up_proj",))


FAMILY = Family("phi3", "Phi3ForCausalLM", from_hf, to_hf, weights, _llama.PARTS, grouped=True, bare="Phi3Model",
                heads=_llama.heads("Phi3"))  # fmt: skip
