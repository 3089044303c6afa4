"""The only training loop: pretraining, fine-tuning, preferences and distillation differ in objective and rows alone.

    rows.batch(step) ─► objective ─► loss sum ─► ÷ targets of the whole step ─► gradients ─► optimiser ─► callbacks

Evaluation, samples, logs and checkpoints come in as callbacks. Shapes: B rows of a step, T tokens.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wordmill.batches.batch import Batch
from wordmill.core.config import Config, differences
from wordmill.core.errors import CheckpointError, TrainingError
from wordmill.core.progress import SILENT, Reporter
from wordmill.models.config import RecurrentConfig, TransformerConfig
from wordmill.models.folder import LanguageModel, recompute_blocks
from wordmill.models.kernels import flushed_denormals
from wordmill.train import checkpoint
from wordmill.train.budget import Rows
from wordmill.train.distributed import World, asked, exchange
from wordmill.train.objectives import Objective
from wordmill.train.optim import OptimConfig, Optimizer
from wordmill.train.schedule import ScheduleConfig, factor
from wordmill.train.sharpness import check_radius, uphill


class TrainConfig(Config):
    """How a model is trained. Exactly one of `steps` and `seconds` says for how long."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("batch_size", "train_batch_size", "per_device_train_batch_size"), "rows"), "micro_batch_size": "micro_rows",
        **dict.fromkeys(("block_size", "seq_len", "sequence_length", "max_seq_len", "max_seq_length", "cutoff_len"), "context"),
        **dict.fromkeys(("max_steps", "max_iters"), "steps"), **dict.fromkeys(("grad_clip", "max_grad_norm"), "clip"),
        "gradient_checkpointing": "recompute", "learning_rate": "optim.lr", "weight_decay": "optim.weight_decay",
    }  # fmt: skip
    steps: int | None = None
    """Optimiser steps in all."""
    seconds: float | None = None
    """Time for training in seconds; the schedule then follows the clock."""
    context: int = 256
    """Targets in a row."""
    rows: int = 16
    """Rows a step, over all micro-batches and processes."""
    row_limit: int | None = None
    """Rows in all: beyond it the last step is filled up with padding, so that whole epochs end exactly. None: every step is full."""
    micro_rows: int = 16
    """Rows that go through the model at once: decides memory, never the result."""
    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it (0: off)."""
    sam: float = Field(default=0.0, ge=0, lt=1)
    """Radius of sharpness-aware minimisation (train/sharpness.py), 0.05 as a rule: a step takes twice the time (0: off)."""
    ema: float = 0.0
    """Decay of the average of the weights, per step (0: no average). Where there is one, it is what is evaluated and saved."""
    evaluations: int = Field(default=10, ge=0)
    """How many times the run is evaluated, evenly spread."""
    save_seconds: float = 120.0
    """Time between checkpoints in seconds."""
    save_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints (0: by time alone)."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept."""
    log_every: int = Field(default=1, ge=1)
    """Steps between lines of the log."""
    compile: bool = False
    """Whether the blocks are compiled."""
    recompute: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: less memory, a third more time, the same
    gradients."""
    seed: int = 0
    """Seed of order, dropout and initial weights."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("give steps or seconds, one of the two")
        if self.micro_rows < 1 or self.rows < 1 or self.context < 1:
            raise ValueError("rows, micro_rows and context must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError("ema must lie in [0, 1)")
        if self.compile and self.recompute:
            raise ValueError("compiled blocks are not recomputed: leave compile or recompute away")
        return self


Event = Literal["step", "save", "end"]
Callback = Callable[["Training", Event], None]


@dataclass
class Training:
    """Everything that a run holds while it goes on."""

    model: LanguageModel
    objective: Objective
    rows: Rows
    config: TrainConfig
    folder: Path | None = None
    """Run folder; None keeps nothing on disk."""
    device: torch.device = torch.device("cpu")
    world: World = World()
    reporter: Reporter = SILENT
    callbacks: list[Callback] = field(default_factory=list)
    resumed_config: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint remembers beside the state: the resolved settings."""

    step: int = 0
    """Steps done."""
    targets: int = 0
    """Targets seen."""
    tokens: int = 0
    """Tokens read: as many as targets where each token is one, several times as many where only some are."""
    seconds: float = 0.0
    """Time spent, earlier sittings included."""
    carry: dict[int, Any] = field(default_factory=dict)
    """State of a recurrent model, for each micro-batch."""
    last: dict[str, float] = field(default_factory=dict)
    """Numbers of the last step: loss, grad_norm, lr_factor, …"""
    memory: dict[str, Any] = field(default_factory=dict)
    """What callbacks want kept in checkpoints (plain values)."""
    stop: str | None = None
    """Set from outside (a signal) to end after the step at hand, with a checkpoint."""
    enough: bool = False
    """Set by a callback, alike in all processes, to end the run as if its steps were done (early stopping)."""

    def __post_init__(self) -> None:
        if self.config.recompute:
            recompute_blocks(self.model)
        self.optimizer = Optimizer(self.model, self.config.optim)
        check_radius(self.config.sam, self.optimizer)
        self.average = {name: w.clone() for name, w in self.optimizer.master.items()} if self.config.ema else {}
        self.module = asked(self.model, self.objective, self.world)
        self.started = time.monotonic()
        self.saved_at = self.started

    @property
    def time_limit(self) -> float:
        """Seconds that the run may take: the plan's, or what a callback has found to be right since (`memory["time_limit"]`)."""
        return max(float(self.memory.get("time_limit", self.config.seconds or 0.0)), 1e-9)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / self.config.steps if self.config.steps is not None else self.seconds / self.time_limit)

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated and saved of the weights that learn: the average where there is one, else the float32 masters."""
        return self.average or self.optimizer.master


@flushed_denormals()
def fit(run: Training) -> None:
    """Train until the steps are done or the time is up; the callbacks see every step, every checkpoint and the end.

    Raises `TrainingError` for a loss that is not finite, `Stopped` when `run.stop` was set (after a checkpoint).
    """
    config, world = run.config, run.world
    run.started = time.monotonic() - run.seconds
    run.saved_at = time.monotonic()
    step_seconds = 0.0
    run.model.train()
    while not over(run, step_seconds):
        before = time.monotonic()
        checkpoint.step_seed(config.seed, run.step, world.rank)
        batch = run.rows.batch(run.step, *world.share(config.rows))
        n_targets = world.total(batch.n_targets, run.device)
        if not n_targets:
            raise TrainingError(
                f"step {run.step + 1} has no target that counts", fix="Look at the data: every answer was cut away or masked"
            )
        here = batch.to(run.device)
        carried = copy.deepcopy(run.carry) if config.sam else {}  # a call changes the state that it goes on from
        loss = gradients(run, here, n_targets)
        if config.sam:
            after, run.carry = run.carry, carried
            checkpoint.step_seed(config.seed, run.step, world.rank)  # the same parts are dropped
            with uphill(run.optimizer, config.sam):
                gradients(run, here, n_targets)
            run.carry = after
        norm = run.optimizer.gradient_norm()
        if config.clip:
            run.optimizer.scale_gradients((config.clip / (norm + 1e-6)).clamp(max=1.0))
        done = (
            (run.step + 1) / config.steps
            if config.steps is not None
            else world.agree((run.seconds + step_seconds) / run.time_limit, run.device)
        )
        rate = 1.0 if config.steps == 1 else factor(config.schedule, done)  # one step has no schedule, and would learn nothing
        log = (run.step + 1) % config.log_every == 0 or run.step == 0
        if log or run.device.type == "cpu":  # reading the loss waits for a GPU, so there it is done with the log alone
            run.last = {"loss": world.total(float(loss), run.device) / n_targets, "grad_norm": float(norm)}
            check_finite(run)
        run.optimizer.step(rate)
        if run.average:
            # A young average follows the weights closely, so that the initial draw is soon forgotten.
            decay = min(config.ema, (1 + run.step) / (10 + run.step))
            torch._foreach_lerp_(list(run.average.values()), list(run.optimizer.master.values()), 1 - decay)
        run.step += 1
        run.targets += int(n_targets)
        run.tokens += int(world.total(batch.n_tokens, run.device))
        run.seconds = world.agree(time.monotonic() - run.started, run.device)
        step_seconds = 0.8 * step_seconds + 0.2 * (time.monotonic() - before) if step_seconds else time.monotonic() - before
        run.last.update(lr_factor=rate, step_seconds=step_seconds, logged=float(log))
        notify(run, "step")
        stopping = bool(world.total(float(run.stop is not None), run.device))  # a signal may reach the processes at different steps
        if save_due(run) or stopping:
            save(run)
        if stopping:
            raise Stopped(run.stop or "SIGTERM", run.folder)
    run.model.eval()
    notify(run, "end")


def over(run: Training, step_seconds: float) -> bool:
    """Whether the run is done: all steps, or no time for one more (half a step over is nearer than half a step under)."""
    if run.enough:
        return True
    if run.config.steps is not None:
        return run.step >= run.config.steps
    run.seconds = run.world.agree(time.monotonic() - run.started, run.device)
    return run.step > 0 and run.seconds + 0.5 * run.world.agree(step_seconds, run.device) > run.time_limit


def gradients(run: Training, batch: Batch, n_targets: float) -> Tensor:
    """Forward and backward over all micro-batches of this process; returns its loss sum in nats.

    Every micro-batch's sum is divided by the targets of the whole step (all micro-batches, all processes), so the way
    it is cut up does not matter. A process without rows still takes part in the exchange, with a loss of zero rows.
    """
    total = torch.zeros((), dtype=torch.float64, device=run.device)  # float32 would round a sum of many micro-batches
    for index, (micro, last) in enumerate(micro_batches(batch, run.config.micro_rows)):
        with exchange(run.module, last):
            loss_sum, _, state = run.module(micro, run.carry.get(index))
            (loss_sum * (run.world.size / n_targets)).backward()
        total += loss_sum.detach()
        if hasattr(state, "detach"):
            run.carry[index] = state.detach()
        if run.world.size == 1 or last:  # with several processes the exchange happens in the last backward pass
            run.optimizer.collect()
    return total


def micro_batches(batch: Batch, rows: int) -> Iterator[tuple[Batch, bool]]:
    """The batch in pieces of at most `rows` rows, each with whether it is the last."""
    n = batch.input_ids.shape[0]
    for start in range(0, n, rows):
        yield (batch.rows(start, start + rows) if n > rows else batch), start + rows >= n


def check_finite(run: Training) -> None:
    """Raises `TrainingError` when the loss or the gradient is no longer a number; the last checkpoint stays as it is."""
    if all(math.isfinite(run.last[name]) for name in ("loss", "grad_norm")):
        return
    raise not_finite("loss" if not math.isfinite(run.last["loss"]) else "gradient", run, run.step + 1)


def not_finite(what: str, run: Training, step: int) -> TrainingError:
    """The error that says so, and which checkpoint is the last good one."""
    kept = checkpoint.listing(run.folder / "checkpoints")[-1:] if run.folder else []
    rates = ", ".join(sorted({"train.optim.matrix_lr" if group.rule == "muon" else "train.optim.lr" for group in run.optimizer.groups}))
    verb = "are" if what == "weights" else "is"
    good = f"; the last good checkpoint is {kept[0]}" if kept else ""
    return TrainingError(f"the {what} {verb} not finite at step {step}",
                         fix=f"Start a new run (another -o) with a lower learning rate ({rates}){good}")  # fmt: skip


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and a checkpoint was written."""


