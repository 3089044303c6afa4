"""From a model to text: sampling, the engine (ids in, ids out), and `load`, which opens a model folder.

The names below are imported when they are first used: importing this package does not import torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wordmill.core.lazy import attributes

_PLACES = {
    "Beam": "beam",
    "BeamConfig": "beam",
    "Candidate": "fill",
    "Dialogue": "chat",
    "EmbedSettings": "embed",
    "Embeddings": "embed",
    "Filled": "fill",
    "Generation": "loaded",
    "Loaded": "loaded",
    "SamplingConfig": "sampling",
    "Score": "score",
    "beam_search": "beam",
    "generate": "loaded",
    "load": "loaded",
    "pseudo_log_likelihood": "pseudo",
    "run": "engine",
    "score_documents": "score",
}

if TYPE_CHECKING:
    from wordmill.generate.beam import Beam as Beam
    from wordmill.generate.beam import BeamConfig as BeamConfig
    from wordmill.generate.beam import beam_search as beam_search
    from wordmill.generate.chat import Dialogue as Dialogue
    from wordmill.generate.embed import Embeddings as Embeddings
    from wordmill.generate.embed import EmbedSettings as EmbedSettings
    from wordmill.generate.engine import run as run
    from wordmill.generate.fill import Candidate as Candidate
    from wordmill.generate.fill import Filled as Filled
    from wordmill.generate.loaded import Generation as Generation
    from wordmill.generate.loaded import Loaded as Loaded
    from wordmill.generate.loaded import generate as generate
    from wordmill.generate.loaded import load as load
    from wordmill.generate.pseudo import pseudo_log_likelihood as pseudo_log_likelihood
    from wordmill.generate.sampling import SamplingConfig as SamplingConfig
    from wordmill.generate.score import Score as Score
    from wordmill.generate.score import score_documents as score_documents

__all__ = [
    "Beam", "BeamConfig", "Candidate", "Dialogue", "EmbedSettings", "Embeddings", "Filled", "Generation", "Loaded", "SamplingConfig",
    "Score", "beam_search", "generate", "load", "pseudo_log_likelihood", "run", "score_documents",
]  # fmt: skip


__getattr__ = attributes(__name__, _PLACES)


class _Callable(ModuleType):
    """`wordmill.generate(…)` works whether the name means this package or the function in it: importing one hides the other."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return __getattr__("generate")(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
