"""LSTM and GRU language models whose state can start afresh, or stand still, at any step of any row.

    tokens ─ embedding ─ dropout ─ [ cell over time ─ dropout ] × layers ─ (projection) ─ hidden ─ output layer ─ logits

The recurrence is our own: the libraries' fused kernels cannot reset a state in mid-sequence, and on CPUs a loop over
preallocated buffers is faster. What does not depend on the step before (the products with the inputs, every gate's
local derivative, the weights' gradients) is done for all steps at once; what is left in the loop is one product and a
few element-wise operations.

Sums that run on over time (the LSTM's cell, the GRU's state, and the gradients that flow back through both) are kept
in float32 when the weights are bfloat16: with 8 bits of mantissa, adding less than 1/256 of the sum changes nothing,
so a long memory would neither grow nor fade. "Wide" below means that dtype; it is the weights' own otherwise.

Shapes: B batch, T time steps, E embedding, I a layer's input, H a layer's state, V vocabulary. Inside, time comes
first (T, B, …), so that a step's rows lie together. Gates stand in PyTorch's order: LSTM i f g o, GRU r z n.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wordmill.core.errors import UsageError
from wordmill.models.config import RecurrentConfig
from wordmill.models.kernels import biased
from wordmill.models.ops import dropout, picked

GATES = {"lstm": 4, "gru": 3}


class RecurrentState:
    """What a recurrent model remembers between calls: for each layer `h` (B, H) and, for an LSTM, `c` (B, H).

    `used` is the place of the next token when no positions are given. A call updates the state it gets; `detach` and
    `select` do so too, and return it.
    """

    def __init__(self, h: list[Tensor], c: list[Tensor] | None, used: int = 0) -> None:
        self.h, self.c, self.used = h, c, used

    def detach(self) -> RecurrentState:
        """Cut the graph: gradients stop here (truncated backpropagation through time)."""
        return self._map(Tensor.detach)

    def select(self, rows: Tensor) -> RecurrentState:
        """Keep only the rows named, in that order."""
        return self._map(lambda x: x[rows])

    def _map(self, change: Any) -> RecurrentState:
        self.h = [change(x) for x in self.h]
        self.c = None if self.c is None else [change(x) for x in self.c]
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The state as plain tensors (`h.0`, `c.0`, …, `used`), for a checkpoint; `from_tensors` takes them back."""
        named = {f"{name}.{i}": x.detach() for name, layers in (("h", self.h), ("c", self.c or [])) for i, x in enumerate(layers)}
        return {**named, "used": torch.tensor(self.used)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RecurrentState:
        """The state that `tensors()` wrote down."""
        h, c = ([tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))] for name in "hc")
        return cls(h, c or None, int(tensors["used"]))


class Marks(NamedTuple):
    """The steps that are not plain: `reset` and `padding` (T, B, 1), and for each step whether any row has the mark."""

    reset: Tensor
    padding: Tensor
    reset_at: list[bool]
    padding_at: list[bool]


def _read(positions: Tensor) -> tuple[Tensor | None, Marks | None, int]:
    """What `positions` (B, T) ask for: rows to reset before the first step (B, 1), marks of later steps, one past the last place.

    Resets at the first step are kept apart because they are done on the state handed in, so that the usual cases
    (a prompt from its start, the next token) leave a plain sequence. All flags reach the host in one copy.
    """
    by_step = positions.t().unsqueeze(-1)
    reset, padding = by_step == 0, by_step < 0
    flags = torch.cat((reset.any(1), padding.any(1), positions.max().view(1, 1) + 1)).flatten().tolist()
    steps, end = len(by_step), flags.pop()
    reset_at, padding_at = [bool(x) for x in flags[:steps]], [bool(x) for x in flags[steps:]]
    first = reset[0] if reset_at[0] else None
    reset_at[0] = False
    marked = any(reset_at) or any(padding_at)
    return first, Marks(reset, padding, reset_at, padding_at) if marked else None, int(end)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, where `total` may be wide and the product narrow."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(torch.mm(a, b))