def notify(run: Training, event: Event) -> None:
    """Tell all callbacks."""
    for callback in run.callbacks:
        callback(run, event)


def save_due(run: Training) -> bool:
    """Whether a checkpoint is due, by steps or by time; all processes answer the same."""
    by_steps = bool(run.config.save_steps) and run.step % run.config.save_steps == 0
    return by_steps or bool(run.world.agree(float(time.monotonic() - run.saved_at >= run.config.save_seconds), run.device))


def save(run: Training) -> None:
    """Write a checkpoint (the first process does) and tell the callbacks."""
    if run.folder is None:
        return
    notify(run, "save")
    carried = run.world.gather({index: state.tensors() for index, state in run.carry.items()})
    if run.world.first:
        total = torch.stack(torch._foreach_norm(list(run.optimizer.master.values()))).sum()
        if not bool(total.isfinite()):  # a loss can be a number while its update is not; on a GPU the loss may not have been read
            raise not_finite("weights", run, run.step)
        checkpoint.save(run.folder / "checkpoints", snapshot(run, carried), keep=run.config.keep)
    run.world.wait()
    run.saved_at = time.monotonic()


def snapshot(run: Training, carried: list[dict[int, dict[str, Tensor]]]) -> checkpoint.Checkpoint:
    """The run's state between two steps; `carried` holds every process's recurrent state, by micro-batch."""
    tensors = dict(run.optimizer.state())
    tensors |= {f"average.{name}": w for name, w in run.average.items()}
    for rank, states in enumerate(carried):
        for index, state in states.items():
            tensors |= {f"carry.{rank}.{index}.{name}": x for name, x in state.items()}
    facts = {"targets": run.targets, "tokens": run.tokens, "seconds": run.seconds,
             "memory": run.memory, "config": run.resumed_config, "carried": [len(states) for states in carried]}  # fmt: skip
    return checkpoint.Checkpoint(run.step, tensors, facts)


