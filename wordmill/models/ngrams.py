"""What single tokens and short runs of them say about a text by themselves: a linear model beside a network from new weights.

From a few thousand examples a logistic regression on TF-IDF learns more than a new network does, and the network sees what the words alone
don't say. So the linear model is fitted first, its logits are added to the network's, and the network learns what is left to be said. In
training each text gets the logits of a fit that has not seen it: on its own texts a linear model of so many features is nearly always
right, and nothing would be left to learn (Wolpert 1992, stacked generalization, Neural Networks 5). In the end two numbers say how much
each of the two counts, those under which the validation examples are likeliest: the network is surer of itself than it should be.

Shapes: N texts, T tokens in all of them one after the other, F n-grams, L labels, M n-grams in all texts, each once a text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST = 3
"""Tokens of an n-gram at most."""
LEAST = 2
"""Training texts that an n-gram must stand in."""
MOST = 2**21
"""Weights at most, for all n-grams and labels: the most frequent n-grams are kept."""
FOLDS = 5
"""Parts of the training texts; a text's logits in training come from a fit on the others."""
FIT = 4.0
"""How much a text's loss weighs beside half the square of the weights: scikit-learn's C."""
TRUST = 10.0
"""How much it weighs against other shares than 1 and 1, in texts' losses: a factor of e costs as much as half of these."""
ITERATIONS = 60
"""Steps of L-BFGS, each over all texts."""