SMALL = 2**18
"""Recurrent weights of fewer entries than this are multiplied in the wide dtype."""


def _inner(x: Tensor, w_hh: Tensor) -> torch.dtype:
    """The dtype of the product inside the loop. A CPU's bfloat16 product of a few rows with a small matrix costs as much as
    float32's, and the conversions around it come on top."""
    return _wide(x) if x.is_cpu and w_hh.numel() < SMALL else x.dtype


def _by_step(w_hh: Tensor, inner: torch.dtype, steps: int) -> Tensor:
    """(G·H, H) → (H, G·H). A few rows times a transposed matrix is slow on CPUs: over some steps a copy in the right order
    pays, but for large float32 ones, where writing the copy takes what it saves."""
    weight = w_hh.to(inner).t()
    pays = steps >= 8 and (inner != torch.float32 or w_hh.numel() < SMALL)
    return weight.contiguous() if w_hh.is_cpu and pays else weight


def _entering(states: Tensor, marks: Marks | None) -> Tensor:
    """States (T+1, B, H), the first one the initial → the state that each step began with (T, B, H), resets done."""
    if marks is None or not any(marks.reset_at):
        return states[:-1]
    entering = states[:-1].clone()
    entering[1:].masked_fill_(marks.reset[1:], 0)
    return entering


def _step_back(d_before: Tensor, d_gates: Tensor, w_hh: Tensor, marks: Marks | None, t: int) -> None:
    """Add to the gradient of the state before step t what the gates' gradient sends through the recurrent weights."""
    if marks is not None and marks.reset_at[t]:
        d_before.add_(torch.mm(d_gates, w_hh).masked_fill_(marks.reset[t], 0))
    else:
        _add_product(d_before, d_gates, w_hh)


