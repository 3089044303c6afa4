"""Gemma 2 (arXiv 2408.00118): norms before and after each part, squashed scores and logits, windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Weight, layer_types, one_window, windows

PARTS = {"qk_norm": False, "tie_embeddings": True, "norm_position": "sandwich", "activation": "gelu_tanh",
         "attention_softcap": 50.0, "logit_softcap": 30.0}  # fmt: skip
KNOWN = "hidden_activation query_pre_attn_scalar sliding_window layer_types final_logit_softcapping attn_logit_softcapping"
NORMS = {"attention_norm": "input_layernorm", "attention_out_norm": "post_attention_layernorm",
         "ffn_norm": "pre_feedforward_layernorm", "ffn_out_norm": "post_feedforward_layernorm"}  # fmt: skip


def shared(values: Mapping[str, Any], family: str, every: int, context: int, further: str = "") -> dict[str, Any]:
    """What both versions of Gemma read; one layer in `every` has no window. `further`: settings that only one of them knows."""
    known, fixed = f"{KNOWN} {further}", {"use_bidirectional_attention": (False, None)}
    found = _llama.from_hf({"head_dim": 256, **values}, family, known, fixed, context=context, act="hidden_activation", tied=True)
    kinds = ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(found["layers"])]
    return {
        **found, "windows": windows(values, kinds, values.get("sliding_window", 4096), family),
        "embedding_scale": found["width"] ** 0.5, "attention_scale": values.get("query_pre_attn_scalar", 256) ** -0.5,
    }  # fmt: skip


def shared_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """What both versions write. Raises `ModelError` for an embedding factor that they can't say."""
    if config.embedding_scale is None or abs(config.embedding_scale**2 - config.width) > 1e-6 * config.width:
        raise ModelError(f"{config.family} multiplies embeddings by √width", where="embedding_scale", fix=f"Set it to {config.width**0.5}")
    scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
    scalar = round(scale**-2, 6)
    return {
        **_llama.to_hf(config), "hidden_activation": ACTIVATIONS_TO_HF[config.activation], "layer_types": layer_types(config),
        "sliding_window": one_window(config) or 4096, "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "final_logit_softcapping": config.logit_softcap or None, "attn_logit_softcapping": config.attention_softcap or None,
    }  # fmt: skip


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    caps = {"attention_softcap": values.get("attn_logit_softcapping", 50.0) or 0.0,
            "logit_softcap": values.get("final_logit_softcapping", 30.0) or 0.0}  # fmt: skip
    return {**PARTS, **shared(values, "gemma2", 2, 8192), **_rope.from_hf(values, "gemma2"), **caps}


def weights(config: TransformerConfig) -> list[Weight]:
    """Llama's names with four norms a block, stored less 1."""
    return _llama.weights(config, norms=NORMS, shift=1.0)


FAMILY = Family("gemma2", "Gemma2ForCausalLM", from_hf, shared_to_hf, weights, PARTS, bare="Gemma2Model", heads=_llama.heads("Gemma2"),
                by_width=lambda width: {"embedding_scale": width**0.5})  # fmt: skip
