"""Which documents are for validation: decided by the hash of the text alone, so that neither order nor company matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordmill.corpus.dedupe import Keys


def mix(keys: Keys, seed: int) -> Keys:
    """Keys that another seed shuffles otherwise: the SplitMix64 finaliser (Steele, Lea and Flood 2014, figure 16)."""
    with np.errstate(over="ignore"):
        state = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % (1 << 64))
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def for_validation(keys: Keys, share: float, seed: int) -> NDArray[np.bool_]:
    """Which texts belong to validation, about `share` of them."""
    return mix(keys, seed) < np.uint64(min(int(share * 2.0**64), (1 << 64) - 1))
