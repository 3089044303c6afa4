"""GPT-2 (Radford et al. 2019): LayerNorm before each part, learned positions, GELU by tanh, biases everywhere, tied output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Head, Weight, activation, read, tokens_from_hf, tokens_to_hf

KNOWN = frozenset({"n_embd", "n_layer", "n_head", "n_positions", "n_ctx", "n_inner", "activation_function", "layer_norm_epsilon",
                   "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_type", "summary_use_proj", "summary_activation",
                   "summary_proj_to_labels", "summary_first_dropout"})  # fmt: skip
PARTS = {"norm": "layernorm", "norm_eps": 1e-5, "activation": "gelu_tanh", "gated": False, "qk_norm": False, "positions": "learned",
         "tie_embeddings": True, "attention_bias": True, "output_bias": True, "ffn_bias": True}  # fmt: skip


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    read(
        values,
        "gpt2",
        KNOWN,
        {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "reorder_and_upcast_attn": (False, True)},
    )
    width, heads = values["n_embd"], values["n_head"]
    if width % heads:
        raise ModelError(f"n_embd ({width}) must be a multiple of n_head ({heads})", where="config.json")
    return {
        **PARTS, "width": width, "layers": values["n_layer"], "heads": heads, "kv_heads": heads, "head_size": width // heads,
        "ffn_size": values.get("n_inner") or 4 * width, "activation": activation(values.get("activation_function", "gelu_new"), "gpt2"),
        "norm_eps": values.get("layer_norm_epsilon", 1e-5), "max_positions": values.get("n_positions", 1024),
        "tie_embeddings": values.get("tie_word_embeddings", True), "init_std": values.get("initializer_range", 0.02),
        **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    act = "gelu_new" if config.activation == "gelu_tanh" else ACTIVATIONS_TO_HF[config.activation]
    return {
        "n_embd": config.width, "n_layer": config.layers, "n_head": config.heads, "n_positions": config.max_positions,
        "n_inner": config.ffn_size, "activation_function": act, "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size, "initializer_range": config.init_std,
        "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": 0.0, **tokens_to_hf(config),
    }  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names; GPT-2 stores its matrices (in, out)."""
    found = [Weight("embedding.weight", ("transformer.wte.weight",)), Weight("position_embedding.weight", ("transformer.wpe.weight",))]
    parts = {
        "attention_norm": "ln_1",
        "ffn_norm": "ln_2",
        "attention.qkv": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
    }
    for i in range(config.layers):
        for ours, theirs in parts.items():
            name = f"transformer.h.{i}.{theirs}"
            found += [
                Weight(f"blocks.{i}.{ours}.weight", (f"{name}.weight",), transpose="norm" not in ours),
                Weight(f"blocks.{i}.{ours}.bias", (f"{name}.bias",)),
            ]
    return [*found, Weight("norm.weight", ("transformer.ln_f.weight",)), Weight("norm.bias", ("transformer.ln_f.bias",))]


FAMILY = Family("gpt2", "GPT2LMHeadModel", from_hf, to_hf, weights, PARTS, bare="GPT2Model", prefix="transformer.",
                skip=(".attn.bias", ".attn.masked_bias"),
                heads={"sequence": Head("GPT2ForSequenceClassification", "score", out_bias=False, reads="last"),
                       "token": Head("GPT2ForTokenClassification")})  # fmt: skip
