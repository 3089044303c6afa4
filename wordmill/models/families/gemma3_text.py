"""Gemma 3 (arXiv 2503.19786), the text models: Gemma 2 with norms on queries and keys instead of squashing, five layers in six with a
window, and rotary positions with another base in those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope, gemma2
from wordmill.models.families._base import Family

PARTS = {"qk_norm": True, "tie_embeddings": True, "norm_position": "sandwich", "activation": "gelu_tanh", "rope_theta": 1e6,
         "rope_local_theta": 1e4}  # fmt: skip


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Since transformers 5, `rope_parameters` holds one set for each kind of layer."""
    both = values.get("rope_parameters") or {}
    full, local = dict(both.get("full_attention") or {}), dict(both.get("sliding_attention") or {})
    scaling = values.get("rope_scaling") or {}
    rope = {
        "rope_theta": full.pop("rope_theta", values.get("rope_theta", 1e6)),
        "rope_local_theta": local.pop("rope_theta", values.get("rope_local_base_freq", 1e4)),
        "rope_scaling": _rope.scaling(
            full if full.get("rope_type", "default") != "default" else scaling, values, "gemma3_text: full_attention"
        ),
    }
    if _rope.scaling(local, values, "gemma3_text: sliding_attention"):
        raise ModelError("scaled rotary positions in layers with a window are not supported", where="config.json (gemma3_text)")
    if values.get("attn_logit_softcapping"):
        # `transformers` reads the setting and does nothing with it: which of the two is meant is anybody's guess.
        raise ModelError("setting 'attn_logit_softcapping' is not supported for gemma3_text, but null", where="config.json")
    caps = {"attention_softcap": 0.0, "logit_softcap": values.get("final_logit_softcapping") or 0.0}
    every = values.get("sliding_window_pattern", 6)
    further = "sliding_window_pattern _sliding_window_pattern rope_local_base_freq"
    return {**PARTS, **gemma2.shared(values, "gemma3_text", every, 131_072, further), **rope, **caps}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json, with the rotary bases at the places that both old and new versions of `transformers` read."""
    values = gemma2.shared_to_hf(config)
    values.pop("rope_scaling", None)
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    both = {"full_attention": _rope.parameters(config), "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    return {**values, "rope_parameters": both, "rope_local_base_freq": local}


FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", from_hf, to_hf, gemma2.weights, PARTS, bare="Gemma3TextModel",
                heads=_llama.heads("Gemma3Text", token=False),
                by_width=lambda width: {"embedding_scale": width**0.5})  # fmt: skip
