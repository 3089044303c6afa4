"""mBART (arXiv 2001.08210): BART for 25 to 50 languages, with norms before each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordmill.models.families import _bart
from wordmill.models.families._base import Family, Head


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json → our settings."""
    return _bart.from_hf(values, "mbart", pre=True)


FAMILY = Family("mbart", "MBartForConditionalGeneration", from_hf, _bart.to_hf, _bart.weights, {**_bart.PARTS, "norm_position": "pre"},
                bare="MBartModel", copies=_bart.COPIES, skip=_bart.SKIP,
                heads={"sequence": Head("MBartForSequenceClassification", "classification_head.out_proj", dense="classification_head.dense",
                                        reads="last")})  # fmt: skip
