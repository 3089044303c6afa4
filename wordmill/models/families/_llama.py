"""What Llama's relatives share: RMSNorm before each part, rotary positions, a gated feed-forward part; names of settings and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _rope
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Head, Weight, activation, read, tokens_from_hf, tokens_to_hf

PARTS = {"qk_norm": False, "tie_embeddings": False}
"""Everything else of a Llama is what `TransformerConfig` has by default."""

KNOWN = frozenset(
    "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size hidden_act rms_norm_eps "
    "rope_theta rope_parameters rope_scaling max_position_embeddings attention_bias".split()
)


def from_hf(
    values: Mapping[str, Any],
    family: str,
    known: str = "",
    fixed: Mapping[str, tuple[Any, ...]] | None = None,
    *,
    eps: float = 1e-6,
    context: int = 2048,
    act: str = "hidden_act",
    tied: bool = False,
) -> dict[str, Any]:
    """config.json → our settings, but for what only one family has. `known` and `fixed` are its further settings."""
    read(values, family, KNOWN | set(known.split()), fixed or {})
    width, heads = values["hidden_size"], values["num_attention_heads"]
    size = values.get("head_dim")
    if not size and width % heads:
        raise ModelError(f"hidden_size ({width}) must be a multiple of num_attention_heads ({heads})", where="config.json")
    return {
        "width": width, "layers": values["num_hidden_layers"], "heads": heads, "kv_heads": values.get("num_key_value_heads") or heads,
        "head_size": size or width // heads, "ffn_size": values["intermediate_size"],
        "activation": activation(values.get(act) or values.get("hidden_act") or "silu", family),
        "norm_eps": values.get("rms_norm_eps", eps), "max_positions": values.get("max_position_embeddings", context),
        "attention_bias": values.get("attention_bias", False), "output_bias": values.get("attention_bias", False),
        "tie_embeddings": values.get("tie_word_embeddings", tied), "init_std": values.get("initializer_range", 0.02),
        **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_size, "intermediate_size": config.ffn_size,
        "hidden_act": ACTIVATIONS_TO_HF[config.activation], "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions, "attention_bias": config.attention_bias, "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size, "initializer_range": config.init_std,
        **_rope.to_hf(config), **tokens_to_hf(config),
    }  # fmt: skip


def heads(name: str, *, token: bool = True) -> dict[str, Head]:
    """The heads of decoders, which read the last token; `token`: whether there is a class for answers about each token."""
    sequence = Head(f"{name}ForSequenceClassification", "score", out_bias=False, reads="last")
    return {"sequence": sequence} | ({"token": Head(f"{name}ForTokenClassification", "score")} if token else {})


def weights(
    config: TransformerConfig,
    *,
    norms: Mapping[str, str] | None = None,
    shift: float = 0.0,
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
    up: tuple[str, ...] = ("gate_proj", "up_proj"),
) -> list[Weight]:
    """Weight names; ours keep query, key and value rows in one matrix, and gate and up in another.

    `norms`: our norms and theirs; `qkv`, `up`: what the stacked matrices are called, one name where the family stacks them too.
    """
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    norms = norms or {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    if config.qk_norm:
        norms = {**norms, "attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
    rows, halves = (q, kv, kv) if len(qkv) == 3 else (), (config.ffn_size,) * 2 if len(up) == 2 else ()
    found = [Weight("embedding.weight", ("model.embed_tokens.weight",)), Weight("norm.weight", ("model.norm.weight",), shift=shift)]
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        attention = tuple(f"{theirs}self_attn.{name}" for name in qkv)
        found += [
            *(Weight(f"{ours}{a}.weight", (f"{theirs}{b}.weight",), shift=shift) for a, b in norms.items()),
            Weight(f"{ours}attention.qkv.weight", tuple(f"{x}.weight" for x in attention), rows),
            Weight(f"{ours}attention.output.weight", (f"{theirs}self_attn.o_proj.weight",)),
            Weight(f"{ours}ffn.up.weight", tuple(f"{theirs}mlp.{name}.weight" for name in up), halves),
            Weight(f"{ours}ffn.down.weight", (f"{theirs}mlp.down_proj.weight",)),
        ]
        if config.attention_bias:
            found.append(Weight(f"{ours}attention.qkv.bias", tuple(f"{x}.bias" for x in attention), rows))
        if config.output_bias:
            found.append(Weight(f"{ours}attention.output.bias", (f"{theirs}self_attn.o_proj.bias",)))
    return found
