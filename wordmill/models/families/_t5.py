"""What T5 and mT5 share: RMSNorm before each part, relative positions, no factor on attention scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import UNLIMITED, TransformerConfig
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Weight, activation, read, tokens_from_hf, tokens_to_hf

PARTS = {
    "encoder_layers": 6, "qk_norm": False, "positions": "relative", "attention_scale": 1.0, "max_positions": UNLIMITED,
    "activation": "gelu_tanh", "gated": True, "tie_embeddings": False, "decoder_start_id": 0,
}  # fmt: skip
"""The shape since version 1.1."""

KNOWN = frozenset(
    """
    d_model d_kv d_ff num_layers num_decoder_layers num_heads relative_attention_num_buckets relative_attention_max_distance dropout_rate
    layer_norm_epsilon initializer_factor feed_forward_proj dense_act_fn is_gated_act n_positions scale_decoder_outputs
    """.split()
)


def from_hf(values: Mapping[str, Any], family: str, feed_forward: str) -> dict[str, Any]:
    """config.json → our settings; `feed_forward`: the family's default of `feed_forward_proj`. Relative positions have no end,
    so `n_positions` (the length trained with) is no limit."""
    read(values, family, KNOWN, {})
    kind = values.get("feed_forward_proj", feed_forward)
    gated, act = kind.startswith("gated-"), kind.removeprefix("gated-")
    return {
        **PARTS, "width": values["d_model"], "layers": values.get("num_decoder_layers") or values["num_layers"],
        "encoder_layers": values["num_layers"], "heads": values["num_heads"], "kv_heads": values["num_heads"], "head_size": values["d_kv"],
        "ffn_size": values["d_ff"], "gated": gated, "activation": activation("gelu_new" if kind == "gated-gelu" else act, family),
        "norm_eps": values.get("layer_norm_epsilon", 1e-6), "relative_buckets": values.get("relative_attention_num_buckets", 32),
        "relative_distance": values.get("relative_attention_max_distance", 128), "tie_embeddings": values.get("tie_word_embeddings", True),
        **tokens_from_hf({"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, **values}),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    if config.gated:
        kind = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{ACTIVATIONS_TO_HF[config.activation]}"
        if config.activation == "gelu":
            raise ModelError("a gated T5 reads gelu as gelu_tanh", where="activation", fix="Set it to gelu_tanh")
    else:
        kind = "gelu_new" if config.activation == "gelu_tanh" else ACTIVATIONS_TO_HF[config.activation]
    return {
        "d_model": config.width, "d_kv": config.head_size, "d_ff": config.ffn_size, "num_layers": config.encoder_layers,
        "num_decoder_layers": config.layers, "num_heads": config.heads, "feed_forward_proj": kind, "layer_norm_epsilon": config.norm_eps,
        "relative_attention_num_buckets": config.relative_buckets, "relative_attention_max_distance": config.relative_distance,
        "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size, "dropout_rate": config.dropout,
        "is_encoder_decoder": True, **tokens_to_hf(config),
    }  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names. The table of relative positions, shared by all layers, stands in the first one."""
    inner, table = config.heads * config.head_size, "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    up = ("wi_0", "wi_1") if config.gated else ("wi",)
    halves = (config.ffn_size,) * 2 if config.gated else ()
    found = [Weight("embedding.weight", ("shared.weight",))]
    for ours, theirs, layers in (("encoder.", "encoder.", config.encoder_layers), ("", "decoder.", config.layers)):
        found += [
            Weight(f"{ours}relative_bias.weight", (theirs + table,)),
            Weight(f"{ours}norm.weight", (f"{theirs}final_layer_norm.weight",)),
        ]
        for i in range(layers):
            block, layer = f"{ours}blocks.{i}.", f"{theirs}block.{i}.layer."
            attention, ffn = f"{layer}0.SelfAttention.", f"{layer}{1 if ours else 2}."
            found += [
                Weight(f"{block}attention.qkv.weight", tuple(f"{attention}{x}.weight" for x in "qkv"), (inner,) * 3),
                Weight(f"{block}attention.output.weight", (f"{attention}o.weight",)),
                Weight(f"{block}attention_norm.weight", (f"{layer}0.layer_norm.weight",)),
                Weight(f"{block}ffn.up.weight", tuple(f"{ffn}DenseReluDense.{x}.weight" for x in up), halves),
                Weight(f"{block}ffn.down.weight", (f"{ffn}DenseReluDense.wo.weight",)),
                Weight(f"{block}ffn_norm.weight", (f"{ffn}layer_norm.weight",)),
            ]
            if not ours:
                cross = f"{layer}1.EncDecAttention."
                found += [
                    Weight(f"{block}cross_attention.q.weight", (f"{cross}q.weight",)),
                    Weight(f"{block}cross_attention.kv.weight", (f"{cross}k.weight", f"{cross}v.weight"), (inner,) * 2),
                    Weight(f"{block}cross_attention.output.weight", (f"{cross}o.weight",)),
                    Weight(f"{block}cross_norm.weight", (f"{layer}1.layer_norm.weight",)),
                ]
    return found


COPIES = (("encoder.embed_tokens.weight", "shared.weight"), ("decoder.embed_tokens.weight", "shared.weight"))
SKIP = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
