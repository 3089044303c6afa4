"""Byte-level BPE by tiktoken: the ids of `tokenizers`, some seven times as fast.

tiktoken merges any neighbours whose union is a token; `tokenizers` merges the pairs that are listed. Both take the lowest rank first
and the leftmost of equals, so they agree when (1) each token is made by one listed pair, (2) ids follow ranks or are mapped to them, and
(3) the listed merges turn the bytes of every token into that token. Proof: take the first merge at which they differ, of
p and q into t. Merges so far have respected t's borders and had lower ranks than t, so on t alone the listed merges would also have
come to p, q; as that pair isn't listed they would stop there, against (3). `ranks_of` checks 1 and 3 and gives up where they fail.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from wordmill.tokenizer.patterns import EACH_CHARACTER, GPT2

Ids = npt.NDArray[np.unsignedinteger[Any]]


@cache
def char_to_byte() -> dict[str, int]:
    """The 256 printable characters that stand for bytes in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


@cache
def byte_to_char() -> list[str]:
    """For each byte the character that stands for it in a byte-level vocabulary."""
    table = {byte: char for char, byte in char_to_byte().items()}
    return [table[byte] for byte in range(256)]


def to_bytes(token: str) -> bytes | None:
    """The bytes of a byte-level token; None when it is not one."""
    table = char_to_byte()
    try:
        return bytes(table[char] for char in token)
    except KeyError:
        return None


def split_pattern(spec: dict[str, Any]) -> str | None:
    """The pattern by which a tokenizer.json cuts text, when it is a plain byte-level BPE that tiktoken can stand in for; else None."""
    model, before = spec["model"], spec.get("pre_tokenizer") or {}
    plain = model.get("type") == "BPE" and not any(
        model.get(name) for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    added_text = any(not token["special"] for token in spec.get("added_tokens", ()))
    if not plain or added_text or spec.get("normalizer") is not None or not model["merges"]:
        return None
    if before.get("type") == "ByteLevel":
        return GPT2 if before.get("use_regex", True) and not before.get("add_prefix_space") else None
    steps = before.get("pretokenizers", [])
    if before.get("type") != "Sequence" or [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, bytelevel = steps
    plain_steps = split["behavior"] == "Isolated" and not split.get("invert") and not bytelevel.get("add_prefix_space")
    return split["pattern"].get("Regex") if plain_steps and not bytelevel.get("use_regex", True) else None


def ranks_of(spec: dict[str, Any], backend: Backend) -> tuple[dict[bytes, int], Ids] | None:
    """tiktoken's ranks for a byte-level BPE and the table rank → id; None when tiktoken would not give the same ids."""
    vocab: dict[str, int] = spec["model"]["vocab"]
    added = {token["content"] for token in spec.get("added_tokens", ())}
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in spec["model"]["merges"]]
    tokens = [*byte_to_char(), *(left + right for left, right in pairs)]
    if len(set(tokens)) < len(tokens) or set(tokens) != set(vocab) - added:
        return None
    model = backend.model
    if any(len(model.tokenize(token)) != 1 for token in tokens):
        return None
    ranks = {to_bytes(token): rank for rank, token in enumerate(tokens)}
    if None in ranks:
        return None
    return {key: rank for key, rank in ranks.items() if key is not None}, np.array([vocab[token] for token in tokens], np.uint32)


class FastBpe:
    """Encodes by tiktoken. Never sees special tokens: whatever stands in the text is text."""

    def __init__(self, pattern: str, ranks: dict[bytes, int], ids: Ids) -> None:
        import tiktoken

        # An encoding without special tokens searches for the empty string at every position; one that nobody may use costs nothing.
        self.encoding = tiktoken.Encoding("wordmill", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|no special|>": len(ids)})
        self.ids = ids

    def __call__(self, text: str) -> Ids | None:
        """Ids (n,) uint32 of one text; None where the pattern's engine gives up (hundreds of thousands of spaces in a row)."""
        try:
            return self.ids[self.encoding.encode_to_numpy(text, disallowed_special=())]
        except ValueError:
            return None


class Table:
    """Encodes texts of which every byte, or every character, is a token."""

    def __init__(self, ids: Ids, *, characters: bool) -> None:
        """`ids` (256,): the id of each byte; or (n,) of each code point, where the last one stands for all others too."""
        self.ids, self.characters = ids, characters

    def __call__(self, text: str) -> Ids:
        """Ids (n,) uint32 of one text."""
        if not self.characters:
            return self.ids[np.frombuffer(text.encode(), np.uint8)]
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self.ids[np.minimum(points, len(self.ids) - 1)]


def table(spec: dict[str, Any]) -> Table | None:
    """The table for wordmill's own byte and char tokenizers; None for others."""
    model, before = spec["model"], spec.get("pre_tokenizer") or {}
    if spec.get("normalizer") is not None or any(not token["special"] for token in spec.get("added_tokens", ())):
        return None
    if model["type"] == "BPE" and not model["merges"] and before.get("type") == "ByteLevel" and not before.get("add_prefix_space"):
        vocab = [model["vocab"].get(char) for char in byte_to_char()]
        return None if None in vocab else Table(np.array(vocab, np.uint32), characters=False)
    if model["type"] == "WordLevel" and before.get("pattern") == {"Regex": EACH_CHARACTER} and model["unk_token"] in model["vocab"]:
        unknown = model["vocab"][model["unk_token"]]
        points = {ord(token): index for token, index in model["vocab"].items() if len(token) == 1}
        ids = np.full(max(points, default=0) + 2, unknown, np.uint32)
        ids[list(points)] = list(points.values())
        return Table(ids, characters=True)
    return None


def fast_bpe(spec: dict[str, Any], backend: Backend) -> FastBpe | None:
    """The fast encoder for a tokenizer, or None where it would not give the same ids (or tiktoken can't read the pattern)."""
    pattern = split_pattern(spec)
    ranks = ranks_of(spec, backend) if pattern else None
    if pattern is None or ranks is None:
        return None
    try:
        return FastBpe(pattern, *ranks)
    except ValueError:
        return None
