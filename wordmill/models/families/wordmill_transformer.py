"""Any Transformer that no family of Hugging Face has a class for, in our own words: the one of 2017, and whatever else the parts make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.config import TransformerConfig
from wordmill.models.families._base import Family

NAME = "wordmill-transformer"
PARTS = {
    "norm": "layernorm", "norm_eps": 1e-5, "norm_position": "post", "positions": "sinusoidal", "activation": "relu", "gated": False,
    "qk_norm": False, "ffn_bias": True,
}  # fmt: skip
"""The Transformer of 2017 (arXiv 1706.03762)."""


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings: they are the same. An unknown one is an error of `TransformerConfig`."""
    foreign = ("model_type", "architectures", "dtype", "transformers_version", "family", "vocab_size")
    return {name: value for name, value in values.items() if name not in foreign}


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """Our settings → config.json."""
    return {name: value for name, value in config.plain().items() if name != "family"}


FAMILY = Family(NAME, "WordmillTransformer", from_hf, to_hf, None, PARTS, bare="WordmillTransformer")
