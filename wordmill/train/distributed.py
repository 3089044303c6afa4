"""Several processes, one step: what torchrun started, and the few exchanges that the loop needs.

Gradients are exchanged by DistributedDataParallel. It averages over ranks, so the loop scales each rank's loss by the
number of ranks: the sum over all targets of all ranks, divided by their count, is what is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from wordmill.batches.batch import Batch
from wordmill.core.errors import UsageError
from wordmill.train.objectives import LossSum, Objective


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[int, int]:
        """The rows of a step that this process works on, as first and last + 1; sizes differ by one at most."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def total(self, value: float, device: torch.device) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor)
        return float(tensor)

    def agree(self, value: float, device: torch.device) -> float:
        """The first process's number, in all processes: for decisions that depend on a clock."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.broadcast(tensor, src=0)
        return float(tensor)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            distributed.barrier()


def launched() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def processes() -> int:
    """How many processes torchrun has started, this one included; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started: gloo on CPUs, NCCL on GPUs. Without torchrun, a world of one."""
    if not launched():
        yield World()
        return
    if distributed.is_initialized():
        yield World(distributed.get_rank(), distributed.get_world_size())
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"can't join the processes that torchrun started: {error}", fix="Start with: torchrun --nproc-per-node 2 -m wordmill pretrain …"
        ) from error
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # nobody leaves while another is still talking to it
    finally:
        distributed.destroy_process_group()


class Asked(nn.Module):
    """A model and its objective as one module, so that DistributedDataParallel sees the whole forward pass."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, state: Any) -> tuple[Tensor, int, Any]:
        """The objective's sum, count and state."""
        out: LossSum = self.objective(self.model, batch, state)  # type: ignore[arg-type]
        return out.loss_sum, out.n_targets, out.state


def asked(model: nn.Module, objective: Objective, world: World) -> nn.Module:
    """The module that the loop calls; with several processes it exchanges gradients in its backward pass."""
    module = Asked(model, objective)
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=False)


def exchange(module: nn.Module, last: bool) -> Any:
    """Around a micro-batch: gradients are exchanged with the last one of a step only."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()
