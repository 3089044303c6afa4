"""Llama (arXiv 2302.13971) and its many relatives (SmolLM2, TinyLlama): Qwen3 without the norms on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import qwen3
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Weight, activation, read, tokens_from_hf, tokens_to_hf

KNOWN = frozenset(
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size hidden_act rms_norm_eps "
    "rope_theta rope_parameters max_position_embeddings attention_bias".split()
)


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Scaled rotary positions and biases in the feed-forward part are errors, not guesses."""
    read(values, "llama", KNOWN, {"rope_scaling": (None,), "mlp_bias": (False,), "rope_interleaved": (False,), "is_llama_config": (True,)})
    rope = values.get("rope_parameters") or {}
    read(rope, "llama (rope_parameters)", frozenset({"rope_theta"}), {"rope_type": ("default",)})
    heads = values["num_attention_heads"]
    return {
        "width": values["hidden_size"],
        "layers": values["num_hidden_layers"],
        "heads": heads,
        "kv_heads": values.get("num_key_value_heads") or heads,
        "head_size": values.get("head_dim") or values["hidden_size"] // heads,
        "ffn_size": values["intermediate_size"],
        "activation": activation(values.get("hidden_act", "silu"), "llama"),
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "qk_norm": False,
        "rope_theta": rope.get("rope_theta", values.get("rope_theta", 10_000.0)),
        "max_positions": values.get("max_position_embeddings", 2048),
        "attention_bias": values.get("attention_bias", False),
        "output_bias": values.get("attention_bias", False),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "init_std": values.get("initializer_range", 0.02),
        **tokens_from_hf(values),
    }


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ffn_size,
        "hidden_act": ACTIVATIONS_TO_HF[config.activation],
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_positions,
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
        "initializer_range": config.init_std,
        **tokens_to_hf(config),
    }


def weights(config: TransformerConfig) -> list[Weight]:
    """Qwen3's names without the norms on queries and keys."""
    return [weight for weight in qwen3.weights(config) if not weight.ours.endswith(("q_norm.weight", "k_norm.weight"))]


FAMILY = Family("llama", "LlamaForCausalLM", from_hf, to_hf, weights)
