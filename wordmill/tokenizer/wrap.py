"""Special tokens around one text or a pair of texts, as a model's family wants them: `[CLS] A [SEP] B [SEP]`, `A </s>`, …

What stands where is the post-processor of tokenizer.json; here it is applied to ids, so that texts can be encoded (and cut, masked or
packed) before it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from wordmill.core.errors import ModelError

Part = tuple[int | str, int]
"""A special token's id, or "A" or "B" for a text, and the token type of what stands there."""


class Wrapped(NamedTuple):
    """Ids with their special tokens."""

    ids: list[int]
    """(T,)"""
    types: list[int]
    """(T,) token types: 0, and 1 for the second text where the family tells them apart (BERT)."""


class Layout(NamedTuple):
    """What stands around a single text, and around a pair."""

    single: tuple[Part, ...]
    pair: tuple[Part, ...]

    def wrap(self, first: Sequence[int], second: Sequence[int] | None = None) -> Wrapped:
        """Ids (T,) and token types (T,) of one text or two."""
        wrapped = Wrapped([], [])
        for what, kind in self.single if second is None else self.pair:
            ids = [what] if isinstance(what, int) else first if what == "A" else second or ()
            wrapped.ids.extend(ids)
            wrapped.types.extend([kind] * len(ids))
        return wrapped


BARE = Layout((("A", 0),), (("A", 0), ("B", 1)))
"""Nothing around: the layout where there is no post-processor."""


def layout_of(processor: dict[str, Any] | None) -> Layout:
    """The layout that a post-processor of tokenizer.json stands for. Raises `ModelError` for one that is not known."""
    steps = _steps(processor)
    if len(steps) > 1:
        raise ModelError(f"special tokens set by {len(steps)} post-processors one after the other are not supported")
    if not steps:
        return BARE
    step = steps[0]
    if step["type"] == "TemplateProcessing":
        return Layout(_template(step, "single"), _template(step, "pair"))
    start, end = step["cls"][1], step["sep"][1]
    single = ((start, 0), ("A", 0), (end, 0))
    if step["type"] == "BertProcessing":
        return Layout(single, (*single, ("B", 1), (end, 1)))
    return Layout(single, (*single, (end, 0), ("B", 0), (end, 0)))  # RoBERTa: two ends between the texts, and no types


def named_ends(processor: dict[str, Any] | None) -> dict[str, str]:
    """The cls and sep tokens that a post-processor of BERT or RoBERTa names; empty for others."""
    named = [step for step in _steps(processor) if step["type"] in ("BertProcessing", "RobertaProcessing")]
    return {role: named[0][role][0] for role in ("cls", "sep")} if named else {}


def _steps(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps that add tokens (ByteLevel only moves offsets)."""
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [inner for step in processor["processors"] for inner in _steps(step)]
    if processor["type"] not in ("ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"):
        raise ModelError(f"a post-processor of type {processor['type']!r} is not supported")
    return [] if processor["type"] == "ByteLevel" else [processor]


def _template(step: dict[str, Any], which: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for part in step[which]:
        ((kind, value),) = part.items()
        ids = [value["id"]] if kind == "Sequence" else step["special_tokens"][value["id"]]["ids"]
        parts.extend((what, value["type_id"]) for what in ids)
    return tuple(parts)
