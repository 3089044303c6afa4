"""Small things that many tests need: a tokenizer of our own text, and models with weights that do something."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tuning import reviews as reviews  # fixtures for fine-tuning
from tests.tuning import small_models as small_models
from wordmill.core import device
from wordmill.models import hub
from wordmill.models.families import families


def pytest_configure() -> None:
    """One thread, here and in the processes that tests start: models this small gain nothing from more, and results don't depend on the
    machine. Nor does the dtype that is taken where none is asked for."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    device.bf16_gain = lambda: 1.0  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _another_hub() -> None:
    """The hub is asked once in a process; here each test has a hub of its own."""
    hub._downloaded.cache_clear()


TEXT = (
    "The mill stands by the river, and the river never asks where the grain came from.\n"
    "Every morning the miller counts his sacks: one, two, three, and then he forgets.\n"
    "def grind(grain):\n    return [flour for flour in grain if flour]\n"
    "磨坊在河边，河水从不问谷物从哪里来。早上，磨坊主数着他的口袋。\n"
    "Ночью мельница молчит. 🌾 Naïve façade, déjà vu.\n"
)

FAMILIES: dict[str, dict[str, Any]] = {name: {**kind.parts, "family": name} for name, kind in families().items()}
FAMILIES["qwen3"]["kv_heads"] = 2
for _name, _window in {"mistral": (5,), "gemma2": (5, 0), "gemma3_text": (5, 0), "modernbert": (0, 5)}.items():
    FAMILIES[_name]["windows"] = _window
for _name in ("gemma2", "gemma3_text"):
    FAMILIES[_name] |= {"embedding_scale": 48**0.5, "attention_scale": 20**-0.5}
for _name in ("t5", "mt5", "bart", "mbart"):
    FAMILIES[_name]["encoder_layers"] = 2
DECODERS = [name for name, values in FAMILIES.items() if values.get("causal", True) and not values.get("encoder_layers")]
ENCODERS = [name for name, values in FAMILIES.items() if not values.get("causal", True)]
ENCODER_DECODERS = [name for name, values in FAMILIES.items() if values.get("encoder_layers")]
SHAPES: dict[str, dict[str, Any]] = {
    **FAMILIES,
    "qwen3-windowed": {"kv_heads": 2, "windows": (0, 5)},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
}
"""Model shapes by name, for `make_model`: every family's, and some more."""


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE of a few hundred tokens."""
    from wordmill.tokenizer import TokenizerConfig, train_tokenizer

    return train_tokenizer([TEXT] * 4, TokenizerConfig(vocab=400))


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """`make_model("qwen3", vocab_size=97, …)`: a small model in evaluation mode, all of whose parts matter."""

    def make(shape: str = "qwen3", *, seed: int = 0, **settings: Any) -> Any:
        from wordmill.models.config import RecurrentConfig, TransformerConfig
        from wordmill.models.folder import build_model

        values = {"vocab_size": 97, "layers": 2, **SHAPES[shape], **settings}
        if "cell" in values:
            model = build_model(RecurrentConfig(**{"embedding_size": 24, "hidden_size": 32, **values}))
        else:
            sizes = {"width": 48, "heads": 4, "kv_heads": 4, "head_size": 12, "ffn_size": 64, "max_positions": 64}
            model = build_model(TransformerConfig(**{**sizes, **values}))
        model.initialise(seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return model.eval()

    return make


@pytest.fixture
def make_loaded(make_model: Callable[..., Any], tiny_tokenizer: Any) -> Callable[..., Any]:
    """A small model with the small tokenizer."""

    def make(shape: str = "qwen3", **settings: Any) -> Any:
        from wordmill.generate import Loaded

        return Loaded(make_model(shape, vocab_size=tiny_tokenizer.vocab_size, **settings), tiny_tokenizer)

    return make


@pytest.fixture
def make_store(tmp_path: Any) -> Callable[..., Any]:
    """`make_store([5, 1, 9], vocab=97)`: a token store of documents with that many targets each, their tokens drawn at random (0 is the
    document mark)."""
    import numpy as np

    from wordmill.batches.store import TokenStore

    def make(lengths: Any, *, vocab: int = 97, seed: int = 0) -> Any:
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        tokens = np.random.default_rng(seed).integers(1, vocab, offsets[-1] + 1).astype(np.uint16)
        tokens[offsets] = 0
        return TokenStore(tmp_path, tokens, offsets, np.asarray(lengths, np.int64) * 4)

    return make


@pytest.fixture
def make_training(make_model: Callable[..., Any], make_store: Callable[..., Any]) -> Callable[..., Any]:
    """`make_training("qwen3", rows=4, context=16, steps=5, …)`: a run on a few random documents, ready for `fit`."""

    def make(
        shape: str = "qwen3",
        *,
        lengths: Any = (7, 23, 1, 40, 12, 31, 5, 18),
        dtype: Any = torch.float32,
        model: Any = None,
        objective: str = "clm",
        **settings: Any,
    ) -> Any:
        from wordmill.batches.pack import CarriedRows, PackedRows
        from wordmill.train.loop import TrainConfig, Training
        from wordmill.train.objectives import OBJECTIVES

        values = {"rows": 4, "micro_rows": 4, "context": 16, "steps": 5, "optim": {"kind": "adamw", "lr": 1e-2}, **settings}
        extra = {name: values.pop(name) for name in ("folder", "callbacks", "world", "reporter") if name in values}
        config = TrainConfig.of(
            {name: value for name, value in values.items() if name != "seconds" or value}
            | ({"steps": None} if values.get("seconds") else {})
        )
        model = make_model(shape, **(model or {})).to(dtype)
        kind = CarriedRows if shape in ("lstm", "gru") else PackedRows
        rows = kind(make_store(lengths), config.context, config.rows, config.seed)
        return Training(model, OBJECTIVES[objective], rows, config, **extra)

    return make


TINY_RUN = [
    "model.width=32", "model.layers=2", "model.heads=2", "model.kv_heads=2", "model.head_size=16", "model.ffn_size=48",
    "train.context=16", "train.rows=4", "train.micro_rows=2",
]  # fmt: skip
TINY_LSTM = ["--model", "lstm", "model.embedding_size=16", "model.hidden_size=24", "train.context=16", "train.rows=4", "train.micro_rows=2"]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without measuring the machine: tests need no second of it."""
    from wordmill.tasks import plan
    from wordmill.train.budget import Speed

    monkeypatch.setattr(plan, "_measure", lambda *arguments, **named: Speed(0.01, 64, 1e6, 1e4))
    monkeypatch.setattr(plan, "matmul_rate", lambda *arguments, **named: 10.0)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of small text files, each another text."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(24):
        lines = (f"Mill {i} of the river {i * j % 7} grinds {j} sacks, and {'flour ' * (j % 3)}falls." for j in range(2 + i % 3))
        (folder / f"mill{i}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def prepared(texts: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with `corpus` and `tokenizer`, made of `texts`."""
    from wordmill.corpus import CorpusConfig, build_corpus
    from wordmill.tokenizer import TokenizerConfig
    from wordmill.tokenizer.train import train_on_corpus

    folder = tmp_path_factory.mktemp("prepared")
    corpus = build_corpus([texts], folder / "corpus", CorpusConfig(validation=0.1))
    train_on_corpus(corpus, TokenizerConfig(vocab=280)).save(folder / "tokenizer")
    return folder
