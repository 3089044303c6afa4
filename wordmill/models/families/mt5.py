"""mT5 (arXiv 2010.11934): T5 version 1.1 for 101 languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.families import _t5
from wordmill.models.families._base import Family, Head


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    return _t5.from_hf(values, "mt5", "gated-gelu")


FAMILY = Family("mt5", "MT5ForConditionalGeneration", from_hf, _t5.to_hf, _t5.weights, _t5.PARTS, bare="MT5Model", prefix="",
                copies=_t5.COPIES, skip=_t5.SKIP,
                heads={"sequence": Head("MT5ForSequenceClassification", "classification_head.out_proj", dense="classification_head.dense",
                                        reads="last", prefix="transformer.")})  # fmt: skip
