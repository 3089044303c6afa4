"""BERT (arXiv 1810.04805), multilingual BERT included: an encoder with learned positions and two kinds of sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _bert
from wordmill.models.families._base import Family, Weight

HEAD = {"head_dense": "cls.predictions.transform.dense", "head_norm": "cls.predictions.transform.LayerNorm"}


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    return _bert.from_hf(values, "bert")


def weights(config: TransformerConfig) -> list[Weight]:
    """Weight names."""
    return _bert.weights(config, "bert.", HEAD, "cls.predictions.bias")


FAMILY = Family(
    "bert", "BertForMaskedLM", from_hf, _bert.to_hf, weights, _bert.PARTS, bare="BertModel", head="cls.predictions.decoder.weight",
    prefix="bert.", pooler="bert.pooler.dense.weight", copies=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
    renames=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")), skip=(".position_ids",),
    heads=_bert.bert_heads("Bert"), unused=("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
)  # fmt: skip
