"""The lean step for one row, in C and in PyTorch, against the full forward pass."""

from __future__ import annotations

import pytest
import torch

from wordmill.generate import decode, native
from wordmill.generate.decode import OneRow
from wordmill.generate.engine import Batch

CASES = {
    "qwen3": ("qwen3", {}),
    "windowed": ("qwen3-windowed", {}),
    "gpt2": ("gpt2", {}),
    "post-norm": ("qwen3", {"norm_position": "post", "norm": "layernorm", "positions": "sinusoidal", "attention_bias": True}),
    "plain": ("qwen3", {"qk_norm": False, "activation": "relu2", "gated": False, "logit_softcap": 5.0, "tie_embeddings": False}),
    "gelu": ("qwen3", {"activation": "gelu", "positions": "none", "head_size": 10}),
    "relu": ("qwen3", {"activation": "relu", "ffn_size": 130, "width": 70}),
}


def _worst(model, compiled: bool | None, tokens: int = 24) -> float:
    ids = [0, 5, 6, 7]
    with torch.inference_mode():
        batch = Batch(model, [ids], 24)
        batch.one = OneRow(model, batch.state, 4, 28, compiled=compiled)
        worst = 0.0
        for token in range(10, 10 + tokens):
            full = model.logits(model(torch.tensor([ids]))[0][:, -1])
            worst = max(worst, float((full - batch.logits).abs().max() / full.abs().max()))
            ids.append(token)
            batch.step([token])
    return worst


@pytest.mark.parametrize("compiled", [True, False], ids=["c", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_one_row_equals_the_full_forward(make_model, case, compiled):
    if compiled and isinstance(native.library(), str):
        pytest.skip(str(native.library()))
    shape, settings = CASES[case]
    model = make_model(shape, **settings)
    assert _worst(model, compiled) < 1e-5
    assert _worst(model.bfloat16(), compiled) < 0.1  # bfloat16 has 8 bits, and these weights are large


def test_threads_share_the_work(make_model, monkeypatch):
    if isinstance(native.library(), str):
        pytest.skip(str(native.library()))
    monkeypatch.setattr(decode, "WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert _worst(make_model("qwen3-windowed", layers=1), True, tokens=6) < 1e-5


def test_without_a_compiler_there_is_a_reason_and_the_torch_step(make_model, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = native.library.__wrapped__()
    assert found == "there is no C compiler (cc)"
    monkeypatch.setattr(native, "library", lambda: found)
    assert _worst(make_model(), None) < 1e-5


def test_a_compiler_that_fails_is_a_reason_too(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no luck >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert native.library.__wrapped__() == "the C compiler failed: no luck"
