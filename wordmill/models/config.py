"""The shape of a model, in names that no family owns. Families (models/families/) map these to Hugging Face's config.json and back."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from wordmill.core.config import Config

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "relu2"]


class TransformerConfig(Config):
    """One Transformer stack: a decoder when `causal`, an encoder otherwise."""

    family: str = "qwen3"
    """Whose config.json and weight names the model folder speaks."""
    vocab_size: int = 8192
    """Tokens in the vocabulary, special ones included."""
    width: int = 384
    """Size of the residual stream."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 6
    """Query heads a layer."""
    kv_heads: int = 6
    """Key/value heads a layer; fewer than `heads` shares each among several query heads (grouped queries)."""
    head_size: int = 64
    """Size of one head."""
    ffn_size: int = 1024
    """Inner size of the feed-forward part."""
    activation: Activation = "silu"
    """The non-linearity of the feed-forward part: ReLU, GELU (exact or by tanh), SiLU, or squared ReLU."""
    gated: bool = True
    """Whether the feed-forward part is gated (SwiGLU when the activation is silu)."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """The normalisation."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise the input of each part (pre) or the sum after it (post, as in 2017)."""
    norm_eps: float = 1e-6
    """Added to the variance inside the normalisation."""
    qk_norm: bool = True
    """RMSNorm on each head's queries and keys."""
    positions: Literal["rotary", "learned", "sinusoidal", "none"] = "rotary"
    """How the model knows where a token stands."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    max_positions: int = 2048
    """Longest context in tokens."""
    windows: tuple[int, ...] = (0,)
    """Attention window in tokens for each layer, cycled over the layers; 0 sees everything."""
    causal: bool = True
    """Whether a token sees only those before it."""
    attention_bias: bool = False
    """Biases on the query, key and value projections."""
    output_bias: bool = False
    """Bias on the attention's output projection."""
    ffn_bias: bool = False
    """Biases in the feed-forward part."""
    tie_embeddings: bool = True
    """Whether the output layer is the embedding."""
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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, not {self.head_size}")
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_size", "ffn_size", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")
        if not self.windows:
            raise ValueError("windows needs at least one entry (0 for no window)")
        return self


class RecurrentConfig(Config):
    """An LSTM or GRU language model."""

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
    tie_embeddings: bool = True
    """Whether the output layer is the embedding; with hidden_size ≠ embedding_size a projection stands between."""
    init_std: float = 0.05
    """Standard deviation of the initial embedding."""
    max_positions: int = 2**31 - 1
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
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")
        return self


ModelConfig = TransformerConfig | RecurrentConfig