class _LSTM(torch.autograd.Function):
    """One LSTM layer over time (Hochreiter & Schmidhuber 1997, with forget gates: Gers et al. 2000); PyTorch's formula.

    x (T, B, I), h and c (B, H) wide → outputs (T, B, H), last h and c (B, H) wide.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, h: Tensor, c: Tensor, marks: Marks | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        (steps, batch, _), size, wide, inner = x.shape, w_hh.shape[1], _wide(x), _inner(x, w_hh)
        gates = biased(x.flatten(0, 1), w_ih, b_ih + b_hh).view(steps, batch, 4 * size).to(wide)
        hs, cs = (x.new_empty(steps + 1, batch, size, dtype=dtype) for dtype in (inner, wide))
        tanh_cs = torch.empty_like(cs[1:])
        hs[0], cs[0] = h, c
        recurrent = _by_step(w_hh, inner, steps)
        whole, both = gates.unbind(0), gates[..., : 2 * size].unbind(0)
        i, f, g, o = (gate.unbind(0) for gate in gates.view(steps, batch, 4, size).unbind(2))
        h_at, c_at, tanh_at = hs.unbind(0), cs.unbind(0), tanh_cs.unbind(0)
        for t in range(steps):
            h_in, c_in = h_at[t], c_at[t]
            if marks is not None and marks.reset_at[t]:
                h_in, c_in = h_in.masked_fill(marks.reset[t], 0), c_in.masked_fill(marks.reset[t], 0)
            _add_product(whole[t], h_in, recurrent)
            both[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], c_in, out=c_at[t + 1]).addcmul_(i[t], g[t])
            if marks is not None and marks.padding_at[t]:
                c_at[t + 1].copy_(torch.where(marks.padding[t], c_in, c_at[t + 1]))
            torch.tanh(c_at[t + 1], out=tanh_at[t])
            torch.mul(o[t], tanh_at[t], out=h_at[t + 1])
            if marks is not None and marks.padding_at[t]:
                h_at[t + 1].copy_(torch.where(marks.padding[t], h_in, h_at[t + 1]))
        ctx.save_for_backward(x, w_ih, w_hh, gates, hs, cs, tanh_cs)
        ctx.marks = marks
        return hs[1:].to(x.dtype), hs[-1].to(wide, copy=True), cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last: Tensor, d_last_c: Tensor) -> Any:
        x, w_ih, w_hh, gates, hs, cs, tanh_cs = ctx.saved_tensors
        marks = ctx.marks
        steps, batch, size = tanh_cs.shape
        h_in, c_in = _entering(hs, marks), _entering(cs, marks)
        # What a gate's input changes: σ' = σ − σ², times what the gate is multiplied with; by the cell's gradient (o: by the output's).
        i, f, g, o = gates.view(steps, batch, 4, size).unbind(2)
        local = torch.addcmul(gates, gates, gates, value=-1).view(steps, batch, 4, size)
        local[:, :, 0].mul_(g)
        local[:, :, 1].mul_(c_in)
        torch.addcmul(i, i * g, g, value=-1, out=local[:, :, 2])
        local[:, :, 3].mul_(tanh_cs)
        through, keep = torch.addcmul(o, o * tanh_cs, tanh_cs, value=-1), f
        if marks is not None:  # a padded step has no gates: all that comes back goes on to the step before
            local.masked_fill_(marks.padding.unsqueeze(-1), 0)
            through.masked_fill_(marks.padding, 0)
            keep = f.masked_fill(marks.padding, 1)
            keep[1:].masked_fill_(marks.reset[1:], 0)

        d_hs = torch.empty_like(cs)
        d_hs[0], d_hs[1:] = 0, d_out
        d_hs[-1].add_(d_last)
        d_c, weight = d_last_c.clone(), w_hh.to(hs.dtype)
        d_gates = local if local.dtype == hs.dtype else torch.empty_like(local, dtype=hs.dtype)
        d_h, d_narrow, d_wide = d_hs.unbind(0), d_gates.flatten(2).unbind(0), local.flatten(2).unbind(0)
        by_c, by_h, through_at, keep_at = local[:, :, :3].unbind(0), local[:, :, 3].unbind(0), through.unbind(0), keep.unbind(0)
        spread = d_c.unsqueeze(1)
        for t in reversed(range(steps)):
            d_c.addcmul_(d_h[t + 1], through_at[t])
            by_c[t].mul_(spread)
            by_h[t].mul_(d_h[t + 1])
            d_c.mul_(keep_at[t])
            if d_gates is not local:
                d_narrow[t].copy_(d_wide[t])
            _step_back(d_h[t], d_narrow[t], weight, marks, t)
            if marks is not None and marks.padding_at[t]:
                d_h[t].add_(d_h[t + 1].masked_fill(~marks.padding[t], 0))
        flat = d_gates.view(steps * batch, 4 * size).to(x.dtype)
        d_bias, d_x = flat.sum(0), torch.mm(flat, w_ih).view_as(x)
        d_w_ih, d_w_hh = flat.t() @ x.flatten(0, 1), flat.t() @ h_in.flatten(0, 1).to(x.dtype)
        return d_x, d_w_ih, d_w_hh, d_bias, d_bias.clone(), d_hs[0], d_c, None


class _GRU(torch.autograd.Function):
    """One GRU layer over time (Cho et al. 2014) in PyTorch's form, with the recurrent bias inside the reset gate's reach.

    x (T, B, I), h (B, H) wide → outputs (T, B, H), last h (B, H) wide.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, h: Tensor, marks: Marks | None) -> Any:
        (steps, batch, _), size, wide, inner = x.shape, w_hh.shape[1], _wide(x), _inner(x, w_hh)
        gates = biased(x.flatten(0, 1), w_ih, b_ih).view(steps, batch, 3 * size).to(wide)
        sent = torch.empty_like(gates).copy_(b_hh)  # what the state sends to r, z and n
        hs = x.new_empty(steps + 1, batch, size, dtype=wide)
        hs[0] = h
        narrow = hs if inner == wide else torch.empty_like(hs, dtype=inner)
        narrow[0] = h
        recurrent = _by_step(w_hh, inner, steps)
        both, both_sent = gates[..., : 2 * size].unbind(0), sent[..., : 2 * size].unbind(0)
        sent_at, n_sent, h_at, narrow_at = sent.unbind(0), sent[..., 2 * size :].unbind(0), hs.unbind(0), narrow.unbind(0)
        r, z, n = (gate.unbind(0) for gate in gates.view(steps, batch, 3, size).unbind(2))
        for t in range(steps):
            h_in, h_narrow = h_at[t], narrow_at[t]
            if marks is not None and marks.reset_at[t]:
                h_in, h_narrow = h_in.masked_fill(marks.reset[t], 0), h_narrow.masked_fill(marks.reset[t], 0)
            _add_product(sent_at[t], h_narrow, recurrent)
            both[t].add_(both_sent[t]).sigmoid_()
            n[t].addcmul_(r[t], n_sent[t]).tanh_()
            torch.lerp(n[t], h_in, z[t], out=h_at[t + 1])
            if marks is not None and marks.padding_at[t]:
                h_at[t + 1].copy_(torch.where(marks.padding[t], h_in, h_at[t + 1]))
            if narrow is not hs:
                narrow_at[t + 1].copy_(h_at[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates, sent, hs, narrow)
        ctx.marks = marks
        return narrow[1:].to(x.dtype), hs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last: Tensor) -> Any:
        x, w_ih, w_hh, gates, sent, hs, narrow = ctx.saved_tensors
        marks = ctx.marks
        steps, batch, size = narrow[1:].shape
        h_in, h_narrow = _entering(hs, marks), _entering(narrow, marks)
        # All derivatives are multiples of the output's gradient. Order: n, r, z by the input; then n by what the state
        # sent, so that the last three stand as in the recurrent weights.
        r, z, n = gates.view(steps, batch, 3, size).unbind(2)
        local = x.new_empty(steps, batch, 4, size, dtype=hs.dtype)
        by_n, by_r, by_z, by_sent = local.unbind(2)
        torch.addcmul(torch.ones_like(n), n, n, value=-1, out=by_n).mul_(1 - z)
        torch.mul(by_n, r, out=by_sent)
        torch.mul(by_sent, 1 - r, out=by_r).mul_(sent[..., 2 * size :])
        torch.addcmul(z, z, z, value=-1, out=by_z).mul_(h_in - n)
        keep = z
        if marks is not None:
            local.masked_fill_(marks.padding.unsqueeze(-1), 0)
            keep = z.masked_fill(marks.padding, 1)
            keep[1:].masked_fill_(marks.reset[1:], 0)

        d_hs = torch.empty_like(hs)
        d_hs[0], d_hs[1:] = 0, d_out
        d_hs[-1].add_(d_last)
        weight = w_hh.to(narrow.dtype)
        d_gates = local if local.dtype == narrow.dtype else torch.empty_like(local, dtype=narrow.dtype)
        d_h, d_narrow, d_wide, keep_at = d_hs.unbind(0), d_gates.unbind(0), local.unbind(0), keep.unbind(0)
        d_sent, spread = d_gates[:, :, 1:].flatten(2).unbind(0), d_hs.unsqueeze(2).unbind(0)
        for t in reversed(range(steps)):
            d_wide[t].mul_(spread[t + 1])
            if d_gates is not local:
                d_narrow[t].copy_(d_wide[t])
            d_h[t].addcmul_(d_h[t + 1], keep_at[t])
            _step_back(d_h[t], d_sent[t], weight, marks, t)
        flat = d_gates.view(steps * batch, 4 * size).to(x.dtype)
        by_input, by_state = torch.cat((flat[:, size : 3 * size], flat[:, :size]), 1), flat[:, size:]
        d_x = torch.mm(by_input, w_ih).view_as(x)
        d_w_ih, d_w_hh = by_input.t() @ x.flatten(0, 1), by_state.t() @ h_narrow.flatten(0, 1).to(x.dtype)
        return d_x, d_w_ih, d_w_hh, by_input.sum(0), by_state.sum(0), d_hs[0], None


