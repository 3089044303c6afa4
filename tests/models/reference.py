"""Small random models made and saved by `transformers`, one or more a family, for the parity tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from wordmill.models.folder import load_model
from wordmill.models.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="parity tests need transformers")

VOCABULARY = 97
IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
LLAMA: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 80, "max_position_embeddings": 64,
                         **IDS}  # fmt: skip
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"}
PHI3 = {**QWEN2, "original_max_position_embeddings": 64}
GEMMA = {**LLAMA, "sliding_window": 5, "query_pre_attn_scalar": 20}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, **IDS}
BERT = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
        "max_position_embeddings": 66, **IDS}  # fmt: skip
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80, "max_position_embeddings": 64, **IDS}
MODERNBERT = {**BERT, "num_hidden_layers": 4, "local_attention": 8}
T5 = {"vocab_size": VOCABULARY, "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
      "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "pad_token_id": 1,
      "decoder_start_token_id": 1}  # fmt: skip
BART = {"vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 80, "max_position_embeddings": 64, **IDS}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied": ("gpt2", {**GPT2, "n_inner": 64, "activation_function": "relu", "tie_word_embeddings": False}),
    "llama": ("llama", LLAMA),
    "llama tied, biases": ("llama", {**LLAMA, "tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4}),
    "llama 3": ("llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "llama linear": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 7}),
    "mistral without window": ("mistral", {**LLAMA, "sliding_window": None}),
    "qwen2": ("qwen2", QWEN2),
    "qwen2 windowed, yarn": ("qwen2", {**QWEN2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
                                       "rope_parameters": YARN}),
    "qwen3": ("qwen3", {**LLAMA, "tie_word_embeddings": True}),
    "qwen3 biases": ("qwen3", {**LLAMA, "attention_bias": True, "rope_theta": 5e4}),
    "qwen3 windowed": ("qwen3", {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "phi3": ("phi3", {**PHI3, "sliding_window": 9}),
    "phi3 partly turned": ("phi3", {**PHI3, "hidden_size": 64, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}),
    "starcoder2": ("starcoder2", {**QWEN2, "hidden_act": "gelu_pytorch_tanh", "sliding_window": 9}),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3_text": ("gemma3_text", {**GEMMA, "num_hidden_layers": 7}),
    "bert": ("bert", BERT),
    "roberta": ("roberta", {**BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("xlm-roberta", {**BERT, "type_vocab_size": 1, "hidden_act": "gelu_new"}),
    "distilbert": ("distilbert", DISTILBERT),
    "modernbert": ("modernbert", MODERNBERT),
    "modernbert biases": ("modernbert", {**MODERNBERT, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True,
                                         "tie_word_embeddings": False, "global_attn_every_n_layers": 2}),
    "t5 1.0": ("t5", {**T5, "feed_forward_proj": "relu"}),
    "t5 1.1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", T5),
    "bart": ("bart", BART),
    "mbart": ("mbart", {**BART, "scale_embedding": True, "decoder_start_token_id": 2}),
}  # fmt: skip
"""Every family, in the shapes that its settings can give it. A new family adds a line."""


def auto_class(kind: str) -> Any:
    """The class of `transformers` that opens a family's whole model."""
    if kind in ("t5", "mt5", "bart", "mbart"):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForMaskedLM if "bert" in kind else transformers.AutoModelForCausalLM


def build(kind: str, settings: dict[str, Any], folder: Path, *, seed: int = 0) -> Any:
    """A model made and saved by `transformers`; norms and biases are drawn too, so that none is trivially right."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = auto_class(kind).from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n == "final_logits_bias")]:
            if tensor.ndim == 1 or tensor.shape[0] == 1:
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") and "gemma" not in kind else 0.0
                tensor.copy_(torch.randn_like(tensor) * 0.3 + centre)
            else:
                t5, words = "t5" in kind, tensor.shape[0] == VOCABULARY  # T5 scales its logits down, and not its scores
                tensor.copy_(torch.randn_like(tensor) * ((0.3 if t5 else 0.08) if words else (0.08 if t5 else 0.15)))
    model.save_pretrained(folder)
    return model.eval()


@cache
def pair(case: str) -> tuple[Any, Transformer, Path]:
    """(their model, ours loaded from its folder, the folder)."""
    kind, settings = CASES[case]
    folder = Path(mkdtemp(prefix="wordmill-parity-"))
    theirs = build(kind, settings, folder)
    ours = load_model(folder)
    assert isinstance(ours, Transformer)
    return theirs, ours, folder


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random ids without the pad token, whose gradient `transformers` keeps at zero."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def run_theirs(model: Any, ids: Tensor, mask: Tensor | None = None, source: Tensor | None = None, source_mask: Tensor | None = None) -> Any:
    """Their output with all hidden states; positions count real tokens from 0."""
    if source is not None:
        return model(
            input_ids=source, attention_mask=source_mask, decoder_input_ids=ids, decoder_attention_mask=mask, output_hidden_states=True
        )
    extra: dict[str, Any] = {}
    if mask is not None:
        extra = {"attention_mask": mask}
        if model.config.model_type in ("bert", "distilbert", "modernbert") or "bert" not in model.config.model_type:
            extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return model(ids, output_hidden_states=True, **extra)


def run_ours(
    model: Transformer, ids: Tensor, mask: Tensor | None = None, source: Tensor | None = None, source_mask: Tensor | None = None
) -> Any:
    """(logits, hidden states, the encoder's hidden states or None)."""
    positions, encoder, memory = places(mask), None, None
    if source is not None:
        memory = model.encode(source, places(source_mask))
        encoder = model.hidden_states(source, places(source_mask), source=True)
    states = model.hidden_states(ids, positions, memory=memory)
    return model.logits(states[-1]), states, encoder


def places(mask: Tensor | None) -> Tensor | None:
    """Positions from a mask: real tokens counted from 0, −1 at padding."""
    return None if mask is None else torch.where(mask > 0, mask.cumsum(1) - 1, -1)
