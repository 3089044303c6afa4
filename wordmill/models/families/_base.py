"""What a family is: two mappings of settings and one list of weight names. Data only; no family has code of its own elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig


@dataclass(frozen=True)
class Weight:
    """One of our tensors and the tensors of the family that it is made of.

    `theirs` are stacked along the first dimension, `sizes` rows each (one name: the whole tensor). `transpose`: the
    family stores (in, out) where we store (out, in).
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transpose: bool = False


@dataclass(frozen=True)
class Family:
    """How a `model_type` of Hugging Face maps to ours."""

    name: str
    """The `model_type`."""
    architecture: str
    """The class that `transformers` opens it with."""
    from_hf: Callable[[Mapping[str, Any]], dict[str, Any]]
    """config.json → values of `TransformerConfig`. Raises `ModelError` for a setting that we can't honour."""
    to_hf: Callable[[TransformerConfig], dict[str, Any]]
    """The way back: config.json's values, without `model_type` and `architectures`."""
    weights: Callable[[TransformerConfig], list[Weight]]
    """All weights but the output layer's, which follows from tying."""
    head: str = "lm_head.weight"
    """Their name of the output layer's weight."""
    prefix: str = "model."
    """What stands before every name but the head's; folders of the bare model lack it."""
    skip: tuple[str, ...] = ()
    """Endings of tensors in old files that hold no learned weights (masks, position ids)."""


ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
ACTIVATIONS_TO_HF = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu", "relu2": "relu2"}

COMMON = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "dtype",
        "torch_dtype",
        "model_type",
        "tie_word_embeddings",
        "transformers_version",
        "use_cache",
        "vocab_size",
        "initializer_range",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "is_encoder_decoder",
        "task_specific_params",
        "id2label",
        "label2id",
        "problem_type",
        "chunk_size_feed_forward",
        "torchscript",
        "attention_dropout",
        "pretraining_tp",
        "_attn_implementation_autoset",
    }
)
"""Settings that change nothing in how logits are computed, or are read for every family."""


def read(values: Mapping[str, Any], family: str, known: frozenset[str], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Check that every setting is known, and that those with one supported meaning have it.

    Raises `ModelError` that names the setting: a guess would be a silently different model.
    """
    for name, value in values.items():
        if name in fixed:
            if value not in fixed[name]:
                raise ModelError(
                    f"setting {name!r} = {value!r} is not supported for {family} (supported: {', '.join(map(repr, fixed[name]))})",
                    where="config.json",
                )
        elif name not in known and name not in COMMON:
            raise ModelError(
                f"unknown setting {name!r} for {family}", where="config.json", fix="Remove it if it does not change the computation"
            )


def activation(name: str, family: str) -> str:
    """Our name of an activation. Raises `ModelError` for one that we don't have."""
    if name not in ACTIVATIONS:
        raise ModelError(f"activation {name!r} is not supported", where=f"config.json ({family})")
    return ACTIVATIONS[name]


def tokens_from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """The special token ids; a list of end tokens is read as its first (the rest is generation_config.json's matter)."""
    eos = values.get("eos_token_id")
    return {
        "bos_id": values.get("bos_token_id"),
        "eos_id": eos[0] if isinstance(eos, list) and eos else eos,
        "pad_id": values.get("pad_token_id"),
    }


def tokens_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """The special token ids, as config.json has them."""
    return {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "pad_token_id": config.pad_id}
