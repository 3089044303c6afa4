"""wordmill: raw text in, a language model that you can use out, on the machine that you have.

    import wordmill as wm

    run = wm.pretrain("my_texts/", time="10m")
    print(wm.load(run.model_folder).generate("Once upon a time"))

The names below are imported when they are first used, so that `import wordmill` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "Corpus": "wordmill.corpus:Corpus",
    "CorpusConfig": "wordmill.corpus:CorpusConfig",
    "Tokenizer": "wordmill.tokenizer:Tokenizer",
    "TokenizerConfig": "wordmill.tokenizer:TokenizerConfig",
    "WordmillError": "wordmill.core.errors:WordmillError",
    "build_corpus": "wordmill.corpus:build_corpus",
    "compare": "wordmill.tasks.tuned:compare",
    "evaluate": "wordmill.evaluate:evaluate",
    "finetune": "wordmill.tasks.finetune:finetune",
    "finetune_seeds": "wordmill.tasks.seeds:finetune_seeds",
    "generate": "wordmill.generate:generate",
    "load": "wordmill.tasks.tuned:load",
    "pretrain": "wordmill.tasks.pretrain:pretrain",
    "train_tokenizer": "wordmill.tokenizer:train_tokenizer",
}

if TYPE_CHECKING:
    from wordmill.core.errors import WordmillError as WordmillError

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'wordmill' has no attribute {name!r}")
    module, attribute = _PLACES[name].split(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