def completed(facts: dict[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint remembers; those that there were not yet when it was written have their defaults."""
    kind = RecurrentConfig if "cell" in facts.get("model", {}) else TransformerConfig
    usual = {"model": kind().plain(), "train": TrainConfig(steps=1).plain()}
    return {name: {**usual[name], **value} if name in usual else value for name, value in facts.items()}


def restore(run: Training, saved: checkpoint.Checkpoint) -> None:
    """Take a checkpoint's state into a fresh `Training` of the same shape.

    Raises `CheckpointError` when the run was planned otherwise than the checkpoint remembers: config.yaml has been edited since; and for a
    checkpoint of another version.
    """
    changed = differences(*(json.loads(json.dumps(facts)) for facts in (completed(saved.facts["config"]), run.resumed_config)))
    if changed:
        raise CheckpointError(
            "the plan is not the one that this run was begun with; changed: " + "; ".join(changed),
            where=run.folder / "config.yaml" if run.folder else None,
            fix="Put it back as it was, or start a new run with another -o",
        )
    tensors = {name: x.to(run.device) for name, x in saved.tensors.items()}
    missing = sorted(run.optimizer.state().keys() - tensors.keys())
    if missing:
        raise CheckpointError(f"this checkpoint is of another version of wordmill: it lacks {missing[0]}",
                              where=run.folder / "checkpoints" if run.folder else None,
                              fix="Resume with the version that wrote it, or start a new run with another -o")  # fmt: skip
    run.optimizer.load_state(tensors)
    for name, w in run.average.items():
        w.copy_(tensors[f"average.{name}"])
    carried = saved.facts["carried"]
    if any(carried) and len(carried) != run.world.size:
        run.reporter.warn(
            f"the run was carried by {len(carried)} processes and goes on with {run.world.size}: the recurrent state starts empty"
        )
    else:
        for index in range(carried[run.world.rank]):
            prefix = f"carry.{run.world.rank}.{index}."
            state = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            run.carry[index] = type(run.model.new_state(1, 1)).from_tensors(state)  # type: ignore[union-attr]
    run.step, run.targets, run.seconds = saved.step, int(saved.facts["targets"]), float(saved.facts["seconds"])
    run.tokens, run.memory = int(saved.facts["tokens"]), dict(saved.facts["memory"])
