"""BART (arXiv 1910.13461): an encoder–decoder with norms after each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.families import _bart
from wordmill.models.families._base import Family, Head


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    return _bart.from_hf({"decoder_start_token_id": 2, **values}, "bart", pre=False)


FAMILY = Family("bart", "BartForConditionalGeneration", from_hf, _bart.to_hf, _bart.weights, _bart.PARTS, bare="BartModel",
                copies=_bart.COPIES, skip=_bart.SKIP,
                heads={"sequence": Head("BartForSequenceClassification", "classification_head.out_proj", dense="classification_head.dense",
                                        reads="last")})  # fmt: skip
