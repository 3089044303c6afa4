"""What the script tells about a text's language: an honest guess that costs nearly nothing.

Scripts that one language (nearly) owns give that language (zh, ja, ko, el, he, th …); scripts that many share give the script's name
(latin, cyrillic, arabic, devanagari). A Python file is "python". No letters: None.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE = 48

_RANGES = (
    (0x41, 0x5A, "latin"), (0x61, 0x7A, "latin"), (0xC0, 0x24F, "latin"), (0x1E00, 0x1EFF, "latin"), (0xFF21, 0xFF5A, "latin"),
    (0x370, 0x3FF, "el"), (0x1F00, 0x1FFF, "el"), (0x400, 0x52F, "cyrillic"), (0x531, 0x58F, "hy"), (0x591, 0x5F4, "he"),
    (0x600, 0x6FF, "arabic"), (0x750, 0x77F, "arabic"), (0x8A0, 0x8FF, "arabic"), (0xFB50, 0xFDFF, "arabic"), (0xFE70, 0xFEFF, "arabic"),
    (0x900, 0x963, "devanagari"), (0x980, 0x9FF, "bn"),
    (0xA00, 0xA7F, "pa"), (0xA80, 0xAFF, "gu"), (0xB00, 0xB7F, "or"), (0xB80, 0xBFF, "ta"),
    (0xC00, 0xC7F, "te"), (0xC80, 0xCFF, "kn"), (0xD00, 0xD7F, "ml"), (0xD80, 0xDFF, "si"), (0xE00, 0xE7F, "th"), (0xE80, 0xEFF, "lo"),
    (0xF00, 0xFFF, "bo"), (0x1000, 0x109F, "my"), (0x10A0, 0x10FF, "ka"), (0x1200, 0x139F, "ethiopic"), (0x1780, 0x17FF, "km"),
    (0x1100, 0x11FF, "ko"), (0x3130, 0x318F, "ko"), (0xAC00, 0xD7AF, "ko"),
    (0x3041, 0x30FF, "ja"), (0xFF66, 0xFF9D, "ja"),
    (0x3400, 0x4DBF, "zh"), (0x4E00, 0x9FFF, "zh"), (0xF900, 0xFAFF, "zh"), (0x20000, 0x323AF, "zh"),
)  # fmt: skip
_NAMES = sorted({name for _, _, name in _RANGES})
_HAN, _KANA = _NAMES.index("zh"), _NAMES.index("ja")
KANA_SHARE = 0.08


@cache
def _class_table() -> NDArray[np.uint8]:
    """For each code point (the last entry: all beyond), the place of its name in `_NAMES`, or one more for none."""
    table = np.full(max(end for _, end, _ in _RANGES) + 2, len(_NAMES), np.uint8)
    for start, end, name in _RANGES:
        table[start : end + 1] = _NAMES.index(name)
    return table


def guess_languages(texts: Sequence[str], sources: Sequence[str]) -> list[str | None]:
    """One guess a text, from `SAMPLE` characters spread over it; `sources` are the names of the files."""
    if not texts:
        return []
    samples = [text[:: len(text) // SAMPLE + 1].ljust(SAMPLE) for text in texts]
    codes = np.frombuffer("".join(samples).encode("utf-32-le", "surrogatepass"), np.uint32).reshape(len(texts), SAMPLE)
    table = _class_table()
    classes = table[np.minimum(codes, len(table) - 1)].astype(np.int64)
    flat = classes + (len(_NAMES) + 1) * np.arange(len(texts))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(texts) * (len(_NAMES) + 1)).reshape(len(texts), -1)[:, :-1]
    # Japanese is written with Chinese characters too: kana tell.
    japanese = counts[:, _KANA] > KANA_SHARE * (counts[:, _HAN] + counts[:, _KANA])
    counts[:, _KANA] += np.where(japanese, counts[:, _HAN], 0)
    counts[:, _HAN] = np.where(japanese, 0, counts[:, _HAN])
    best: list[int] = counts.argmax(axis=1).tolist()
    some: list[int] = counts.sum(axis=1).tolist()
    return [
        "python" if source.endswith((".py", ".py.gz", ".py.zst")) else _NAMES[choice] if letters else None
        for source, choice, letters in zip(sources, best, some, strict=True)
    ]