class RecurrentLayer(nn.Module):
    """One LSTM or GRU layer; weights as in `torch.nn.LSTM` and `GRU`: `weight_ih` (G·H, I), `weight_hh` (G·H, H), two biases (G·H)."""

    def __init__(self, cell: str, inputs: int, size: int) -> None:
        super().__init__()
        self.cell, self.size = cell, size
        rows = GATES[cell] * size
        self.weight_ih = nn.Parameter(torch.empty(rows, inputs))
        self.weight_hh = nn.Parameter(torch.empty(rows, size))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        self.bias_hh = nn.Parameter(torch.zeros(rows))

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None, marks: Marks | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """x (T, B, I), state (B, H) → outputs (T, B, H) and the state after the last step."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        if x.is_cuda and marks is None:
            return self._fused(x, h, c, weights)
        if c is None:
            out, last = _GRU.apply(x, *weights, h, marks)
            return out, last, None
        return _LSTM.apply(x, *weights, h, c, marks)  # type: ignore[no-any-return]

    def _fused(self, x: Tensor, h: Tensor, c: Tensor | None, weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The library's kernel (cuDNN): a GPU would wait on the launches of our loop. It takes plain sequences only."""
        settings = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
        h = h.to(x.dtype)[None]
        with warnings.catch_warnings():  # it would have all weights in one block; copying them there each call costs next to nothing
            warnings.filterwarnings("ignore", message="RNN module weights are not part")
            if c is None:
                out, h = torch._VF.gru(x, h, list(weights), *settings)
                return out, h[0].to(_wide(x)), None
            out, h, c = torch._VF.lstm(x, (h, c.to(x.dtype)[None]), list(weights), *settings)
        return out, h[0].to(_wide(x)), c[0].to(_wide(x))


