"""Exact deduplication by hashes of the text, in little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


def digests(texts: Sequence[bytes]) -> tuple[list[str], Keys, Keys]:
    """For each cleaned text in UTF-8: its id, a key to compare by and a key to split by, from separate bits of one SHA-256.

    White space around a text makes no difference, so that texts which differ by a line end are duplicates.
    """
    hashes = [hashlib.sha256(text.strip()).digest() for text in texts]
    words = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 4)
    return [value[:16].hex() for value in hashes], words[:, 0].copy(), words[:, 1].copy()


class SeenSet:
    """A set of 64-bit keys that takes 8 bytes a key: sorted runs, of which similar ones are merged.

    With n keys the chance that any new text is taken for a duplicate is about n² / 2^65: 3 in a million for 10 million documents.
    """

    def __init__(self) -> None:
        self.runs: list[Keys] = []

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of the keys are in the set."""
        found = np.zeros(len(keys), bool)
        # Sorted queries walk through each run instead of jumping about in memory.
        order = np.argsort(keys)
        queries = keys[order]
        for run in self.runs:
            places = np.minimum(np.searchsorted(run, queries), len(run) - 1)
            found[order] |= run[places] == queries
        return found

    def add(self, keys: Keys) -> NDArray[np.bool_]:
        """Put the keys in; says which of them are new (of equal keys, the first)."""
        values, first = np.unique(keys, return_index=True)
        fresh = ~self.contains(values)
        new = np.zeros(len(keys), bool)
        new[first[fresh]] = True
        if fresh.any():
            self.runs.append(values[fresh])
        while len(self.runs) > 1 and 2 * len(self.runs[-1]) > len(self.runs[-2]):
            last, before = self.runs.pop(), self.runs.pop()
            merged = np.concatenate([before, last])
            del last, before
            merged.sort(kind="stable")  # on two sorted runs, this is a merge
            self.runs.append(merged)
        return new
