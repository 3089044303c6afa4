"""Small things that many tests need: a tokenizer of our own text, and models with weights that do something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

TEXT = (
    "The mill stands by the river, and the river never asks where the grain came from.\n"
    "Every morning the miller counts his sacks: one, two, three, and then he forgets.\n"
    "def grind(grain):\n    return [flour for flour in grain if flour]\n"
    "磨坊在河边，河水从不问谷物从哪里来。早上，磨坊主数着他的口袋。\n"
    "Ночью мельница молчит. 🌾 Naïve façade, déjà vu.\n"
)

GPT2 = {
    "family": "gpt2", "norm": "layernorm", "norm_eps": 1e-5, "activation": "gelu_tanh", "gated": False, "qk_norm": False, "positions": "learned",
    "attention_bias": True, "output_bias": True, "ffn_bias": True,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"kv_heads": 2},
    "qwen3-windowed": {"kv_heads": 2, "windows": (0, 5)},
    "gpt2": GPT2,
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
}
"""Model shapes by name, for `make_model`."""


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
