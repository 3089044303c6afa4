"""What BART and mBART share: LayerNorm, learned positions that start at row 2, biases everywhere, one embedding for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Weight, activation, read, tokens_from_hf, tokens_to_hf

PARTS = {
    "encoder_layers": 6, "norm": "layernorm", "norm_eps": 1e-5, "norm_position": "post", "embedding_norm": True, "qk_norm": False,
    "positions": "learned", "position_offset": 2, "activation": "gelu", "gated": False, "attention_bias": True, "output_bias": True,
    "ffn_bias": True, "tie_embeddings": True, "head_bias": True, "max_positions": 1024, "decoder_start_id": 2,
}  # fmt: skip

KNOWN = frozenset(
    """
    d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim decoder_ffn_dim
    activation_function max_position_embeddings scale_embedding init_std dropout activation_dropout classif_dropout encoder_layerdrop
    decoder_layerdrop num_hidden_layers replacing_rate
    """.split()
)


def from_hf(values: Mapping[str, Any], family: str, *, pre: bool) -> dict[str, Any]:
    """config.json → our settings; `pre`: whether norms stand before their parts."""
    fixed = {
        "normalize_before": (pre,),
        "add_final_layer_norm": (pre,),
        "normalize_embedding": (True,),
        "extra_pos_embeddings": (2,),
        "static_position_embeddings": (False,),
        "add_bias_logits": (False,),
        "do_blenderbot_90_layernorm": (False,),
        "tie_word_embeddings": (True,),
    }  # fmt: skip  (untied, source and target have embeddings of their own: not supported)
    read(values, family, KNOWN, fixed)
    width, heads, encoder_heads = values["d_model"], values["decoder_attention_heads"], values["encoder_attention_heads"]
    if width % heads or width % encoder_heads:
        raise ModelError(f"d_model ({width}) must be a multiple of the numbers of heads ({encoder_heads}, {heads})", where="config.json")
    ffn, encoder_ffn = values["decoder_ffn_dim"], values["encoder_ffn_dim"]
    return {
        **PARTS, "norm_position": "pre" if pre else "post", "width": width, "layers": values["decoder_layers"],
        "encoder_layers": values["encoder_layers"], "heads": heads, "kv_heads": heads, "head_size": width // heads, "ffn_size": ffn,
        "encoder_heads": None if encoder_heads == heads else encoder_heads, "encoder_ffn_size": None if encoder_ffn == ffn else encoder_ffn,
        "activation": activation(values.get("activation_function", "gelu"), family),
        "max_positions": values.get("max_position_embeddings", 1024),
        "embedding_scale": width**0.5 if values.get("scale_embedding") else 1.0,
        "init_std": values.get("init_std", 0.02),
        **tokens_from_hf({"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, **values}),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json. Raises `ModelError` for an embedding factor other than 1 and √width."""
    scaled = config.embedding_scale not in (None, 1.0)
    if scaled and abs((config.embedding_scale or 1.0) ** 2 - config.width) > 1e-6 * config.width:
        raise ModelError(f"{config.family} multiplies embeddings by 1 or √width", where="embedding_scale")
    return {
        "d_model": config.width, "encoder_layers": config.encoder_layers, "decoder_layers": config.layers,
        "encoder_attention_heads": config.encoder_heads or config.heads, "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.encoder_ffn_size or config.ffn_size, "decoder_ffn_dim": config.ffn_size,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else ACTIVATIONS_TO_HF[config.activation],
        "max_position_embeddings": config.max_positions, "scale_embedding": scaled, "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size, "init_std": config.init_std, "dropout": config.dropout, "attention_dropout": 0.0,
        "activation_dropout": 0.0, "is_encoder_decoder": True, "forced_eos_token_id": config.eos_id, **tokens_to_hf(config),
    }  # fmt: skip


BLOCK = {"attention.output": "self_attn.out_proj", "attention_norm": "self_attn_layer_norm", "ffn.up": "fc1", "ffn.down": "fc2",
         "ffn_norm": "final_layer_norm"}  # fmt: skip
CROSS = {
    "cross_attention.q": "encoder_attn.q_proj",
    "cross_attention.output": "encoder_attn.out_proj",
    "cross_norm": "encoder_attn_layer_norm",
}


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names."""
    width = config.width
    found = [Weight("embedding.weight", ("model.shared.weight",))]
    if config.lm_head:
        found.append(Weight("head_bias", ("final_logits_bias",), leading=True, optional=True))
    pairs: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    for ours, theirs, layers in (("encoder.", "model.encoder.", config.encoder_layers), ("", "model.decoder.", config.layers)):
        found.append(Weight(f"{ours}position_embedding.weight", (f"{theirs}embed_positions.weight",)))
        pairs[f"{ours}embedding_norm"] = (f"{theirs}layernorm_embedding",), ()
        if config.norm_position == "pre":
            pairs[f"{ours}norm"] = (f"{theirs}layer_norm",), ()
        for i in range(layers):
            block, layer = f"{ours}blocks.{i}.", f"{theirs}layers.{i}."
            pairs |= {block + a: ((layer + b,), ()) for a, b in {**BLOCK, **({} if ours else CROSS)}.items()}
            pairs[f"{block}attention.qkv"] = tuple(f"{layer}self_attn.{x}_proj" for x in "qkv"), (width,) * 3
            if not ours:
                pairs[f"{block}cross_attention.kv"] = tuple(f"{layer}encoder_attn.{x}_proj" for x in "kv"), (width,) * 2
    for ours, (names, sizes) in pairs.items():
        found += [Weight(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in names), sizes) for kind in ("weight", "bias")]
    return found


COPIES = tuple((f"model.{side}.embed_tokens.weight", "model.shared.weight") for side in ("encoder", "decoder"))
SKIP = ("encoder.version", "decoder.version")
