"""More rows for a vocabulary that has grown: the embedding, the output layer and its bias, of any model.

Shapes: V tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wordmill.models.folder import LanguageModel, build_model
from wordmill.models.meta import without_weights

OF_THE_VOCABULARY = frozenset({"embedding.weight", "head.weight", "head_bias", "output_bias"})
"""The parameters that have a row for each token."""
NOISE = 0.1
"""Spread of new rows around the mean, in proportion to that of the others: without any, new tokens could not be told apart."""


@torch.no_grad()
def grow_vocabulary(model: LanguageModel, known: int, size: int, *, seed: int = 0) -> LanguageModel:
    """The model with rows for `size` tokens, of which the first `known` have learned something: the others start near the mean of those,
    so that they change the probabilities of the rest hardly at all (Hewitt 2021, nlp.stanford.edu/~johnhew/vocab-expansion.html).

    Rows beyond the vocabulary that the model has anyway (padding) are used before any are added. The other weights are the model's own.
    """
    old = model.config.vocab_size
    with without_weights():
        grown = build_model(model.config.replace(vocab_size=max(old, size)))
    weights, learns = dict(model.named_parameters()), {name: p.requires_grad for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(OF_THE_VOCABULARY & weights.keys()):
        own = weights[name].detach()
        rows = own.new_empty((max(old, size), *own.shape[1:]))
        rows[:old] = own
        rows[known:size] = _near_the_mean(own[:known], size - known, generator)
        weights[name] = nn.Parameter(rows)
    grown.load_state_dict(weights, assign=True)
    for name, parameter in grown.named_parameters():
        parameter.requires_grad_(learns[name])
    return grown.train(model.training)


def _near_the_mean(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` rows (count, D), or numbers (count,), around the mean of those given."""
    wide = rows.float()
    noise = torch.randn((count, *rows.shape[1:]), generator=generator).to(wide.device)
    return (wide.mean(0) + NOISE * wide.std(0) * noise).to(rows.dtype)
