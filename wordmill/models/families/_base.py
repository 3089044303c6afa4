"""What a family is: two mappings of settings and one list of weight names. Data only; no family has code of its own elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wordmill.core.errors import ModelError
from wordmill.models.config import TransformerConfig


@dataclass(frozen=True)
class Weight:
    """One of our tensors and the tensors of the family that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    """Stacked along the first dimension, `sizes` rows each (one name: the whole tensor)."""
    sizes: tuple[int, ...] = ()
    transpose: bool = False
    """Whether the family stores (in, out) where we store (out, in)."""
    shift: float = 0.0
    """Ours = theirs + shift (Gemma stores a norm's weight less 1). Kept in float32, where nothing is lost by it."""
    leading: bool = False
    """Whether theirs has one more dimension, of 1, in front."""
    optional: bool = False
    """Whether it may be absent, and is zero then."""


@dataclass(frozen=True)
class Head:
    """What a class of `transformers` puts on a model for a task, and how its weights are called: (dense, activation, (norm,)) output."""

    architecture: str
    """The class that `transformers` opens the folder with."""
    out: str = "classifier"
    """Their name of the output layer."""
    out_bias: bool = True
    """Whether the output layer has a bias."""
    dense: str = ""
    """Their name of the layer before it; none if empty."""
    dense_bias: bool = True
    """Whether that layer has a bias."""
    activation: str = "tanh"
    """The non-linearity after that layer (our name)."""
    norm: str = ""
    """Their name of the norm after that; none if empty."""
    reads: Literal["first", "last", "mean"] = "first"
    """Which token's state stands for a whole text; the heads that speak of each token read all."""
    prefix: str = ""
    """What stands before the names of the model's own weights, beyond what always does."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further values of config.json."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Our parts of the pretrained model that its own parts start from: dense or norm → head_dense, head_norm or pooler."""


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
    weights: Callable[[TransformerConfig], list[Weight]] | None
    """All weights but the output layer's, which follows from tying; None: the names are our own."""
    parts: Mapping[str, Any]
    """The settings of ours that make a model one of this family, whatever its size: what a model from scratch starts from."""
    by_width: Callable[[int], dict[str, Any]] = lambda width: {}
    """Further settings that follow from the width."""
    grouped: bool = False
    """Whether query heads may share keys and values: wide models from scratch then have fewer of these."""
    bare: str = ""
    """The class of a folder without an output layer."""
    head: str = "lm_head.weight"
    """Their name of the output layer's weight."""
    prefix: str = "model."
    """What stands before every name but the output layer's; folders of the bare model lack it."""
    pooler: str = ""
    """Their name of the pooler's weight, where there may be one."""
    copies: tuple[tuple[str, str], ...] = ()
    """(name, of what): tensors that some folders hold a second time. When tied, the output layer's weight is one without being listed."""
    renames: tuple[tuple[str, str], ...] = ()
    """(ending, its name today) of old files."""
    skip: tuple[str, ...] = ()
    """Endings of tensors in old files that hold no learned weights (masks, position ids)."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """For `sequence` (one answer a text), `token` (one a token) and `span` (where an answer begins and ends) the head that
    `transformers` has a class for."""
    unused: tuple[str, ...] = ()
    """Endings of learned tensors that our model has no part for; they are counted and named when a folder is loaded."""


ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
}
ACTIVATIONS_TO_HF = {name: name for name in ("relu", "gelu", "silu", "relu2", "quick_gelu", "tanh")} | {"gelu_tanh": "gelu_pytorch_tanh"}

COMMON = frozenset(
    """
    _name_or_path architectures auto_map bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id dtype
    torch_dtype model_type tie_word_embeddings transformers_version use_cache cache_implementation vocab_size initializer_range
    output_attentions output_hidden_states return_dict is_encoder_decoder task_specific_params id2label label2id num_labels _num_labels
    problem_type chunk_size_feed_forward torchscript attention_dropout pretraining_tp _attn_implementation_autoset gradient_checkpointing
    classifier_dropout classifier_pooling finetuning_task tokenizer_class output_past tie_encoder_decoder tf_legacy_loss use_bfloat16 prefix
    decoder_start_token_id forced_bos_token_id forced_eos_token_id max_length min_length num_beams early_stopping length_penalty
    no_repeat_ngram_size do_sample temperature top_k top_p repetition_penalty
    """.split()
)
"""Settings that change nothing in how logits are computed, or are read for every family (`classifier_pooling` where there is a head)."""


SIZES = frozenset(
    """
    hidden_size num_hidden_layers num_attention_heads intermediate_size n_embd n_layer n_head dim n_layers n_heads hidden_dim d_model d_kv
    d_ff num_layers num_heads encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim decoder_ffn_dim
    """.split()
)
"""Settings that are whole numbers above 0 wherever they stand."""


def read(values: Mapping[str, Any], family: str, known: frozenset[str], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Check that every setting is known, and that those with one supported meaning have it.

    Raises `ModelError` that names the setting: a guess would be a silently different model.
    """
    fixed = {"is_decoder": (False,), "add_cross_attention": (False,), "pruned_heads": ({}, None), **fixed}
    for name, value in values.items():
        if name in fixed:
            if value not in fixed[name]:
                raise ModelError(
                    f"setting {name!r} = {value!r} is not supported for {family} (supported: {', '.join(map(repr, fixed[name]))})",
                    where="config.json",
                )
        elif name in SIZES and name in known and (not isinstance(value, int) or value < 1):
            raise ModelError(f"setting {name!r} must be a whole number above 0, not {value!r}", where=f"config.json ({family})")
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
        "decoder_start_id": values.get("decoder_start_token_id"),
    }


def tokens_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """The special token ids, as config.json has them."""
    ids = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "pad_token_id": config.pad_id}
    return ids if config.decoder_start_id is None else {**ids, "decoder_start_token_id": config.decoder_start_id}


def windows(values: Mapping[str, Any], kinds: Sequence[str], window: int | None, where: str) -> tuple[int, ...]:
    """The window of each layer from `layer_types` (by default `kinds`). Raises `ModelError` for a kind of layer that we don't have."""
    kinds = values.get("layer_types") or kinds
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(f"layer type {kind!r} is not supported", where=f"config.json ({where})")
        if kind == "sliding_attention" and not window:
            raise ModelError("layer_types names sliding attention, and no window is given", where=f"config.json ({where})")
    found = tuple((window or 0) if kind == "sliding_attention" else 0 for kind in kinds)
    return found if len(set(found)) > 1 else found[:1]


def layer_types(config: TransformerConfig) -> list[str]:
    """Each layer's kind, as `layer_types` has it."""
    return ["sliding_attention" if config.window(layer) else "full_attention" for layer in range(config.layers)]


def same_window(config: TransformerConfig) -> int | None:
    """The window of all layers; None without any. Raises `ModelError` where some have one and some have none, or for several sizes."""
    if len({bool(config.window(layer)) for layer in range(config.layers)}) > 1:
        raise ModelError(f"{config.family} has one window for all layers", where="windows")
    return one_window(config)


def one_window(config: TransformerConfig) -> int | None:
    """The one window that windowed layers have; None without any. Raises `ModelError` for several: no family can say that."""
    found = {config.window(layer) for layer in range(config.layers)} - {0}
    if len(found) > 1:
        raise ModelError(f"{config.family} can't have windows of several sizes ({sorted(found)})", where="windows")
    return found.pop() if found else None
