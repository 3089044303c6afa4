"""How good a model is: bits per byte first, perplexity beside it, with counts of what was scored and what was cut.

The names below are imported when they are first used: importing this package does not import torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wordmill.core.lazy import attributes

_PLACES = {
    "Evaluation": "bpb",
    "Texts": "data",
    "compare": "bpb",
    "evaluate": "api",
    "evaluate_rows": "validation",
    "evaluate_store": "validation",
    "evaluate_text": "bpb",
}

if TYPE_CHECKING:
    from wordmill.evaluate.api import evaluate as evaluate
    from wordmill.evaluate.bpb import Evaluation as Evaluation
    from wordmill.evaluate.bpb import compare as compare
    from wordmill.evaluate.bpb import evaluate_text as evaluate_text
    from wordmill.evaluate.data import Texts as Texts
    from wordmill.evaluate.validation import evaluate_rows as evaluate_rows
    from wordmill.evaluate.validation import evaluate_store as evaluate_store

__all__ = ["Evaluation", "Texts", "compare", "evaluate", "evaluate_rows", "evaluate_store", "evaluate_text"]


__getattr__ = attributes(__name__, _PLACES)


class _Callable(ModuleType):
    """`wordmill.evaluate(…)` works whether the name means this package or the function in it: importing one hides the other."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return __getattr__("evaluate")(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
