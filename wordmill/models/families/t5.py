"""T5 (arXiv 1910.10683), version 1.0 (ReLU, tied output) and 1.1 (gated GELU, untied), and what was trained on from them (Flan-T5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families import _t5
from wordmill.models.families._base import Family, Head


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings. Version 1.0, whose output layer is the embedding, scales what that layer reads."""
    scaled = values.get("scale_decoder_outputs", values.get("tie_word_embeddings") is not False)
    return {**_t5.from_hf(values, "t5", "relu"), "head_scale": values["d_model"] ** -0.5 if scaled else 1.0}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {**_t5.to_hf(config), "scale_decoder_outputs": config.head_scale != 1.0}


FAMILY = Family("t5", "T5ForConditionalGeneration", from_hf, to_hf, _t5.weights, _t5.PARTS, bare="T5Model", prefix="",
                copies=_t5.COPIES, skip=_t5.SKIP,
                heads={"sequence": Head("T5ForSequenceClassification", "classification_head.out_proj", dense="classification_head.dense",
                                        reads="last", prefix="transformer.")})  # fmt: skip
