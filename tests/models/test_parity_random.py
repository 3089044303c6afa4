"""Shapes and settings drawn at random, for every family: whatever its config.json can say, the logits are those of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.models.reference import IDS, VOCABULARY, auto_class, build, run_ours, run_theirs, tokens
from wordmill.models.folder import load_model, save_model
from wordmill.models.transformer import Transformer

Draw = Callable[[st.SearchStrategy[Any]], Any]
ACTIVATIONS = st.sampled_from(["relu", "gelu", "gelu_new", "silu", "gelu_pytorch_tanh", "relu2", "quick_gelu", "tanh"])
EPS = st.sampled_from([1e-12, 1e-6, 1e-5, 1e-2])
WINDOW = st.sampled_from([None, 1, 9])


def heads(draw: Draw) -> tuple[int, int]:
    """(heads, size of one)."""
    return draw(st.sampled_from([(1, 16), (2, 8), (4, 6), (6, 4)]))


def rope(draw: Draw, longest: int) -> dict[str, Any]:
    theta = draw(st.sampled_from([100.0, 1e4, 1e6]))
    first = draw(st.sampled_from([16, longest]))
    return draw(st.sampled_from([
        {"rope_type": "default", "rope_theta": theta},
        {"rope_type": "linear", "rope_theta": theta, "factor": 2.5},
        {"rope_type": "llama3", "rope_theta": theta, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": first},
        {"rope_type": "yarn", "rope_theta": theta, "factor": 4.0, "original_max_position_embeddings": first},
        {"rope_type": "yarn", "rope_theta": theta, "factor": 4.0, "original_max_position_embeddings": first, "beta_fast": 8.0,
         "beta_slow": 2.0, "attention_factor": 1.1},
    ]))  # fmt: skip


def llama_like(draw: Draw, *, own_size: bool = True, scaled: bool = True) -> dict[str, Any]:
    count, size = heads(draw)
    values = {
        "hidden_size": count * size, "num_hidden_layers": draw(st.integers(1, 3)), "num_attention_heads": count,
        "num_key_value_heads": draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0])),
        "intermediate_size": draw(st.integers(3, 50)), "max_position_embeddings": 64, "rms_norm_eps": draw(EPS),
        "tie_word_embeddings": draw(st.booleans()), "rope_parameters": rope(draw, 64) if scaled else None,
    }  # fmt: skip
    values |= {"head_dim": draw(st.sampled_from([size, 10]))} if own_size else {}
    return {**values, "hidden_act": draw(ACTIVATIONS)}


def gemma(draw: Draw) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    caps, kinds = st.sampled_from([None, 1.5, 30.0]), st.sampled_from(["sliding_attention", "full_attention"])
    return {**llama_like(draw), "num_hidden_layers": layers, "hidden_activation": draw(ACTIVATIONS),
            "sliding_window": draw(st.integers(1, 30)), "layer_types": draw(st.lists(kinds, min_size=layers, max_size=layers)),
            "query_pre_attn_scalar": draw(st.integers(1, 40)), "attn_logit_softcapping": draw(caps), "final_logit_softcapping": draw(caps),
            "attention_bias": draw(st.booleans())}  # fmt: skip


def qwen(draw: Draw, **kept: Any) -> dict[str, Any]:
    windowed = draw(st.booleans())
    return {**llama_like(draw, **kept), "use_sliding_window": windowed, "sliding_window": draw(st.integers(1, 30)) if windowed else None,
            "max_window_layers": draw(st.integers(0, 3))}  # fmt: skip


def bert(draw: Draw, offset: int = 0) -> dict[str, Any]:
    count, size = heads(draw)
    return {"hidden_size": count * size, "num_hidden_layers": draw(st.integers(1, 3)), "num_attention_heads": count,
            "intermediate_size": draw(st.integers(3, 50)), "hidden_act": draw(ACTIVATIONS), "max_position_embeddings": 40 + offset,
            "type_vocab_size": draw(st.integers(1, 3)), "layer_norm_eps": draw(EPS)}  # fmt: skip


def modernbert(draw: Draw) -> dict[str, Any]:
    flags = ("norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias", "tie_word_embeddings")
    shared = {name: value for name, value in bert(draw).items() if name not in ("hidden_act", "type_vocab_size", "layer_norm_eps")}
    return {**shared, **{name: draw(st.booleans()) for name in flags}, "norm_eps": draw(EPS), "hidden_activation": draw(ACTIVATIONS),
            "classifier_activation": draw(ACTIVATIONS), "local_attention": draw(st.integers(2, 40)),
            "global_attn_every_n_layers": draw(st.integers(1, 3))}  # fmt: skip


def t5(draw: Draw) -> dict[str, Any]:
    count, size = heads(draw)
    kinds = ["relu", "gated-gelu", "gated-silu", "gelu", "silu"]
    return {"d_model": draw(st.sampled_from([12, 24])), "d_kv": size, "num_heads": count, "d_ff": draw(st.integers(3, 50)),
            "num_layers": draw(st.integers(1, 3)), "num_decoder_layers": draw(st.integers(1, 3)),
            "feed_forward_proj": draw(st.sampled_from(kinds)),
            "relative_attention_num_buckets": draw(st.sampled_from([4, 8, 32])), "layer_norm_epsilon": draw(EPS),
            "relative_attention_max_distance": draw(st.sampled_from([20, 128])), "tie_word_embeddings": draw(st.booleans())}  # fmt: skip


def bart(draw: Draw) -> dict[str, Any]:
    counts = st.sampled_from([1, 2, 4])
    return {"d_model": draw(st.sampled_from([16, 24])), "encoder_layers": draw(st.integers(1, 3)),
            "decoder_layers": draw(st.integers(1, 3)),
            "encoder_attention_heads": draw(counts), "decoder_attention_heads": draw(counts), "encoder_ffn_dim": draw(st.integers(3, 50)),
            "decoder_ffn_dim": draw(st.integers(3, 50)), "activation_function": draw(ACTIVATIONS), "scale_embedding": draw(st.booleans()),
            "max_position_embeddings": 64}  # fmt: skip


def gpt2(draw: Draw) -> dict[str, Any]:
    count, size = heads(draw)
    return {"n_embd": count * size, "n_head": count, "n_layer": draw(st.integers(1, 3)), "n_positions": 64, "layer_norm_epsilon": draw(EPS),
            "n_inner": draw(st.sampled_from([None, 30])), "activation_function": draw(ACTIVATIONS),
            "tie_word_embeddings": draw(st.booleans())}  # fmt: skip


def distilbert(draw: Draw) -> dict[str, Any]:
    count, size = heads(draw)
    return {"dim": count * size, "n_heads": count, "n_layers": draw(st.integers(1, 3)), "hidden_dim": draw(st.integers(3, 50)),
            "activation": draw(ACTIVATIONS), "max_position_embeddings": 40, "tie_word_embeddings": draw(st.booleans())}  # fmt: skip


DRAWS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "gpt2": gpt2,
    "llama": lambda draw: {**llama_like(draw), "attention_bias": draw(st.booleans())},
    "starcoder2": lambda draw: {**llama_like(draw, own_size=False), "use_bias": draw(st.booleans()), "sliding_window": draw(WINDOW)},
    "mistral": lambda draw: {**llama_like(draw), "sliding_window": draw(WINDOW)},
    "qwen2": lambda draw: qwen(draw, own_size=False),
    "qwen3": lambda draw: {**qwen(draw), "attention_bias": draw(st.booleans())},
    "phi3": lambda draw: {**llama_like(draw, own_size=False, scaled=False), "sliding_window": draw(st.sampled_from([None, 9])),
                          "original_max_position_embeddings": 64},
    "gemma2": gemma,
    "gemma3_text": lambda draw: {**gemma(draw), "attn_logit_softcapping": None,  # which `transformers` ignores
                                 "rope_parameters": {"full_attention": rope(draw, 64),
                                                     "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}},
    "bert": bert,
    "roberta": lambda draw: bert(draw, 2),
    "xlm-roberta": lambda draw: bert(draw, 2),
    "distilbert": distilbert,
    "modernbert": modernbert,
    "t5": t5,
    "mt5": t5,
    "bart": bart,
    "mbart": bart,
}  # fmt: skip


@pytest.mark.parametrize("kind", DRAWS)
@settings(max_examples=6, phases=(Phase.generate,), deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_settings(kind: str, data: st.DataObject) -> None:
    values = {**DRAWS[kind](data.draw), "vocab_size": VOCABULARY, **IDS, "decoder_start_token_id": 2}
    if auto_class(kind).__name__ != "AutoModelForSeq2SeqLM":
        del values["decoder_start_token_id"]
    with TemporaryDirectory() as name:
        theirs = build(kind, values, Path(name), seed=data.draw(st.integers(0, 99)))
        ours = load_model(name)
        assert isinstance(ours, Transformer)
        save_model(ours, Path(name, "again"))
        assert load_model(Path(name, "again")).config == ours.config
        again, info = auto_class(kind).from_pretrained(Path(name, "again"), output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    length = data.draw(st.integers(1, 38))
    ids, source = tokens(2, length), tokens(2, data.draw(st.integers(1, 30)), seed=1) if ours.config.encoder_layers else None
    # In float64, since float32 models of some draws round by more than what is to be told apart here.
    ours.double(), theirs.double(), again.double()
    with torch.no_grad():
        expected = run_theirs(theirs, ids, source=source).logits
        for got in (run_ours(ours, ids, source=source)[0], run_theirs(again.eval(), ids, source=source).logits):
            torch.testing.assert_close(got, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)
