"""One row, one token, on a CPU: the Transformer's step with nothing but its arithmetic.

With one row the products read every weight once and do little else, so the time is memory traffic plus the cost of
calling some hundred operations. Where there is a C compiler, step.c does all of it in one call, at the speed of
memory. Elsewhere it is done here in PyTorch with no modules, products as matrix × vector
(about a third faster than the library's one-row linear layer in bfloat16), and keys and values in float32, laid out as
the attention reads them (the library's small bfloat16 products are five times slower than float32 ones; the numbers
stored are the same). Sums over the residual stream stay in float32, so this path is closer to exact arithmetic than
the batched one; the two agree within bfloat16's rounding, and to 1e-5 in float32.

Shapes: D width, H query heads, G key/value heads, R = H/G, K head size, S slots, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wordmill.generate import native
from wordmill.models.blocks import ACTIVATIONS, Block, Norm
from wordmill.models.cache import KVCache
from wordmill.models.config import TransformerConfig
from wordmill.models.lora import active_adapters
from wordmill.models.ops import rotary_table
from wordmill.models.positions import rotary_rates, sinusoids
from wordmill.models.transformer import Transformer

Function = Callable[[Tensor], Tensor]


PLAIN_ONLY = (
    "parallel", "norm_bias", "first_norm", "embedding_norm", "position_offset", "rope_local_theta", "rope_share", "token_types",
    "embedding_scale", "attention_scale", "attention_softcap", "lm_head", "head_bias", "head_transform", "head_scale",
)  # fmt: skip
"""Settings that this path knows at their default only; the batched step serves the rest."""


class Layer(NamedTuple):
    """One block's weights and functions, looked up once."""

    attention_norm: Function
    ffn_norm: Function
    qkv: Function
    output: Function
    up: Function
    down: Function
    qk_weight: Tensor | None  # (H + G, K)
    keys: Tensor  # (G, S, K)
    values: Tensor  # (G, S, K)
    window: int


