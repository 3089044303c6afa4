"""Qwen3 (arXiv 2505.09388): RMSNorm, rotary positions, QK-norm, SwiGLU, grouped queries. The default decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Weight, activation, read, tokens_from_hf, tokens_to_hf

KNOWN = frozenset(
    {
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "hidden_act",
        "rms_norm_eps",
        "rope_theta",
        "rope_parameters",
        "max_position_embeddings",
        "attention_bias",
        "sliding_window",
        "max_window_layers",
        "layer_types",
        "use_sliding_window",
    }
)


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Windows follow `layer_types` where it is given."""
    read(values, "qwen3", KNOWN, {"rope_scaling": (None,)})
    rope = values.get("rope_parameters") or {}
    read(rope, "qwen3 (rope_parameters)", frozenset({"rope_theta"}), {"rope_type": ("default",)})
    layers = values["num_hidden_layers"]
    kinds = values.get("layer_types") or ["full_attention"] * layers
    window = values.get("sliding_window") if values.get("use_sliding_window") else None
    windows = tuple((window or 0) if kind == "sliding_attention" else 0 for kind in kinds)
    return {
        "width": values["hidden_size"], "layers": layers, "heads": values["num_attention_heads"],
        "kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"], "head_size": values.get("head_dim") or 128,
        "ffn_size": values["intermediate_size"], "activation": activation(values.get("hidden_act", "silu"), "qwen3"),
        "norm_eps": values.get("rms_norm_eps", 1e-6), "rope_theta": rope.get("rope_theta", values.get("rope_theta", 10_000.0)),
        "max_positions": values.get("max_position_embeddings", 32768), "attention_bias": values.get("attention_bias", False),
        "output_bias": values.get("attention_bias", False), "windows": windows if any(windows) else (0,),
        "tie_embeddings": values.get("tie_word_embeddings", False), "init_std": values.get("initializer_range", 0.02),
        **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json. `rope_theta` stands at both places that versions of `transformers` read."""
    windows = [config.windows[layer % len(config.windows)] for layer in range(config.layers)]
    return {
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_size, "intermediate_size": config.ffn_size,
        "hidden_act": ACTIVATIONS_TO_HF[config.activation], "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}, "max_position_embeddings": config.max_positions,
        "attention_bias": config.attention_bias, "attention_dropout": 0.0, "use_sliding_window": any(windows),
        "sliding_window": max(windows) or None, "max_window_layers": 0 if any(windows) else config.layers,
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size, "initializer_range": config.init_std,
        **tokens_to_hf(config),
    }  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names; ours keep query, key and value rows in one matrix, and gate and up in another."""
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    found = [Weight("embedding.weight", ("model.embed_tokens.weight",)), Weight("norm.weight", ("model.norm.weight",))]
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        attention = tuple(f"{theirs}self_attn.{x}_proj" for x in "qkv")
        found += [
            Weight(ours + "attention_norm.weight", (theirs + "input_layernorm.weight",)),
            Weight(ours + "ffn_norm.weight", (theirs + "post_attention_layernorm.weight",)),
            Weight(ours + "attention.qkv.weight", tuple(f"{x}.weight" for x in attention), (q, kv, kv)),
            Weight(ours + "attention.output.weight", (theirs + "self_attn.o_proj.weight",)),
            Weight(ours + "attention.q_norm.weight", (theirs + "self_attn.q_norm.weight",)),
            Weight(ours + "attention.k_norm.weight", (theirs + "self_attn.k_norm.weight",)),
            Weight(
                ours + "ffn.up.weight", (theirs + "mlp.gate_proj.weight", theirs + "mlp.up_proj.weight"), (config.ffn_size, config.ffn_size)
            ),
            Weight(ours + "ffn.down.weight", (theirs + "mlp.down_proj.weight",)),
        ]
        if config.attention_bias:
            found += [
                Weight(ours + "attention.qkv.bias", tuple(f"{x}.bias" for x in attention), (q, kv, kv)),
                Weight(ours + "attention.output.bias", (theirs + "self_attn.o_proj.bias",)),
            ]
    return found


FAMILY = Family("qwen3", "Qwen3ForCausalLM", from_hf, to_hf, weights)
