"""A linear-chain conditional random field: the labels of a sequence told together (Lafferty et al. 2001; Lample et al. 2016, section 2.2).

Shapes: N sequences, W words of the longest, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def count_moves(paths: Iterable[Sequence[int]], labels: int) -> Tensor:
    """How often each label follows each other in sequences of labels (L + 1, L + 1): a row for the label before, the last for the start;
    a column for the label after, the last for the end."""
    found = torch.zeros(labels + 1, labels + 1, dtype=torch.long)
    steps = torch.tensor([labels, *(label for path in paths if len(path) for label in (*path, labels))])  # an end is the next one's start
    return found.index_put_((steps[:-1], steps[1:]), torch.ones(1, dtype=torch.long), accumulate=True)


class CRF(nn.Module):
    """Scores of neighbouring labels, on top of each word's own scores."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(labels, labels))
        self.first = nn.Parameter(torch.zeros(labels))
        self.last = nn.Parameter(torch.zeros(labels))

    @torch.no_grad()
    def start_from(self, moves: Tensor) -> None:
        """Begin with what is known of the labels alone, from counts (`count_moves`): log P(b after a) / P(b), so that these and words' own
        scores, log P(b | word), make a hidden Markov model from the first step on. What was never seen counts as once by chance."""
        moves = moves.double()
        chance = moves.sum(0) + 1
        chance = chance / chance.sum()
        gain = ((moves + chance) / (moves.sum(1, keepdim=True) + 1) / chance).log()
        self.transitions.copy_(gain[:-1, :-1])
        self.first.copy_(gain[-1, :-1])
        self.last.copy_(gain[:-1, -1])

    def forward(self, scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """−Σ log p(labels | scores) in nats over all sequences: scores (N, W, L), labels (N, W), real (N, W) bool, padding behind."""
        return (self._total(scores, real) - self._path(scores, labels, real)).sum()

    def _path(self, scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """The score of one path a sequence (N,)."""
        labels = labels.masked_fill(~real, 0)
        emitted = scores.gather(-1, labels[..., None])[..., 0].masked_fill(~real, 0).sum(1)
        moved = self.transitions[labels[:, :-1], labels[:, 1:]].masked_fill(~real[:, 1:], 0).sum(1)
        ends = labels.gather(1, real.sum(1, keepdim=True) - 1)[:, 0]
        return emitted + moved + self.first[labels[:, 0]] + self.last[ends]

    def _total(self, scores: Tensor, real: Tensor) -> Tensor:
        """log Σ exp(score) over all paths of each sequence (N,)."""
        alpha = self.first + scores[:, 0]
        for t in range(1, scores.shape[1]):
            step = torch.logsumexp(alpha[:, :, None] + self.transitions, 1) + scores[:, t]
            alpha = torch.where(real[:, t, None], step, alpha)
        return torch.logsumexp(alpha + self.last, 1)

    @torch.no_grad()
    def decode(self, scores: Tensor, real: Tensor, allowed: Tensor | None = None) -> list[list[int]]:
        """The best path of each sequence (Viterbi). `allowed` (L + 1, L) bool: which label may follow which, the last row for the start."""
        moves, first = self.transitions, self.first
        if allowed is not None:
            moves, first = moves.masked_fill(~allowed[:-1], -1e4), first.masked_fill(~allowed[-1], -1e4)
        best, back = first + scores[:, 0], []
        for t in range(1, scores.shape[1]):
            step, origin = (best[:, :, None] + moves).max(1)
            best = torch.where(real[:, t, None], step + scores[:, t], best)
            back.append(origin)
        ends = (best + self.last).argmax(-1).tolist()
        origins = torch.stack(back, 1).cpu() if back else None
        paths = []
        for n, (end, length) in enumerate(zip(ends, real.sum(1).tolist(), strict=True)):
            path = [end]
            for t in range(length - 2, -1, -1):
                assert origins is not None
                path.append(int(origins[n, t, path[-1]]))
            paths.append(path[::-1])
        return paths