class RecurrentLM(nn.Module):
    """A stack of recurrent layers between an embedding and an output layer; the same calls as `Transformer`."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        sizes = [config.embedding_size] + [config.width] * (config.layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(config.cell, inputs, config.hidden_size) for inputs in sizes)
        back = sizes if config.bidirectional else []
        self.back = nn.ModuleList(RecurrentLayer(config.cell, inputs, config.hidden_size) for inputs in back)
        tied, fits = config.tie_embeddings, config.width == config.embedding_size
        needed = tied and not fits and config.lm_head
        self.projection = nn.Linear(config.width, config.embedding_size, bias=False) if needed else None
        self.head = None if tied or not config.lm_head else nn.Linear(config.width, config.vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.lm_head else None

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, state: RecurrentState | None = None,
        *, only: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Hidden states for `ids` (B, T), ready for the output layer → (B, T, D), and the state after the last token.

        `positions` (B, T): 0 starts a document (the state is reset before that token), −1 marks padding (the state
        passes through unchanged), any other number goes on; None goes on from `state`, or starts when there is none.
        `documents` is not needed here. A `state` given is updated and returned. A bidirectional model (D = 2H, without a projection)
        reads whole documents, from both ends; its state means nothing. `only` (N,): the states of these places alone, counted over all
        rows, → (N, D).
        """
        if self.back:
            return picked(self._both_ways(ids, positions), only), self.new_state(ids.shape[0], 0)
        if state is None:
            state = self.new_state(ids.shape[0], 0)
        first, marks, end = (None, None, state.used + ids.shape[1]) if positions is None else _read(positions)
        x = self._embed(ids)
        for i, layer in enumerate(self.layers):
            h, c = state.h[i], None if state.c is None else state.c[i]
            if first is not None:
                h, c = h.masked_fill(first, 0), None if c is None else c.masked_fill(first, 0)
            x, state.h[i], c = layer(x, h, c, marks)
            if state.c is not None and c is not None:
                state.c[i] = c
            x = self._drop(x)
        state.used = max(state.used, end)
        return picked(self._out(x), only), state

    def _both_ways(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Every layer over time in both directions: (B, T) → (B, T, D). Read backwards, a document starts at its last token."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        last = torch.ones_like(positions, dtype=torch.bool)
        last[:, :-1] = positions[:, 1:] <= 0
        turned = torch.where(positions < 0, -1, torch.where(last, 0, 1)).flip(1)
        ways = [_read(way)[:2] for way in (positions, turned)]
        zeros = self.embedding.weight.new_zeros(ids.shape[0], self.config.hidden_size, dtype=_wide(self.embedding.weight))
        x = self._embed(ids)
        for layers in zip(self.layers, self.back, strict=True):
            inputs = (x, x.flip(0))
            ahead, behind = (
                layer(each, zeros, zeros if self.config.cell == "lstm" else None, marks)[0]
                for layer, each, (_, marks) in zip(layers, inputs, ways, strict=True)
            )
            x = self._drop(torch.cat((ahead, behind.flip(0)), -1))
        return self._out(x)

    def _out(self, x: Tensor) -> Tensor:
        """(T, B, states of the last layer) → (B, T, D), through the projection, if there is one."""
        return (x if self.projection is None else self.projection(x)).transpose(0, 1)

    def _embed(self, ids: Tensor) -> Tensor:
        """(B, T) → (T, B, E)."""
        x = self.embedding(ids.t())
        if self.training and self.config.token_dropout:
            x = x * dropout(x.new_ones(*x.shape[:2], 1), self.config.token_dropout, self.training)
        return self._drop(x)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, V)."""
        return F.linear(hidden, *self.output_layer())

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the output layer reads of hidden states: they themselves."""
        return hidden

    def output_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) and bias (V,) of the output layer; the weight is the embedding's when tied. Raises `UsageError` without one."""
        if self.output_bias is None:
            raise UsageError("this model has no output layer", fix="It can be fine-tuned")
        return (self.embedding.weight if self.head is None else self.head.weight), self.output_bias

    def new_state(self, batch: int, length: int) -> RecurrentState:
        """The state before the first token, all zeros; its size does not depend on `length`."""
        weight, layers = self.embedding.weight, range(self.config.layers)
        zeros = weight.new_zeros(batch, self.config.hidden_size, dtype=_wide(weight))  # one for all: nothing writes into a state
        return RecurrentState([zeros for _ in layers], [zeros for _ in layers] if self.config.cell == "lstm" else None)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights: the embedding normal with `init_std`, an output layer of its own with 0.05 at most (wide logits would have to
        be unlearned first), the rest uniform within ±1/√H.

        Biases are zero but for the LSTM's forget gate, which starts open (1): else a memory halves at every step
        before anything is learned (Jozefowicz et al. 2015, section 2.2).
        """
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(self.config.hidden_size)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                parameter.zero_()
                if self.config.cell == "lstm" and name.endswith("bias_ih"):
                    parameter[self.config.hidden_size : 2 * self.config.hidden_size] = 1
            elif name.startswith(("embedding", "head")):
                std = self.config.init_std if name.startswith("embedding") else min(0.05, self.config.init_std)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)


def flops_per_token(config: RecurrentConfig, context: int) -> float:
    """Floating-point operations to train on one token: 6 for each weight of a matrix product, output layer included; no context counts."""
    size, embedding = config.hidden_size, config.embedding_size
    both = 1 + config.bidirectional
    weights = both * sum(GATES[config.cell] * size * (inputs + size) for inputs in [embedding] + [config.width] * (config.layers - 1))
    project = config.width * embedding if config.tie_embeddings and config.width != embedding else 0
    output = config.vocab_size * (embedding if config.tie_embeddings else config.width)
    return 6.0 * (weights + config.lm_head * (project + output))