class OneRow:
    """Decodes one row; made from a model and the cache of its prompt. `compiled` says which of the two steps is used:
    None takes the one in C where there is a compiler (`native.library()` tells why not)."""

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether this path can serve: a decoder on a CPU, of the parts that most have. It works on the weights themselves, so that an
        adapter that counts would be forgotten."""
        weight, config = model.embedding.weight, model.config
        plain = TransformerConfig()
        usual = all(getattr(config, name) == getattr(plain, name) for name in PLAIN_ONLY)
        known = config.kind == "decoder" and config.norm_position != "sandwich" and config.positions != "relative"
        known = known and config.activation in ACTIVATION_CODES
        usable = usual and known and weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16)
        return usable and not any(active_adapters(model).values())

    def __init__(self, model: Transformer, cache: KVCache, length: int, slots: int, *, compiled: bool | None = None) -> None:
        config = model.config
        self.model, self.config, self.place = model, config, length
        self.dtype = model.embedding.weight.dtype
        self.layers = [_layer(block, config, cache.keys[i][0], cache.values[i][0], length, slots) for i, block in enumerate(model.blocks)]
        self.norm = None if model.norm is None else _norm(model.norm)
        self.head = model.output_layer()[0]
        self.activation = ACTIVATIONS[config.activation]
        self.rotary = _rotary(config, slots) if config.positions == "rotary" else None
        library = native.library() if compiled is not False else "not asked for"
        assert compiled is not True or not isinstance(library, str), library
        self.native = None if isinstance(library, str) else NativeStep(library, self, slots)

    def step(self, token: int) -> Tensor:
        """Read `token` at the next place; returns the logits (V,), float32."""
        x = self._embed(token, self.place)
        logits = self._step(x) if self.native is None else self.native(x, self.place)
        self.place += 1
        cap = self.config.logit_softcap
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    def give_back(self, cache: KVCache) -> None:
        """Write the keys and values of all that was read into the cache, for the batched path to go on from."""
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            keys[0, : self.place] = layer.keys[:, : self.place].transpose(0, 1).to(keys.dtype)
            values[0, : self.place] = layer.values[:, : self.place].transpose(0, 1).to(values.dtype)

    def _step(self, x: Tensor) -> Tensor:
        place, config = self.place, self.config
        turn = None if self.rotary is None else (self.rotary[0][place], self.rotary[1][place])
        post = config.norm_position == "post"
        for layer in self.layers:
            if post:
                x = layer.attention_norm(x + self._attend(layer, x, turn, place))
                x = layer.ffn_norm(x + self._feed(layer, x))
            else:
                x = x + self._attend(layer, layer.attention_norm(x), turn, place)
                x = x + self._feed(layer, layer.ffn_norm(x))
        if self.norm is not None:
            x = self.norm(x)
        return torch.mv(self.head, x.to(self.dtype)).float()

    def _embed(self, token: int, place: int) -> Tensor:
        model = self.model
        x = model.embedding.weight[token]
        if model.position_embedding is not None:
            x = x + model.position_embedding.weight[place]
        elif self.config.positions == "sinusoidal":
            x = x * math.sqrt(self.config.width) + sinusoids(torch.tensor([[place]]), self.config.width)[0, 0].to(x.dtype)
        return x.float()

    def _attend(self, layer: Layer, x: Tensor, turn: tuple[Tensor, Tensor] | None, place: int) -> Tensor:
        c = self.config
        heads, groups, size = c.heads, c.kv_heads, c.head_size
        qkv = layer.qkv(x).view(heads + 2 * groups, size)
        qk = qkv[: heads + groups]
        if layer.qk_weight is not None:
            qk = F.rms_norm(qk, (size,), None, c.norm_eps).mul_(layer.qk_weight)
        if turn is not None:
            # first·cos − second·sin, second·cos + first·sin: the sines carry the sign, the roll swaps the halves.
            qk = torch.addcmul(qk * turn[0], torch.roll(qk, size // 2, -1), turn[1])
        layer.keys[:, place] = qk[heads:]
        layer.values[:, place] = qkv[heads + groups :]
        first = max(0, place + 1 - layer.window) if layer.window else 0
        keys, values = layer.keys[:, first : place + 1], layer.values[:, first : place + 1]
        scores = torch.bmm(qk[:heads].view(groups, heads // groups, size), keys.transpose(1, 2)).mul_(size**-0.5)
        return layer.output(torch.bmm(torch.softmax(scores, -1), values).view(heads * size))

    def _feed(self, layer: Layer, x: Tensor) -> Tensor:
        inner = layer.up(x)
        if self.config.gated:
            half = inner.shape[0] // 2
            return layer.down(self.activation(inner[:half]).mul_(inner[half:]))
        return layer.down(self.activation(inner))


def _layer(block: Block, config: TransformerConfig, keys: Tensor, values: Tensor, length: int, slots: int) -> Layer:
    attention = block.attention
    store = [torch.zeros(config.kv_heads, slots, config.head_size) for _ in range(2)]
    for ours, theirs in zip(store, (keys, values), strict=True):  # theirs (S + 1, G, K)
        ours[:, :length] = theirs[:length].transpose(0, 1)
    qk_weight = None
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = attention.q_norm.weight.float(), attention.k_norm.weight.float()
        qk_weight = torch.cat((q.expand(config.heads, -1), k.expand(config.kv_heads, -1)))
    return Layer(
        _norm(block.attention_norm),
        _norm(block.ffn_norm),
        _linear(attention.qkv),
        _linear(attention.output),
        _linear(block.ffn.up),
        _linear(block.ffn.down),
        qk_weight,
        store[0],
        store[1],
        attention.window,
    )


def _norm(norm: Norm) -> Function:
    shape, weight, eps = norm.weight.shape, norm.weight.float(), norm.eps
    if norm.bias is None:
        return lambda x: F.rms_norm(x, shape, weight, eps)
    bias = norm.bias.float()
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)


def _linear(layer: torch.nn.Linear) -> Function:
    """Float32 in and out; the product in the weight's dtype."""
    weight, bias = layer.weight, layer.bias
    if weight.dtype == torch.float32:
        return (lambda x: torch.mv(weight, x)) if bias is None else (lambda x: torch.addmv(bias, weight, x))
    wide = None if bias is None else bias.float()
    if wide is None:
        return lambda x: torch.mv(weight, x.to(weight.dtype)).float()
    return lambda x: torch.mv(weight, x.to(weight.dtype)) + wide


