"""ModernBERT (arXiv 2412.13663): an encoder with rotary positions, norms before each part, GeGLU, and windows in two layers of three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _rope
from wordmill.models.families._base import (
    ACTIVATIONS_TO_HF,
    Family,
    Head,
    Weight,
    activation,
    layer_types,
    one_window,
    read,
    tokens_from_hf,
    tokens_to_hf,
    windows,
)  # fmt: skip

PARTS = {
    "causal": False, "norm": "layernorm", "norm_bias": False, "norm_eps": 1e-5, "embedding_norm": True, "first_norm": False,
    "qk_norm": False, "activation": "gelu", "gated": True, "rope_theta": 160_000.0, "rope_local_theta": 10_000.0, "windows": (0, 65, 65),
    "max_positions": 8192, "head_transform": True, "head_transform_bias": False, "head_bias": True,
}  # fmt: skip
KNOWN = frozenset(
    """
    hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_activation max_position_embeddings norm_eps norm_bias
    layer_types rope_parameters rope_scaling global_rope_theta local_rope_theta global_attn_every_n_layers local_attention attention_bias
    mlp_bias embedding_dropout mlp_dropout decoder_bias classifier_pooling classifier_bias classifier_activation deterministic_flash_attn
    initializer_cutoff_factor sparse_prediction sparse_pred_ignore_index reference_compile repad_logits_with_grad layer_norm_eps
    position_embedding_type
    """.split()
)


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. `local_attention` counts the tokens on both sides, our windows those on one, the token included."""
    read(values, "modernbert", KNOWN, {})
    width, heads, layers = values["hidden_size"], values["num_attention_heads"], values["num_hidden_layers"]
    if width % heads:
        raise ModelError(f"hidden_size ({width}) must be a multiple of num_attention_heads ({heads})", where="config.json")
    every, both = values.get("global_attn_every_n_layers", 3), values.get("rope_parameters") or {}
    kinds = ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]
    full, local = dict(both.get("full_attention") or {}), dict(both.get("sliding_attention") or {})
    rope = {
        "rope_theta": full.pop("rope_theta", values.get("global_rope_theta", 160_000.0)),
        "rope_local_theta": local.pop("rope_theta", values.get("local_rope_theta", 10_000.0)),
        "rope_scaling": _rope.scaling(full, values, "modernbert: full_attention"),
    }
    if _rope.scaling(local, values, "modernbert: sliding_attention") or values.get("rope_scaling"):
        raise ModelError("scaled rotary positions in layers with a window are not supported", where="config.json (modernbert)")
    return {
        **PARTS, **rope, "width": width, "layers": layers, "heads": heads, "kv_heads": heads, "head_size": width // heads,
        "ffn_size": values["intermediate_size"], "activation": activation(values.get("hidden_activation", "gelu"), "modernbert"),
        "norm_eps": values.get("norm_eps", 1e-5), "norm_bias": values.get("norm_bias", False),
        "windows": windows(values, kinds, values.get("local_attention", 128) // 2 + 1, "modernbert"),
        "max_positions": values.get("max_position_embeddings", 8192), "attention_bias": values.get("attention_bias", False),
        "output_bias": values.get("attention_bias", False), "ffn_bias": values.get("mlp_bias", False),
        "head_bias": values.get("decoder_bias", True), "head_transform_bias": values.get("classifier_bias", False),
        "head_activation": activation(values.get("classifier_activation", "gelu"), "modernbert"),
        "tie_embeddings": values.get("tie_word_embeddings", True), "init_std": values.get("initializer_range", 0.02),
        **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json, with the rotary bases at the places that both old and new versions of `transformers` read."""
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    both = {"full_attention": _rope.parameters(config), "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    windowed = [layer for layer in range(config.layers) if config.window(layer)]
    every = next((n for n in range(1, config.layers + 1) if windowed == [i for i in range(config.layers) if i % n]), None)
    return {
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_size, "hidden_activation": ACTIVATIONS_TO_HF[config.activation], "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias, "max_position_embeddings": config.max_positions, "rope_parameters": both,
        "global_rope_theta": both["full_attention"]["rope_theta"], "local_rope_theta": local, "layer_types": layer_types(config),
        "local_attention": 2 * ((one_window(config) or 65) - 1), **({} if every is None else {"global_attn_every_n_layers": every}),
        "attention_bias": config.attention_bias, "mlp_bias": config.ffn_bias, "decoder_bias": config.head_bias,
        "classifier_bias": config.head_transform_bias, "classifier_activation": ACTIVATIONS_TO_HF[config.head_activation],
        "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size, "initializer_range": config.init_std,
        "embedding_dropout": config.dropout, "mlp_dropout": config.dropout, "attention_dropout": 0.0,
        "cls_token_id": config.bos_id, "sep_token_id": config.eos_id, **tokens_to_hf(config),
    }  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names."""
    dense: dict[str, tuple[str, bool]] = {}
    found = [Weight("embedding.weight", ("model.embeddings.tok_embeddings.weight",))]
    norms = {"embedding_norm": "model.embeddings.norm", "norm": "model.final_norm"}
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        norms |= {f"{ours}ffn_norm": f"{theirs}mlp_norm"} | ({f"{ours}attention_norm": f"{theirs}attn_norm"} if i else {})
        dense |= {
            f"{ours}attention.qkv": (f"{theirs}attn.Wqkv", config.attention_bias),
            f"{ours}ffn.up": (f"{theirs}mlp.Wi", config.ffn_bias),
        }
        dense |= {
            f"{ours}attention.output": (f"{theirs}attn.Wo", config.output_bias),
            f"{ours}ffn.down": (f"{theirs}mlp.Wo", config.ffn_bias),
        }
    if config.lm_head:
        norms["head_norm"] = "head.norm"
        dense["head_dense"] = "head.dense", config.head_transform_bias
        found += [Weight("head_bias", ("decoder.bias",))] if config.head_bias else []
    dense |= {name: (theirs, config.norm_bias) for name, theirs in norms.items()}
    for name, (theirs, bias) in dense.items():
        found += [Weight(f"{name}.{kind}", (f"{theirs}.{kind}",)) for kind in ("weight", "bias")[: 1 + bias]]
    return found


HEADS = {
    kind: Head(f"ModernBertFor{name}", dense="head.dense", dense_bias=False, activation="gelu", norm="head.norm",
               settings={"classifier_pooling": "cls"}, takes={"dense": "head_dense", "norm": "head_norm"})
    for kind, name in (("sequence", "SequenceClassification"), ("token", "TokenClassification"), ("span", "QuestionAnswering"))
}  # fmt: skip
"""The layer before the output layer is the one that the masked words were told by."""


FAMILY = Family("modernbert", "ModernBertForMaskedLM", from_hf, to_hf, weights, PARTS, bare="ModernBertModel", head="decoder.weight",
                heads=HEADS)  # fmt: skip
