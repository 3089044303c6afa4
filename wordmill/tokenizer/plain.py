"""A tokenizer that can't write a special token, whatever stands in the text.

`tokenizers` can be told not to look for special tokens in a text. That is not enough where they are also entries of the model's own
vocabulary: a Unigram model (T5, XLM-RoBERTa) takes `<mask>`, typed by a person, as the one piece that it is, at the best of all scores, and
does so too when the normaliser has made it out of `＜ｍａｓｋ＞`. Here these entries keep their ids and lose their names.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any


def without_special(spec: dict[str, Any]) -> str | None:
    """The tokenizer.json with every special token under a name that no text has; None where no text could spell one anyway."""
    names = {token["content"] for token in spec.get("added_tokens", ()) if token["special"]}
    model = spec["model"]
    if not _spelled(model, names):
        return None
    return json.dumps(_renamed(spec, names), ensure_ascii=False)


def with_special(spec: dict[str, Any], shown: Collection[str]) -> str:
    """The tokenizer.json in which a text can spell the special tokens `shown`, and no others. They take the spaces before them, as the
    word in whose place they stand would."""
    names = {token["content"] for token in spec.get("added_tokens", ()) if token["special"]} - set(shown)
    found = _renamed(spec, names)
    found["added_tokens"] = [{**token, "lstrip": token["lstrip"] or token["content"] in shown} for token in found["added_tokens"]]
    return json.dumps(found, ensure_ascii=False)


def renamed_special(spec: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The tokenizer.json with every special token under another name, which begins and ends with U+FDD0; and the new names by the old."""
    names = {token["content"] for token in spec.get("added_tokens", ()) if token["special"]}
    return json.dumps(_renamed(spec, names), ensure_ascii=False), _hidden(names)


def _hidden(names: set[str]) -> dict[str, str]:
    # U+FDD0 is no character, by definition of Unicode; a text that holds it all the same, and the number, would still not hold the rest.
    return {name: f"\ufdd0{number}\ufdd0{name}\ufdd0" for number, name in enumerate(sorted(names))}


def _renamed(spec: dict[str, Any], names: set[str]) -> dict[str, Any]:
    hidden = _hidden(names)
    model = spec["model"]
    vocab = model["vocab"]
    renamed: dict[str, Any] = {}
    if isinstance(vocab, dict):
        renamed["vocab"] = {hidden.get(token, token): index for token, index in vocab.items()}
    else:
        renamed["vocab"] = [[hidden.get(token, token), score] for token, score in vocab]
    if model.get("unk_token") is not None:
        renamed["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        renamed["merges"] = [[*pair] for pair in _pairs(model) if not names & {*pair, "".join(pair)}]
    added = [{**token, "content": hidden.get(token["content"], token["content"])} for token in spec["added_tokens"]]
    return {**spec, "model": {**model, **renamed}, "added_tokens": added, "post_processor": None}


def _spelled(model: dict[str, Any], names: set[str]) -> bool:
    """Whether a model's own rules may lead to one of these tokens."""
    vocab = model["vocab"]
    inside = names & (vocab.keys() if isinstance(vocab, dict) else {token for token, _ in vocab})
    if model["type"] != "BPE":
        return bool(inside)
    # Byte-pair encoding comes to a token by merges, or finds it in one step if it is one character or merges are passed over.
    if not inside or model.get("ignore_merges") or any(len(name) == 1 for name in inside):
        return bool(inside)
    return any("".join(pair) in inside for pair in _pairs(model))


def _pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]  # type: ignore[misc]
