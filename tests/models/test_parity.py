"""Every family against `transformers`: the same logits from the same weights, both ways, whatever the shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from wordmill.core.errors import ModelError
from wordmill.core.files import read_json, write_json
from wordmill.models.config import TransformerConfig
from wordmill.models.folder import load_model, save_model
from wordmill.models.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="parity tests need transformers")

QWEN3: dict[str, Any] = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                         "head_dim": 16, "intermediate_size": 80, "max_position_embeddings": 64,
                         "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}  # fmt: skip
GPT2: dict[str, Any] = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
THEIRS = [
    ("qwen3", {**QWEN3, "tie_word_embeddings": True}),
    ("qwen3", {**QWEN3, "tie_word_embeddings": False, "attention_bias": True, "rope_theta": 5e4}),
    ("qwen3", {**QWEN3, "tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ("llama", QWEN3),
    ("llama", {**QWEN3, "tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4}),
    ("gpt2", GPT2),
    ("gpt2", {**GPT2, "n_inner": 64, "activation_function": "relu", "tie_word_embeddings": False}),
]


def reference(kind: str, settings: dict[str, Any], folder: Path) -> Any:
    """A small random model made and saved by `transformers`; norms and biases are drawn too, so that none is trivially right."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if name.endswith("weight") else 0.0))
            else:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("kind", "settings"), THEIRS)
def test_logits_and_gradients_equal(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference(kind, settings, tmp_path)
    ours = load_model(tmp_path).requires_grad_(True)
    ids = torch.randint(2, 97, (3, 40))  # not the pad token: `transformers` keeps its gradient at zero
    expected = theirs(ids).logits
    got = ours.logits(ours(ids)[0])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    got.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(ours.embedding.weight.grad, theirs.get_input_embeddings().weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings"), THEIRS)
def test_the_way_back(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference(kind, settings, tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "ours")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    ids = torch.randint(0, 97, (2, 40))
    torch.testing.assert_close(again.eval()(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_sinusoidal_post_norm_relu_runs_forward_and_learns() -> None:
    """The Transformer of 2017 is one of the configs."""
    config = TransformerConfig(vocab_size=31, width=16, layers=2, heads=2, kv_heads=2, head_size=8, ffn_size=32, activation="relu",
                               gated=False, norm="layernorm", norm_position="post", qk_norm=False, positions="sinusoidal")  # fmt: skip
    model = Transformer(config)
    model.initialise(0, zero_outputs=False)
    hidden, _ = model(torch.arange(12)[None])
    model.logits(hidden).square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def make(folder: Path) -> Path:
    model = Transformer(TransformerConfig(vocab_size=31, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ffn_size=32))
    model.initialise(0)
    save_model(model, folder)
    return folder


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [("model_type", "bloom", "'bloom'"), ("frobnicate", 3, "frobnicate"), ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling"),
     ("hidden_act", "mish", "mish"), ("num_hidden_layers", 2, "lack"), ("intermediate_size", 40, "shape"),
     ("num_key_value_heads", 3, "multiple")],
)  # fmt: skip
def test_a_config_that_lies_is_an_error_that_names_it(setting: str, value: Any, words: str, tmp_path: Path) -> None:
    folder = make(tmp_path)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), setting: value})
    with pytest.raises(Exception, match=words) as caught:
        load_model(folder)
    assert caught.type.__mro__[1].__name__ == "WordmillError" or caught.type is ModelError


def test_a_torn_weights_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = make(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(missing: str, tmp_path: Path) -> None:
    (make(tmp_path) / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        load_model(tmp_path)
