"""R-Drop: each example is read twice, with other parts dropped, and both answers are to agree (Liang et al. 2021, arXiv 2106.14448).

Shapes: N answers, L labels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wordmill.core.errors import UsageError
from wordmill.models.config import ModelConfig


def twice(first: Tensor, read: Callable[[], Tensor], weight: float, loss: Callable[[Tensor], Tensor], *, several: bool = False) -> Tensor:
    """The loss of logits `first` (N, L) where `weight` is 0; else the mean loss of two readings (`read` gives the second), and `weight`
    times how far apart these are. `several`: each label holds or not on its own. All in nats, summed over the answers."""
    if not weight:
        return loss(first)
    again = read()
    return (loss(first) + loss(again)) / 2 + weight * apart(first, again, several=several)


def apart(one: Tensor, other: Tensor, *, several: bool) -> Tensor:
    """The mean of both Kullback–Leibler divergences between two answers (N, L), summed over the answers; with `several` the mean over the
    labels, each of which holds or not."""
    if several:
        return ((one.sigmoid() - other.sigmoid()) * (one - other)).sum() / (2 * one.shape[1])
    one, other = one.log_softmax(-1), other.log_softmax(-1)
    return ((one.exp() - other.exp()) * (one - other)).sum() / 2


def check_dropped(weight: float, head: float, config: ModelConfig) -> None:
    """Raises `UsageError` where nothing is dropped, in the model or (a share of `head`) before its head: both readings would be alike."""
    if weight and not any((head, config.dropout, getattr(config, "token_dropout", 0.0))):
        raise UsageError("two readings with nothing dropped are the same: R-Drop would do nothing", where="task.r_drop",
                         fix="Leave it away, or set task.dropout or model.dropout above 0")  # fmt: skip
