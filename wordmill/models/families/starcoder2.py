"""StarCoder 2 (arXiv 2402.19173), models of code: Llama with LayerNorm, biases, a plain feed-forward part (GELU by tanh) and one window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _llama, _rope
from wordmill.models.families._base import Family, Weight, same_window

KNOWN = "use_bias norm_epsilon norm_type mlp_type residual_dropout embedding_dropout sliding_window"
FIXED = {"norm_type": ("layer_norm",), "mlp_type": ("default",)}
PARTS = {"norm": "layernorm", "norm_eps": 1e-5, "activation": "gelu_tanh", "gated": False, "qk_norm": False, "tie_embeddings": True,
         "attention_bias": True, "output_bias": True, "ffn_bias": True}  # fmt: skip


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    given = {"hidden_act": "gelu_pytorch_tanh", **values, "rms_norm_eps": values.get("norm_epsilon", 1e-5)}
    shared = _llama.from_hf(given, "starcoder2", KNOWN, FIXED, context=4096, tied=True)
    biases = dict.fromkeys(("attention_bias", "output_bias", "ffn_bias"), values.get("use_bias", True))
    return {**PARTS, **shared, **_rope.from_hf(values, "starcoder2"), **biases, "windows": (values.get("sliding_window") or 0,)}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json. Raises `ModelError` for what StarCoder 2 has no word for."""
    if len({config.attention_bias, config.output_bias, config.ffn_bias}) > 1:
        raise ModelError("starcoder2 has all biases or none", where="attention_bias")
    if config.heads * config.head_size != config.width:
        raise ModelError("a head of starcoder2 has width ÷ heads entries", where="head_size")
    values = _llama.to_hf(config)
    for name in ("attention_bias", "head_dim", "rms_norm_eps"):
        del values[name]
    return {**values, "norm_epsilon": config.norm_eps, "use_bias": config.attention_bias, "sliding_window": same_window(config),
            "residual_dropout": config.dropout, "embedding_dropout": config.dropout}  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Llama's names, with the biases of norms and of the plain feed-forward part."""
    found = [replace(weight, theirs=tuple(name.replace("mlp.down_proj", "mlp.c_proj") for name in weight.theirs))
             for weight in _llama.weights(config, up=("c_fc",))]  # fmt: skip
    norms = [("norm", "model.norm")]
    for i in range(config.layers):
        norms += [(f"blocks.{i}.attention_norm", f"model.layers.{i}.input_layernorm"),
                  (f"blocks.{i}.ffn_norm", f"model.layers.{i}.post_attention_layernorm")]  # fmt: skip
    if config.norm_bias:
        found += [Weight(f"{ours}.bias", (f"{name}.bias",)) for ours, name in norms]
    if config.ffn_bias:
        found += [Weight(f"blocks.{i}.ffn.{ours}.bias", (f"model.layers.{i}.mlp.{name}.bias",))
                  for i in range(config.layers) for ours, name in (("up", "c_fc"), ("down", "c_proj"))]  # fmt: skip
    return found


FAMILY = Family("starcoder2", "Starcoder2ForCausalLM", from_hf, to_hf, weights, PARTS, grouped=True, bare="Starcoder2Model",
                heads=_llama.heads("Starcoder2"))  # fmt: skip
