"""DistilBERT (arXiv 1910.01108): half of BERT's layers, no token types, no pooler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig
from wordmill.models.families import _bert
from wordmill.models.families._base import ACTIVATIONS_TO_HF, Family, Head, Weight, activation, read, tokens_from_hf, tokens_to_hf

KNOWN = frozenset(
    "dim n_layers n_heads hidden_dim activation max_position_embeddings dropout qa_dropout seq_classif_dropout "
    "sinusoidal_pos_embds tie_weights_".split()
)
PARTS = {**_bert.PARTS, "token_types": 0}
NAMES = {
    "attention.output": "attention.out_lin", "attention_norm": "sa_layer_norm", "ffn.up": "ffn.lin1", "ffn.down": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}  # fmt: skip


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Positions that began as sines are stored, and learned on, like others."""
    read(values, "distilbert", KNOWN, {})
    width, heads = values["dim"], values["n_heads"]
    if width % heads:
        raise ModelError(f"dim ({width}) must be a multiple of n_heads ({heads})", where="config.json")
    act = activation(values.get("activation", "gelu"), "distilbert")
    return {
        **PARTS, "width": width, "layers": values["n_layers"], "heads": heads, "kv_heads": heads, "head_size": width // heads,
        "ffn_size": values["hidden_dim"], "activation": act, "head_activation": act,
        "max_positions": values.get("max_position_embeddings", 512), "tie_embeddings": values.get("tie_word_embeddings", True),
        "init_std": values.get("initializer_range", 0.02), **tokens_from_hf(values),
    }  # fmt: skip


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {
        "dim": config.width, "n_layers": config.layers, "n_heads": config.heads, "hidden_dim": config.ffn_size,
        "activation": ACTIVATIONS_TO_HF[config.activation], "max_position_embeddings": config.max_positions,
        "sinusoidal_pos_embds": False, "tie_word_embeddings": config.tie_embeddings, "vocab_size": config.vocab_size,
        "initializer_range": config.init_std, "dropout": config.dropout, "attention_dropout": 0.0, **tokens_to_hf(config),
    }  # fmt: skip


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names."""
    found = [
        Weight("embedding.weight", ("distilbert.embeddings.word_embeddings.weight",)),
        Weight("position_embedding.weight", ("distilbert.embeddings.position_embeddings.weight",)),
    ]
    pairs = {"embedding_norm": "distilbert.embeddings.LayerNorm"}
    if config.lm_head:
        pairs |= {"head_dense": "vocab_transform", "head_norm": "vocab_layer_norm"}
        found.append(Weight("head_bias", ("vocab_projector.bias",)))
    for i in range(config.layers):
        layer = f"distilbert.transformer.layer.{i}."
        pairs |= {f"blocks.{i}.{ours}": layer + theirs for ours, theirs in NAMES.items()}
        for kind in ("weight", "bias"):
            attention = tuple(f"{layer}attention.{name}_lin.{kind}" for name in "qkv")
            found.append(Weight(f"blocks.{i}.attention.qkv.{kind}", attention, (config.width,) * 3))
    return [*found, *(Weight(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for ours, theirs in pairs.items() for kind in ("weight", "bias"))]


HEADS = {
    **_bert.bert_heads("DistilBert"),
    "sequence": Head("DistilBertForSequenceClassification", dense="pre_classifier", activation="relu"),
}


FAMILY = Family("distilbert", "DistilBertForMaskedLM", from_hf, to_hf, weights, PARTS, bare="DistilBertModel",
                head="vocab_projector.weight", prefix="distilbert.", skip=(".position_ids",), heads=HEADS)  # fmt: skip
