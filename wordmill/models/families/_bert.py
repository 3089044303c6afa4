"""What BERT and RoBERTa share: the same blocks and the same head for masked words, under their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Head, Weight, activation, read, tokens_from_hf, tokens_to_hf

PARTS = {
    "causal": False, "norm": "layernorm", "norm_eps": 1e-12, "norm_position": "post", "embedding_norm": True, "qk_norm": False,
    "positions": "learned", "activation": "gelu", "gated": False, "attention_bias": True, "output_bias": True, "ffn_bias": True,
    "token_types": 2, "tie_embeddings": True, "head_transform": True, "head_bias": True, "max_positions": 512,
}  # fmt: skip

KNOWN = frozenset(
    """
    hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob attention_probs_dropout_prob
    max_position_embeddings type_vocab_size layer_norm_eps directionality pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type
    """.split()
)


def from_hf(values: Mapping[str, Any], family: str, *, offset: int = 0) -> dict[str, Any]:
    """config.json → our settings. `offset`: rows of the learned positions that no token uses."""
    read(values, family, KNOWN, {"position_embedding_type": ("absolute",), "tie_word_embeddings": (True,)})
    width, heads = values["hidden_size"], values["num_attention_heads"]
    if width % heads:
        raise ModelError(f"hidden_size ({width}) must be a multiple of num_attention_heads ({heads})", where="config.json")
    act = activation(values.get("hidden_act", "gelu"), family)
    return {
        **PARTS, "width": width, "layers": values["num_hidden_layers"], "heads": heads, "kv_heads": heads, "head_size": width // heads,
        "ffn_size": values["intermediate_size"], "activation": act, "head_activation": act, "norm_eps": values.get("layer_norm_eps", 1e-12),
        "max_positions": values.get("max_position_embeddings", 512) - offset, "position_offset": offset,
        "token_types": values.get("type_vocab_size", 2), "init_std": values.get("initializer_range", 0.02), **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_size, "hidden_act": ACTIVATIONS_TO_HF[config.activation], "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions + config.position_offset, "type_vocab_size": config.token_types,
        "vocab_size": config.vocab_size, "initializer_range": config.init_std, "tie_word_embeddings": True,
        "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": 0.0, **tokens_to_hf(config),
    }  # fmt: skip


BLOCK = {
    "attention.output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm", "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense", "ffn_norm": "output.LayerNorm",
}  # fmt: skip


def weights(config: TransformerConfig, prefix: str, head: Mapping[str, str], bias: str) -> list[Weight]:
    """Weight names; `prefix` and the names in the head are the family's own."""
    names = {"embedding": "word_embeddings", "position_embedding": "position_embeddings", "type_embedding": "token_type_embeddings"}
    found = [Weight(f"{ours}.weight", (f"{prefix}embeddings.{theirs}.weight",)) for ours, theirs in names.items()]
    pairs = {"embedding_norm": f"{prefix}embeddings.LayerNorm"}
    for i in range(config.layers):
        layer = f"{prefix}encoder.layer.{i}."
        pairs |= {f"blocks.{i}.{ours}": layer + theirs for ours, theirs in BLOCK.items()}
        for kind in ("weight", "bias"):
            attention = tuple(f"{layer}attention.self.{name}.{kind}" for name in ("query", "key", "value"))
            found.append(Weight(f"blocks.{i}.attention.qkv.{kind}", attention, (config.width,) * 3))
    if config.lm_head:
        pairs |= head
        found.append(Weight("head_bias", (bias,)))
    if config.pooler:
        pairs["pooler"] = f"{prefix}pooler.dense"
    return [*found, *(Weight(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for ours, theirs in pairs.items() for kind in ("weight", "bias"))]


def bert_heads(name: str) -> dict[str, Head]:
    """BERT's heads: the pooler belongs to the one for whole texts."""
    pooled = Head(f"{name}ForSequenceClassification", dense="bert.pooler.dense", takes={"dense": "pooler"})
    return {"sequence": pooled, "token": Head(f"{name}ForTokenClassification"), "span": Head(f"{name}ForQuestionAnswering", "qa_outputs")}


def roberta(name: str, class_name: str) -> Family:
    """RoBERTa under one of its names: BERT whose positions start after the padding token's id."""

    def read_settings(values: Mapping[str, Any]) -> dict[str, Any]:
        found = from_hf(values, name, offset=(1 if values.get("pad_token_id") is None else values["pad_token_id"]) + 1)
        return {**found, "head_activation": "gelu"}

    def names(config: TransformerConfig) -> list[Weight]:
        return weights(config, "roberta.", {"head_dense": "lm_head.dense", "head_norm": "lm_head.layer_norm"}, "lm_head.bias")

    return Family(
        name, f"{class_name}ForMaskedLM", read_settings, to_hf, names, {**PARTS, "norm_eps": 1e-5, "token_types": 1, "position_offset": 2},
        bare=f"{class_name}Model", head="lm_head.decoder.weight", prefix="roberta.", pooler="roberta.pooler.dense.weight",
        copies=(("lm_head.decoder.bias", "lm_head.bias"),), skip=(".position_ids",),
        heads={**bert_heads(class_name),
               "sequence": Head(f"{class_name}ForSequenceClassification", "classifier.out_proj", dense="classifier.dense")},
    )  # fmt: skip
