"""The Transformer: one module for every family, its parts named by `TransformerConfig`.

    tokens ─ embedding ─ [ norm ─ attention ─ + ─ norm ─ feed-forward ─ + ] × layers ─ norm ─ hidden ─ output layer ─ logits

    source ─ embedding ─ [ the same, seeing both ways ] × encoder_layers ─ memory      (an encoder–decoder: every block
                                                          above has one more part, which reads the memory)

Shapes: B batch, T tokens, S source tokens, D width, H query heads, K head size, V vocabulary.
A position of −1 marks padding. The same call trains, scores and decodes: `hidden, state = model(ids, positions, …)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wordmill.core.errors import UsageError
from wordmill.models import masks
from wordmill.models.blocks import ACTIVATIONS, Block, Linear, Norm
from wordmill.models.cache import KVCache
from wordmill.models.config import TransformerConfig
from wordmill.models.masks import Memory, View
from wordmill.models.ops import dropout, picked, rotary_table
from wordmill.models.positions import distance_buckets, rotary_rates, sinusoids


class Stack(nn.Module):
    """Blocks with what stands before and after them: positions, token types, norms. `tokens`: also an embedding of that many."""

    def __init__(self, config: TransformerConfig, tokens: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether training keeps only what goes into each block, and computes the rest again in the backward pass."""
        self.uniform = False
        """Whether all blocks get tensors of one shape, however few states are wanted: compiled ones are made for it."""
        if tokens:
            self.embedding = nn.Embedding(tokens, config.width)
        learned = config.max_positions + config.position_offset if config.positions == "learned" else 0
        self.position_embedding = nn.Embedding(learned, config.width) if learned else None
        self.type_embedding = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.relative_bias = nn.Embedding(config.relative_buckets, config.heads) if config.positions == "relative" else None
        self.embedding_norm = Norm(config.width, config.norm, config.norm_eps, bias=config.norm_bias) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        final = config.norm_position != "post"
        self.norm = Norm(config.width, config.norm, config.norm_eps, bias=config.norm_bias) if final else None

    def embed(self, x: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D) as the first block reads them."""
        if self.type_embedding is not None:
            x = x + (self.type_embedding.weight[0] if types is None else self.type_embedding(types))
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions.clamp(min=0) + self.config.position_offset)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoids(positions, self.config.width).to(x.dtype)
        return x if self.embedding_norm is None else self.embedding_norm(x)  # type: ignore[no-any-return]

    def run(self, x: Tensor, view: View, states: list[Tensor] | None = None, only: Tensor | None = None) -> Tensor:
        """(B, T, D) through all blocks. `states` receives what goes into each of them, and the result. `only` (N,): the states of these
        places alone, (N, D); what comes after the last block's attention is not done for the others."""
        x = dropout(x, self.config.dropout, self.training)
        again = self.recompute and self.training and view.cache is None and torch.is_grad_enabled()
        early = not self.uniform and not self.config.encoder_layers
        for block in self.blocks:
            if states is not None:
                states.append(x)
            wanted = only if early and block is self.blocks[-1] else None
            # The random state is kept with what goes in, so that dropout drops the same places again.
            x = checkpoint(block, x, view, wanted, use_reentrant=False) if again else block(x, view, wanted)
        x = x if early else picked(x, only)
        x = x if self.norm is None else self.norm(x)
        if states is not None:
            states.append(x)
        return x

    def set_dropout(self, share: float) -> None:
        """Drop another share of activations while training."""
        self.config = self.config.replace(dropout=share)
        for block in self.blocks:
            block.dropout = share

    def _view(
        self, positions: Tensor, documents: Tensor | None, cache: KVCache | None, dtype: torch.dtype, prefix: Tensor | None = None
    ) -> View:
        config, shape = self.config, positions.shape
        documents = None if cache is not None else masks.apart(positions, documents, config.causal)
        weight = self.blocks[0].attention.qkv.weight
        stretches = masks.stretches(config, documents, shape, weight) if cache is None and prefix is None else None
        windows = set(config.windows)
        biases = (
            {} if stretches is not None else {w: masks.self_bias(config, w, positions, documents, cache, dtype, prefix) for w in windows}
        )
        if self.relative_bias is not None:
            bias = self._relative(positions, cache)
            biases = {w: bias if mask is None else bias + mask for w, mask in self._whole(biases, shape, dtype, cache).items()}
        rotary = self._rotary(positions, documents, dtype, kernels=stretches is not None) if config.positions == "rotary" else {}
        return View(biases, rotary, cache, stretches)

    def _relative(self, positions: Tensor, cache: KVCache | None) -> Tensor:
        """What relative positions add to the scores, (B or 1, H, T, S)."""
        assert self.relative_bias is not None
        buckets = distance_buckets(masks.distances(positions, cache), self.config)
        return self.relative_bias(buckets).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _whole(
        self, biases: dict[int, Tensor | None], shape: torch.Size, dtype: torch.dtype, cache: KVCache | None
    ) -> dict[int, Tensor | None]:
        """With relative positions the scores get a bias anyway, so that "plainly causal" has to be written into it."""
        if not self.config.causal or cache is not None:
            return biases
        place = torch.arange(shape[1], device=self.blocks[0].attention.qkv.weight.device)
        plain = torch.zeros(shape[1], shape[1], dtype=dtype, device=place.device).masked_fill_(place > place[:, None], -math.inf)
        return {window: plain[None, None] if mask is None else mask for window, mask in biases.items()}

    def _rotary(
        self, positions: Tensor, documents: Tensor | None, dtype: torch.dtype, *, kernels: bool
    ) -> dict[int, tuple[Tensor, Tensor]]:
        config = self.config
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        rows = positions[:1] if documents is None and bool((positions == positions[:1]).all()) else positions
        tables: dict[bool, tuple[Tensor, Tensor]] = {}
        for window in set(config.windows):
            local = bool(window) and config.rope_local_theta is not None
            if local not in tables:
                rates, factor = rotary_rates(config, local=local, dtype=wide, device=positions.device)
                tables[local] = rotary_table(rows, rates, wide if kernels else dtype, factor)
        return {w: tables[bool(w) and config.rope_local_theta is not None] for w in set(config.windows)}