def _rotary(config: TransformerConfig, slots: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for every place, (S, K) each."""
    rates, factor = rotary_rates(config, local=False, dtype=torch.float32)
    cos, sin = rotary_table(torch.arange(slots)[None], rates, torch.float32, factor)
    cos, sin = cos[0, :, 0], sin[0, :, 0]
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


WORTH_THREADS = 1_000_000
"""Weights from which on several threads pay: seven times a layer they wait for each other."""


class NativeStep:
    """The arguments of step.c: pointers into the model's weights, the cache, and buffers made once."""

    def __init__(self, library: ctypes.CDLL, row: OneRow, slots: int) -> None:
        config, model = row.config, row.model
        self.call = library.step
        self.call.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self.call.restype = None
        self.kept: list[Tensor] = []  # whatever C points into
        size = sum(parameter.numel() for parameter in model.parameters())
        threads, inner = torch.get_num_threads() if size >= WORTH_THREADS else 1, config.ffn_size
        scratch = -(-max(config.width, slots) // 16) * 16 + 16
        sizes = (
            config.width,
            (config.heads + 2 * config.kv_heads) * config.head_size,
            config.heads * config.head_size,
            inner,
            config.vocab_size,
        )
        self.x, *others = (torch.zeros(size) for size in (*sizes, threads * scratch))
        self.logits = others[3]
        half = config.head_size // 2
        turn = (None, None) if row.rotary is None else (row.rotary[0][:, :half].contiguous(), row.rotary[1][:, half:].contiguous())
        layers = [
            value
            for block, layer in zip(model.blocks, row.layers, strict=True)
            for value in (*self._layer(block), self._at(layer.keys), self._at(layer.values), layer.window)
        ]
        self.layers = torch.tensor(layers, dtype=torch.int64)
        norm = model.norm
        pointers = [
            self.layers,
            row.head,
            *((None, None) if norm is None else (_wide(norm.weight), _wide(norm.bias))),
            *turn,
            self.x,
            *others,
        ]
        numbers = [
            len(row.layers), config.width, config.heads, config.kv_heads, config.head_size, inner, config.vocab_size, slots, config.gated,
            ACTIVATION_CODES[config.activation], config.norm_position == "post", row.dtype == torch.bfloat16, threads, scratch,
        ]  # fmt: skip
        epsilon = torch.tensor([config.norm_eps], dtype=torch.float64).view(torch.int64).item()
        self.arguments = torch.tensor([*map(self._at, pointers), *map(int, numbers), epsilon], dtype=torch.int64)
        self.place_of_arguments = self.arguments.data_ptr()

    def __call__(self, x: Tensor, place: int) -> Tensor:
        """Logits (V,) after the token with the embedding `x` (D,) at `place`; the next call overwrites them."""
        self.x.copy_(x)
        self.call(self.place_of_arguments, place)
        return self.logits

    def _layer(self, block: Block) -> list[int]:
        attention, ffn = block.attention, block.ffn
        linears = (attention.qkv, attention.output, ffn.up, ffn.down)
        norms = [_wide(x) for norm in (block.attention_norm, block.ffn_norm) for x in (norm.weight, norm.bias)]
        heads = [_wide(norm.weight) if norm is not None else None for norm in (attention.q_norm, attention.k_norm)]
        return [self._at(x) for x in (*(linear.weight for linear in linears), *(_wide(linear.bias) for linear in linears), *norms, *heads)]

    def _at(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()


ACTIVATION_CODES = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3, "relu2": 4}
"""Their numbers in step.c."""


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
