"""The shape of a model, in names that no family owns. Families (models/families/) map these to Hugging Face's config.json and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from wordmill.core.config import Config

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "relu2", "quick_gelu", "tanh"]

UNLIMITED = 2**31 - 1
"""`max_positions` of a model that has no last position."""


class RotaryScaling(Config):
    """How rotary positions are stretched past the context that a model was first trained with."""

    kind: Literal["linear", "ntk", "yarn", "llama3"]
    """Linear: positions divided by `factor`; ntk: a larger base (low frequencies stretch, high ones stay); yarn (arXiv 2309.00071):
    each frequency by how often it turns in the first context; llama3: the same idea with other borders."""
    factor: float
    """How many times longer the context becomes."""
    first_context: int = 0
    """Tokens of the context before the stretching (yarn, llama3)."""
    fast: float = 32.0
    """Frequencies that turn more often than this within `first_context` stay as they are (yarn: 32, llama3: 4)."""
    slow: float = 1.0
    """Frequencies that turn less often than this are stretched in full (yarn and llama3: 1)."""
    attention: float | None = None
    """Factor on cosines and sines under yarn; None: 0.1·ln(factor) + 1."""
    round_borders: bool = True
    """Whether yarn's borders fall on whole frequencies."""


class TransformerConfig(Config):
    """One Transformer: a decoder when `causal`, an encoder otherwise; with `encoder_layers` an encoder–decoder."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), "width"),
        **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), "layers"),
        **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), "heads"),
        **dict.fromkeys(("num_key_value_heads", "n_kv_heads"), "kv_heads"),
        **dict.fromkeys(("intermediate_size", "d_ff", "n_inner"), "ffn_size"),
        **dict.fromkeys(("max_position_embeddings", "n_positions", "block_size"), "max_positions"),
        "head_dim": "head_size", "hidden_act": "activation", "activation_function": "activation", "tie_word_embeddings": "tie_embeddings",
    }  # fmt: skip

    family: str = "qwen3"
    """Whose config.json and weight names the model folder speaks."""
    vocab_size: int = 8192
    """Tokens in the vocabulary, special ones included."""
    width: int = 384
    """Size of the residual stream."""
    layers: int = 6
    """Number of blocks (of an encoder–decoder: of the decoder)."""
    heads: int = 6
    """Query heads a layer."""
    kv_heads: int = 6
    """Key/value heads a layer; fewer than `heads` shares each among several query heads (grouped queries)."""
    head_size: int = 64
    """Size of one head."""
    ffn_size: int = 1024
    """Inner size of the feed-forward part."""
    activation: Activation = "silu"
    """The non-linearity of the feed-forward part: ReLU, GELU (exact or by tanh), SiLU, squared ReLU, GELU by sigmoid, or tanh."""
    gated: bool = True
    """Whether the feed-forward part is gated (SwiGLU when the activation is silu)."""
    parallel: bool = False
    """Whether attention and feed-forward part read the same residual stream side by side instead of one after the other."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """The normalisation."""
    norm_bias: bool = True
    """Whether LayerNorm has a bias (RMSNorm never has one)."""
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    """Normalise the input of each part (pre), the sum after it (post, as in 2017), or both the part's input and its output (sandwich)."""
    first_norm: bool = True
    """Whether the first block normalises its attention's input; False leaves that to `embedding_norm`."""
    embedding_norm: bool = False
    """Whether the embeddings (positions and token types added) are normalised."""
    norm_eps: float = 1e-6
    """Added to the variance inside the normalisation."""
    qk_norm: bool = True
    """RMSNorm on each head's queries and keys."""
    positions: Literal["rotary", "learned", "sinusoidal", "relative", "none"] = "rotary"
    """How the model knows where a token stands; relative: a learned number a head for each
    range of distances, shared by all layers (T5)."""
    position_offset: int = 0
    """Rows of the learned positions before the one of the first token (RoBERTa and BART start late)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_local_theta: float | None = None
    """Base of the rotary frequencies in layers with a window, which are then never scaled; None: as everywhere."""
    rope_scaling: RotaryScaling | None = None
    """How rotary positions are stretched; None: not at all."""
    rope_share: float = 1.0
    """Share of each head that rotary positions turn; the rest stays."""
    relative_buckets: int = 32
    """Ranges of distances that relative positions tell apart."""
    relative_distance: int = 128
    """Distance in tokens from which on all are one range."""
    max_positions: int = 2048
    """Longest context in tokens."""
    token_types: int = 0
    """Kinds of tokens with an embedding of their own (BERT's first and second sentence); 0: none."""
    embedding_scale: float | None = None
    """Factor on the token embedding; None: √width with sinusoidal positions (as in 2017), else 1."""
    windows: tuple[int, ...] = (0,)
    """Attention window in tokens for each layer, cycled over the layers; 0 sees everything. A causal token sees itself and the
    window − 1 before it, one of an encoder also the window − 1 after it."""
    causal: bool = True
    """Whether a token sees only those before it."""
    attention_scale: float | None = None
    """Factor on the products of queries and keys; None: 1/√head_size."""
    attention_softcap: float = 0.0
    """Squash attention scores to ± this (0: off)."""
    attention_bias: bool = False
    """Biases on the query, key and value projections."""
    output_bias: bool = False
    """Bias on the attention's output projection."""
    ffn_bias: bool = False
    """Biases in the feed-forward part."""
    encoder_layers: int = 0
    """Blocks of a separate encoder, whose output the decoder reads by cross-attention; 0: none."""
    encoder_heads: int | None = None
    """Query heads of the separate encoder; None: as the decoder."""
    encoder_ffn_size: int | None = None
    """Inner size of the separate encoder's feed-forward part; None: as the decoder."""
    lm_head: bool = True
    """Whether there is an output layer; folders of bare encoders have none."""
    tie_embeddings: bool = True
    """Whether the output layer is the embedding."""
    head_bias: bool = False
    """Bias on the output layer."""
    head_transform: bool = False
    """Whether a dense layer, an activation and a norm stand before the output layer (masked language models)."""
    head_transform_bias: bool = True
    """Bias on that dense layer."""
    head_activation: Activation = "gelu"
    """The non-linearity after that dense layer."""
    head_scale: float = 1.0
    """Factor on what the output layer reads (T5 with tied embeddings: 1/√width)."""
    pooler: bool = False
    """Whether a dense layer with tanh reads the first token's state (BERT): what classification starts from."""
    logit_softcap: float = 0.0
    """Squash logits to ± this (0: off)."""
    dropout: float = 0.0
    """Share of activations dropped in training, on the embedding and on each part's output."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""
    embedding_std: float | None = None
    """Standard deviation of the initial token embedding; None: `init_std`."""
    bos_id: int | None = 0
    """Token that starts a document."""
    eos_id: int | None = 0
    """Token that ends a document."""
    pad_id: int | None = 1
    """Token that fills up a batch."""
    decoder_start_id: int | None = None
    """Token that a decoder with a separate encoder starts from."""

    @property
    def kind(self) -> Literal["decoder", "encoder", "encoder-decoder"]:
        """What the whole model is."""
        if self.encoder_layers:
            return "encoder-decoder"
        return "decoder" if self.causal else "encoder"

    def encoder(self) -> TransformerConfig:
        """The shape of the separate encoder: an encoder of its own, without embedding and output layer."""
        heads = self.encoder_heads or self.heads
        sizes = {"layers": self.encoder_layers, "heads": heads, "kv_heads": self.kv_heads if heads == self.heads else heads,
                 "head_size": self.head_size * self.heads // heads, "ffn_size": self.encoder_ffn_size or self.ffn_size}  # fmt: skip
        return self.replace(**sizes, causal=False, token_types=0, encoder_layers=0, encoder_heads=None, encoder_ffn_size=None)

    @field_validator("windows", mode="before")
    @classmethod
    def _counted(cls, windows: Any) -> Any:
        if isinstance(windows, list | tuple) and None in windows:
            raise ValueError("a window is a number of tokens; a layer without one has 0")
        return windows

    def window(self, layer: int) -> int:
        """The attention window of a layer; 0 sees everything."""
        return self.windows[layer % len(self.windows)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads}), those for keys and values: set both")
        turned = int(self.head_size * self.rope_share)
        if self.positions == "rotary" and (turned % 2 or not 2 <= turned <= self.head_size):
            raise ValueError(f"rotary positions turn an even number of a head's entries, not {turned} of {self.head_size}")
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_size", "ffn_size", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")
        if not self.windows:
            raise ValueError("windows needs at least one entry (0 for no window)")
        if self.encoder_layers and not self.causal:
            raise ValueError("encoder_layers makes an encoder–decoder, whose decoder must be causal")
        if self.encoder_heads and self.head_size * self.heads % self.encoder_heads:
            raise ValueError(f"encoder_heads ({self.encoder_heads}) must divide heads · head_size ({self.head_size * self.heads})")
        if self.norm_position == "post" and self.parallel:
            raise ValueError("parallel blocks normalise their input: norm_position must be pre or sandwich")
        if not self.first_norm and self.norm_position == "post":
            raise ValueError("first_norm=false needs norm_position pre or sandwich: post normalises no input")
        return self


class RecurrentConfig(Config):
    """An LSTM or GRU language model."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("width", "n_embd", "d_model", "nhid"), "hidden_size"),
        **dict.fromkeys(("num_layers", "n_layer", "nlayers", "num_hidden_layers"), "layers"),
        **dict.fromkeys(("embedding_dim", "embed_dim", "emsize"), "embedding_size"),
    }
    """What these settings are called in other places."""
    family: str = "wordmill-recurrent"
    """The `model_type` of its folder; Hugging Face has no class for it."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell."""
    vocab_size: int = 8192
    """Tokens in the vocabulary, special ones included."""
    embedding_size: int = 512
    """Size of a token's embedding."""
    hidden_size: int = 512
    """Size of each layer's state."""
    layers: int = 2
    """Recurrent layers, one on top of the other."""
    dropout: float = 0.0
    """Share of activations dropped in training: after the embedding, between layers and before the output layer."""
    token_dropout: float = 0.0
    """Share of tokens that are not seen in training: their whole embedding is dropped (Gal and Ghahramani 2016, arXiv 1512.05287)."""
    bidirectional: bool = False
    """Whether each layer reads the text in both directions: for labelling texts, and for saying what is hidden in them; such a model
    predicts no next token."""
    lm_head: bool = True
    """Whether there is an output layer over the vocabulary."""
    tie_embeddings: bool = True
    """Whether the output layer is the embedding; where a state's size isn't embedding_size, a projection stands between."""
    init_std: float = 0.3
    """Standard deviation of the initial embedding. With a smaller one the gates see next to nothing of a token, and learning stands still
    at how often each token occurs (docs/log.md)."""
    max_positions: int = UNLIMITED
    """Longest context in tokens: the state carries on for ever."""
    bos_id: int | None = 0
    """Token that starts a document."""
    eos_id: int | None = 0
    """Token that ends a document."""
    pad_id: int | None = 1
    """Token that fills up a batch."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("vocab_size", "embedding_size", "hidden_size", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1)")
        return self

    @property
    def kind(self) -> Literal["recurrent", "encoder"]:
        """What the whole model is."""
        return "encoder" if self.bidirectional else "recurrent"

    @property
    def causal(self) -> bool:
        """Whether a token's state knows only what stands before it."""
        return not self.bidirectional

    @property
    def width(self) -> int:
        """Size of a token's state in the last layer, both directions together."""
        return self.hidden_size * (1 + self.bidirectional)


ModelConfig = TransformerConfig | RecurrentConfig