class NGrams(nn.Module):
    """Logits from which n-grams a text has. Fitted once, by `fit`; it doesn't learn with the network, and stays in float32."""

    keys: Tensor
    idf: Tensor
    weight: Tensor
    bias: Tensor
    shares: Tensor
    """How much the network's logits and these count, once the model has learned (2,)."""
    held_weight: Tensor | None
    held_bias: Tensor | None

    def __init__(self, size: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("idf", torch.zeros(size))
        self.register_buffer("weight", torch.zeros(size, labels))
        self.register_buffer("bias", torch.zeros(labels))
        self.register_buffer("shares", torch.ones(2))
        self.register_buffer("held_weight", None, persistent=False)
        self.register_buffer("held_bias", None, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NGrams:
        """To another device, never to other numbers."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        return self

    def forward(self, ids: Tensor, texts: Tensor, n: int) -> Tensor:
        """Logits (N, L) float32 of the tokens `ids` (T,) of `n` texts; `texts` (T,) says which text each belongs to, in rising order."""
        found = self.features(ids, texts, n)
        if not self.training or self.held_weight is None:
            return _linear(*found, self.weight) + self.bias
        return self.held(*found, folds(ids, texts, n))

    def held(self, index: Tensor, value: Tensor, start: Tensor, fold: Tensor) -> Tensor:
        """Logits (N, L) of texts with these `features`, each by the fit without its `fold` (N,): while training alone."""
        assert self.held_weight is not None and self.held_bias is not None
        sizes = torch.diff(start, append=start.new_tensor([len(index)]))
        place = index + torch.repeat_interleave(fold, sizes) * len(self.keys)
        return _linear(place, value, start, self.held_weight.flatten(0, 1)) + self.held_bias[fold]

    def added_to(self, network: Tensor, said: Tensor) -> Tensor:
        """Both logits (N, L) together; in training they count alike."""
        if self.training:
            return network.float() + said
        return self.shares[0] * network.float() + self.shares[1] * said

    def features(self, ids: Tensor, texts: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which n-grams the texts have (M,), their share in the text (M,), of norm 1, and where each text begins (N,)."""
        size = max(len(self.keys), 1)
        keys, owner = grams(ids, texts)
        place = torch.searchsorted(self.keys, keys).clamp(max=size - 1)
        known = self.keys[place] == keys if len(self.keys) else torch.zeros_like(keys, dtype=torch.bool)
        pairs = torch.unique(owner[known] * size + place[known])
        owner, index = pairs // size, pairs % size
        value = self.idf[index]
        norm = value.new_zeros(n).index_add(0, owner, value.square()).sqrt()
        return index, value / norm[owner], torch.searchsorted(owner, torch.arange(n, device=ids.device))


def grams(ids: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """A key (64 bits) for each run of 1 to `LONGEST` tokens within a text, and the text that it stands in."""
    key, keys, owners = _mixed(ids + 1), [], []
    for length in range(1, LONGEST + 1):
        if length > 1:
            key = _mixed(key[:-1] * 31 + ids[length - 1 :] + 1)
        within = texts[: len(key)] == texts[length - 1 :]
        keys.append(key[within])
        owners.append(texts[: len(key)][within])
    return torch.cat(keys), torch.cat(owners)


def folds(ids: Tensor, texts: Tensor, n: int) -> Tensor:
    """Which fold each text (N,) is in: by its tokens alone, so that equal texts are never on both sides."""
    return torch.zeros(n, dtype=torch.int64, device=ids.device).index_add(0, texts, _mixed(ids + 1)) % FOLDS


def fit(ids: Tensor, texts: Tensor, answers: Tensor, shares: Tensor, labels: int) -> tuple[NGrams, Tensor]:
    """The n-grams of some texts, on the CPU, with what they say of their labels; and the logits (N, L) that each text has from a fit
    without it. `answers`: the label of each text (N,), or which of several hold (N, L); `shares` (N,): how much each text counts."""
    n = len(shares)
    keys, owner = grams(ids, texts)
    found, place = torch.unique(keys, return_inverse=True)
    count = torch.bincount(torch.unique(owner * len(found) + place) % max(len(found), 1), minlength=len(found))
    kept = (count >= LEAST).nonzero()[:, 0]
    if len(kept) > MOST // labels:
        kept = kept[count[kept].argsort(descending=True, stable=True)[: MOST // labels]].sort().values
    model = NGrams(len(kept), labels)
    model.keys = found[kept]
    model.idf = torch.log((1 + n) / (1 + count[kept])) + 1
    features, fold = model.features(ids, texts, n), folds(ids, texts, n)
    table = _Table.of(*features, (n, len(kept)))
    model.weight, model.bias = _regress(table, answers, shares, labels)
    held = [_regress(table, answers, torch.where(fold == number, 0.0, shares), labels) for number in range(FOLDS)]
    model.held_weight, model.held_bias = torch.stack([weight for weight, _ in held]), torch.stack([bias for _, bias in held])
    return model, model.held(*features, fold)


def balance(network: Tensor, said: Tensor, answers: Tensor, shares: Tensor) -> Tensor:
    """How much the network's logits and those of the n-grams (N, L each) should count (2,), always more than nothing: what makes the
    answers of texts that neither has seen likeliest. Of few texts it stays near 1 and 1. `answers` and `shares` as in `fit`."""
    counts = torch.zeros(2, requires_grad=True)  # logarithms

    def loss() -> Tensor:
        each = _unlikely(counts[0].exp() * network + counts[1].exp() * said, answers)
        return (shares * each).sum() + TRUST * counts.square().sum() / 2

    _least(loss, counts)
    return counts.detach().exp()


def _unlikely(logits: Tensor, answers: Tensor) -> Tensor:
    """−log p(answer) of each text (N,) in nats; where several labels may hold the sum over them."""
    if answers.ndim == 1:
        return F.cross_entropy(logits, answers, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, answers, reduction="none").sum(-1)


@dataclass(frozen=True)
class _Table:
    """The shares of all n-grams in all texts, by rows of texts (N, F) and by rows of n-grams (F, N): both products of a step read their
    table in its own order (by `embedding_bag`, which sorts the n-grams anew in each step, a fit took six times as long)."""

    texts: Tensor
    grams: Tensor

    @classmethod
    def of(cls, index: Tensor, value: Tensor, start: Tensor, shape: tuple[int, int]) -> _Table:
        """From the `features` of N texts."""
        ends = torch.cat([start, start.new_tensor([len(index)])])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse .* in beta", UserWarning)
            texts = torch.sparse_csr_tensor(ends, index, value, shape, check_invariants=True)
            return cls(texts, texts.t().to_sparse_csr())


class _Product(torch.autograd.Function):
    """Table (N, F) · weight (F, L)."""

    @staticmethod
    def forward(ctx: Any, table: _Table, weight: Tensor) -> Tensor:
        ctx.table = table
        return table.texts @ weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.table.grams @ gradient


def _regress(table: _Table, answers: Tensor, shares: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Weights (F, L) and bias (L,) of a logistic regression."""
    weight, bias = torch.zeros(len(table.grams), labels, requires_grad=True), torch.zeros(labels, requires_grad=True)

    def loss() -> Tensor:
        logits = _Product.apply(table, weight) + bias
        return FIT * (shares * _unlikely(logits, answers)).sum() + weight.square().sum() / 2

    _least(loss, weight, bias)
    return weight.detach(), bias.detach()


def _least(loss: Callable[[], Tensor], *values: Tensor) -> None:
    """Change `values` so that the loss is least (L-BFGS)."""
    solver = torch.optim.LBFGS(values, max_iter=ITERATIONS, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        found = loss()
        found.backward()
        return found

    solver.step(closure)  # type: ignore[arg-type]


def _linear(index: Tensor, value: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Σ value · weight[index] over the n-grams of each text (N, L)."""
    return F.embedding_bag(index, weight, start, mode="sum", per_sample_weights=value)


def _mixed(x: Tensor) -> Tensor:
    """Numbers (int64) whose bits all depend on all bits of `x`: the finaliser of splitmix64 (Steele et al. 2014), signed."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x to the right by so many bits, with zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)