class Transformer(Stack):
    """A stack with its embedding and output layer, and a second stack before it in an encoder–decoder.

    `forward` gives hidden states; `logits` turns them into scores over the vocabulary. Keeping the two apart lets the
    loss work on some rows at a time, and decoding on the last row alone.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, config.vocab_size)
        self.encoder = Stack(config.encoder()) if config.encoder_layers else None
        self.ignored: tuple[str, ...] = ()
        """Tensors of the folder that this model was loaded from and has no use for."""
        transform = config.lm_head and config.head_transform
        self.head_dense = Linear(config.width, config.width, bias=config.head_transform_bias) if transform else None
        self.head_norm = Norm(config.width, config.norm, config.norm_eps, bias=config.norm_bias) if transform else None
        self.head = Linear(config.width, config.vocab_size, bias=False) if config.lm_head and not config.tie_embeddings else None
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.lm_head and config.head_bias else None
        self.pooler = Linear(config.width, config.width) if config.pooler else None

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        state: KVCache | None = None,
        *,
        memory: Memory | None = None,
        types: Tensor | None = None,
        prefix: Tensor | None = None,
        only: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """Hidden states for `ids` (B, T) → (B, T, D), and the state given (a cache, extended in place).

        `positions` (B, T): place of each token in its document, 0… by default; −1 marks padding. `documents` (B, T):
        which document of the row a token belongs to (each a run without gaps); tokens see their own document only.
        None: one document a row. `types` (B, T): the kind of each token, 0 by default. `memory`: what `encode` made of the
        source, read where the document numbers agree; a state remembers it after its first call. `prefix` (B, T) bool: tokens
        that all of their document see, also those before them (a prefix LM). `only` (N,): the states of these places alone, counted over
        all rows, → (N, D): the same, for less work in the last block.
        Raises `UsageError` for a memory that is missing, or that the model has no use for.
        """
        return self._forward(ids, positions, documents, state, memory, types, None, prefix, only)

    def encode(self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None) -> Memory:
        """The separate encoder's view of a source, `ids` (B, S); the rest as in `forward`."""
        return self._encode(ids, positions, documents, None)

    def hidden_states(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        memory: Memory | None = None,
        types: Tensor | None = None,
        source: bool = False,
    ) -> list[Tensor]:
        """What goes into each block and, last, the result: layers + 1 tensors (B, T, D). `source`: of the separate encoder."""
        states: list[Tensor] = []
        if source:
            self._encode(ids, positions, documents, states)
        else:
            self._forward(ids, positions, documents, None, memory, types, states)
        return states

    def _forward(
        self, ids: Tensor, positions: Tensor | None, documents: Tensor | None, state: KVCache | None, memory: Memory | None,
        types: Tensor | None, states: list[Tensor] | None, prefix: Tensor | None = None, only: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None]:  # fmt: skip
        if positions is None:
            positions = _places(ids, state.used if state is not None else 0)
        if state is not None:
            state.extend(positions)
        x = self.embed(self._scaled(ids), positions, types)
        view = self._view(positions, documents, state, x.dtype, prefix)
        if memory is not None or self.encoder is not None:
            view = self._crossing(view, positions, documents, memory, x.dtype)
        return self.run(x, view, states, only), state

    def _encode(self, ids: Tensor, positions: Tensor | None, documents: Tensor | None, states: list[Tensor] | None) -> Memory:
        if self.encoder is None:
            raise UsageError("this model has no separate encoder", fix="Call it as model(ids, …)")
        positions = _places(ids, 0) if positions is None else positions
        x = self.encoder.embed(self._scaled(ids), positions, None)
        hidden = self.encoder.run(x, self.encoder._view(positions, documents, None, x.dtype), states)
        return Memory(hidden, positions, documents)

    def _scaled(self, ids: Tensor) -> Tensor:
        x, scale = self.embedding(ids), self.config.embedding_scale
        if scale is None:
            scale = math.sqrt(self.config.width) if self.config.positions == "sinusoidal" else 1.0
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype, device=x.device)

    def _crossing(self, view: View, positions: Tensor, documents: Tensor | None, memory: Memory | None, dtype: torch.dtype) -> View:
        """The view with what cross-attention needs of the source: from the state, once it has read one."""
        if self.encoder is None:
            raise UsageError("this model has no cross-attention to read a memory with")
        cache = view.cache
        if cache is not None and cache.source is not None:
            source = cache.source
        elif memory is not None:
            source = memory.positions, memory.documents
        else:
            raise UsageError("this decoder reads what its encoder made of a source", fix="Give memory=model.encode(ids, …)")
        if cache is not None:
            cache.source = source
        bias, blind = masks.crossing(positions, documents, *source, dtype)
        return view._replace(memory=memory, crossing=bias, blind=blind)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, V)."""
        weight, bias = self.output_layer()
        scores = F.linear(self.head_input(hidden), weight, bias)
        cap = self.config.logit_softcap
        return scores.div(cap).tanh().mul(cap) if cap else scores

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the output layer reads of hidden states, (…, D) → (…, D): they themselves, but for models with a transform
        before the output layer or a factor on it."""
        if self.head_dense is not None and self.head_norm is not None:
            hidden = self.head_norm(ACTIVATIONS[self.config.head_activation](self.head_dense(hidden)))
        return hidden if self.config.head_scale == 1.0 else hidden * self.config.head_scale

    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) and bias (V,) of the output layer, the weight shared with the embedding when tied.

        Raises `UsageError` for a bare encoder, which has none.
        """
        if not self.config.lm_head:
            raise UsageError("this model has no output layer: its folder held the bare encoder", fix="It can embed, or be fine-tuned")
        return (self.embedding.weight if self.head is None else self.head.weight), self.head_bias

    def pooled(self, hidden: Tensor) -> Tensor:
        """The first token's state through the pooler: (B, T, D) → (B, D). Raises `UsageError` for a model without one."""
        if self.pooler is None:
            raise UsageError("this model has no pooler")
        return self.pooler(hidden[:, 0]).tanh()  # type: ignore[no-any-return]

    def new_state(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        c, weight = self.config, self.embedding.weight
        return KVCache(c.layers, batch, length, c.kv_heads, c.head_size, dtype=weight.dtype, device=weight.device)

    def matrix_parts(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices that are stacked in one weight: an optimiser that works on whole matrices takes them apart."""
        parts = _matrix_parts(self.config, "")
        return parts if self.encoder is None else {**parts, **_matrix_parts(self.encoder.config, "encoder.")}

    def matrix_factors(self) -> dict[str, tuple[float, ...]]:
        """What the learning rate of these parts is multiplied by, where an optimiser sets the size of an update itself."""
        query = _query_factor(self.config)
        found: dict[str, tuple[float, ...]] = {}
        for name, _ in self.named_parameters() if query != 1.0 else ():
            if name.endswith("attention.qkv.weight"):
                found[name] = (query, 1.0, 1.0)
            elif name.endswith("cross_attention.q.weight"):
                found[name] = (query,)
        return found

    def set_dropout(self, share: float) -> None:
        """Drop another share of activations while training, in the separate encoder too."""
        super().set_dropout(share)
        if self.encoder is not None:
            self.encoder.set_dropout(share)

    @torch.no_grad()
    def initialise(self, seed: int, *, zero_outputs: bool = True) -> None:
        """Draw the weights: normal with `init_std`, matrices that write to the residual stream zero.

        With zero output projections every block starts as the identity, which trains faster than GPT-2's scaled
        draw (`zero_outputs=False`: std / √(2·layers)).
        """
        generator = torch.Generator().manual_seed(seed)
        std, parts = self.config.init_std, self.matrix_parts()
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            elif name.endswith(("attention.output.weight", "ffn.down.weight")):
                spread = 0.0 if zero_outputs else std / math.sqrt(2 * self.config.layers)
                _normal(parameter, spread, generator)
            elif name == "head.weight" and zero_outputs:
                parameter.zero_()
            else:
                own = self.config.embedding_std if name == "embedding.weight" else None
                _normal(parameter, std if own is None else own, generator)
        for name, factors in self.matrix_factors().items():
            weight = self.get_parameter(name)
            for part, by in zip(weight.split(parts.get(name, len(weight))), factors, strict=True):
                part.mul_(by)


def _places(ids: Tensor, start: int) -> Tensor:
    return torch.arange(start, start + ids.shape[1], device=ids.device).expand(ids.shape)


def _matrix_parts(c: TransformerConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    q, kv = c.heads * c.head_size, c.kv_heads * c.head_size
    parts: dict[str, tuple[int, ...]] = {}
    for i in range(c.layers):
        parts[f"{prefix}blocks.{i}.attention.qkv.weight"] = (q, kv, kv)
        if c.encoder_layers:
            parts[f"{prefix}blocks.{i}.cross_attention.kv.weight"] = (kv, kv)
        if c.gated:
            parts[f"{prefix}blocks.{i}.ffn.up.weight"] = (c.ffn_size, c.ffn_size)
    return parts


def _query_factor(c: TransformerConfig) -> float:
    """How large the query matrices are beside those of a model that divides its attention scores by √head_size. A T5 doesn't divide: it
    draws its queries smaller instead (arXiv 1910.10683), and they must grow more slowly too. Or attention soon sees one key alone."""
    return 1.0 if c.qk_norm or c.attention_scale is None else 1 / (c.attention_scale * math.sqrt(c.head_size))


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Drawn on the CPU in float32, so that a seed means the same weights on every device and dtype."""
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def flops_per_token(config: TransformerConfig, context: int) -> float:
    """Floating-point operations to train on one token, where every token is a target (see `training_flops`).

    In an encoder–decoder "one token" is one of the target and one of the source, each of `context` tokens.
    """
    return training_flops(config, context, 1, 1, source=1 if config.encoder_layers else 0)


def training_flops(
    config: TransformerConfig, context: int, tokens: float, targets: float, *, source: float = 0, states: float | None = None
) -> float:
    """Floating-point operations to train on `tokens` tokens (of the decoder, in an encoder–decoder), `targets` of which go through
    the output layer, and on `source` tokens that a separate encoder reads; rows are `context` tokens long. `states`: how many of the tokens
    go all through the last block, where few are wanted (`only` in `Transformer.forward`); None: all.

    6 for each weight of a matrix product, and 12·width per key for the attention scores (Kaplan et al. 2020, arXiv 2001.08361,
    table 1; full context counted).
    """
    attention = config.width * (2 * config.heads + 2 * config.kv_heads) * config.head_size
    ffn = config.width * config.ffn_size * (3 if config.gated else 2)
    head = config.vocab_size * config.width * config.lm_head + config.width**2 * (config.lm_head and config.head_transform)
    reach = sum(min((2 if w and not config.causal else 1) * w or context, context) for w in map(config.window, range(config.layers)))
    scores = 12.0 * config.heads * config.head_size
    total = tokens * (6.0 * config.layers * (attention + ffn) + scores * reach) + 6.0 * targets * head
    if states is not None:
        total -= 6.0 * (tokens - states) * (config.width * config.heads * config.head_size + ffn)
    if config.encoder_layers:
        across = config.width * config.heads * config.head_size * 2, config.width * config.kv_heads * config.head_size * 2
        total += config.layers * (tokens * (6.0 * across[0] + scores * context) + source * 6.0 * across[1])
        total += training_flops(config.encoder().replace(lm_head=False), context, source, 0)
    return total
