"""The decoding step in C (step.c), compiled when it is first needed. Without a C compiler, decode.py does the same in PyTorch."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from wordmill.core.native import load

SOURCE = Path(__file__).with_name("step.c")


@cache
def library() -> ctypes.CDLL | str:
    """The compiled step, or the reason why there is none."""
    return load(SOURCE)
