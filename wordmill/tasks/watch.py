"""Watching a fine-tuning run: its score on the validation examples, the best weights, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from wordmill.batches.examples import Encoded, batches_of, in_pieces
from wordmill.core.progress import human_time, plural
from wordmill.evaluate.bootstrap import lower_is_better
from wordmill.evaluate.watch import Watch
from wordmill.generate.score import evaluating
from wordmill.tasks.examples import Record
from wordmill.tasks.task import BATCH_TOKENS, Task, Tools
from wordmill.train.log import Log
from wordmill.train.loop import Event, Training
from wordmill.train.objectives import LossSum

SPLITS = 2
"""Validation and test examples, of both of which there are samples in the end."""
WRITTEN, FIRST = 64, 8
"""Validation answers that a task that writes them gives each time, at most; where a time was set, so many the first time."""
ANSWERING, FEWEST, LOOKING = 0.25, 20, 0.03
"""Share of a set time that writing answers in the end may take: of validation examples no more are answered than fit, but so many; and
share that answers may take each time the model is looked at."""
BEAMS_AT_ONCE = 3
"""Further beams that take as long as one answer does alone: they share products and what was read of the source (docs/log.md)."""


def every(n: int, most: int) -> int:
    """Of `n` examples each how-manyth is taken, so that they are at most `most`."""
    return max(1, -(-n // most))


class TaskWatch(Watch):
    """Judges the model on validation examples as often as the plan says, keeps the best weights (the better score, then the lower loss;
    of a task that writes its answers the lower loss), and ends the run after `patience` evaluations without a gain (0: never). No other
    examples are ever looked at. Where a time was set (`whole`: seconds for training and what comes after it), training ends so that the
    `in_the_end` examples can be answered in what is left, as far as looking at validation examples has told how long that takes. Of those
    that are `of_validation` examples, fewer are answered in writing where all would leave too little time to train: `run.memory` says which
    share (`answered`)."""

    def __init__(
        self, log: Log, task: Task, tools: Tools, records: Sequence[Record], encoded: Sequence[Encoded], *, patience: int,
        in_the_end: int = 0, of_validation: int = 0, whole: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(log, None, tools.tokenizer, prompts=(), max_targets=None, keep_best=True)
        self.task, self.tools, self.records, self.encoded, self.patience = task, tools, records, encoded, patience
        self.in_the_end, self.of_validation, self.whole = in_the_end, of_validation, whole
        self.each, self.sampling = 0.0, 0.0

    def __call__(self, run: Training, event: Event) -> None:
        """As `Watch`; all processes learn from the first one whether it is enough, and until when there is time to train. Where a time was
        set, four times as much of it goes into training between two looks as the last one took."""
        memory, before = run.memory, run.memory.get("evaluated_step")
        if event == "step" and self.whole is not None and run.seconds < memory.get("look_after", 0.0):
            return
        begun, spent = time.monotonic(), self.seconds
        super().__call__(run, event)
        if memory.get("evaluated_step") == before:
            return
        if event == "step" and self.whole is not None and self.records:
            look, now = (run.world.agree(value, run.device) for value in (self.seconds - spent, run.seconds + time.monotonic() - begun))
            self._set_limit(run, look, now)
        if self.patience:
            stale = memory.get("stale", 0)
            run.enough = bool(run.world.agree(float(stale >= self.patience), run.device))
            if run.enough and event == "step":
                run.reporter.note(f"no gain in {plural(stale, 'evaluation')}: enough")

    def _set_limit(self, run: Training, look: float, now: float) -> None:
        """Until when there is time to train, at the second `now`, after a look that took `look` seconds. What share of the run is done
        changes with it, and how many looks there should have been."""
        assert self.whole is not None
        beams = int(getattr(self.task.settings, "beams", 1))
        each = self.each * (1 + (beams - 1) / BEAMS_AT_ONCE)
        answers = self._answers(each)
        if self.of_validation:
            run.memory["answered"] = 1 - (self.in_the_end - answers) / self.of_validation
        limit = self.whole - run.world.agree(self._reserve(look, each * answers), run.device)
        if limit < now < 0.5 * self.whole:
            run.reporter.warn(f"answering {answers:,} examples in the end takes about {human_time(self.whole - limit)} of "
                              f"{human_time(self.whole)}: there is no more time to train")  # fmt: skip
        run.memory["time_limit"] = max(limit, now)
        run.memory["evaluated"] = int(min(1.0, now / run.time_limit) * run.config.evaluations)
        run.memory["look_after"] = now + 4 * look

    def _answers(self, each: float) -> int:
        """How many examples are answered in the end, when an answer takes `each` seconds."""
        if not self.task.writes or not each:
            return self.in_the_end
        others = self.in_the_end - self.of_validation
        return others + min(self.of_validation, max(FEWEST, int(ANSWERING * (self.whole or 0.0) / each) - others))

    def _reserve(self, look: float, answering: float) -> float:
        """Seconds to keep for the last look at the validation examples, when a look takes `look` seconds, and for judging in the end:
        answers take as long as they took now, by a beam search longer (`BEAMS_AT_ONCE`); samples; a tenth more, and what else there is to
        do."""
        return look + 1.1 * (answering + self.sampling) + max(2.0, 0.03 * (self.whole or 0.0))

    def rewind(self, run: Training) -> None:
        """As `Watch`; a run that had had enough has had enough."""
        super().rewind(run)
        run.enough = bool(self.patience) and run.memory.get("stale", 0) >= self.patience

    def _look(self, run: Training) -> None:
        if not self.records:
            return
        started = time.monotonic()
        records, encoded = self._some()
        costs: list[LossSum] = []
        answers = self.task.sketch(run.model, replace(self.tools, costs=costs), records, encoded)
        self.each = (time.monotonic() - started) / max(1, len(records))
        if self.whole is not None and not self.sampling:
            started = time.monotonic()
            self.task.samples(run.model, self.tools, self.records)
            self.sampling = SPLITS * (time.monotonic() - started)
        outcomes = self.task.outcomes(records, answers)
        loss: float = getattr(outcomes, "loss", None) or _per_target(costs or self._costs(run))
        scores = outcomes.metrics()
        score, memory = scores[outcomes.headline], run.memory
        self.log.write({"step": run.step, "time": round(run.seconds, 3), "tokens": run.tokens, "validation_loss": loss,
                        "validation_score": score, **{f"validation_{name}": value for name, value in scores.items() if name != "accuracy"},
                        "score": outcomes.headline})  # fmt: skip
        sign = -1 if lower_is_better(outcomes) else 1

        def rank(score: float, loss: float) -> tuple[float, ...]:
            return (-loss,) if self.task.writes else (sign * score, -loss)

        better = "best_loss" not in memory or rank(score, loss) > rank(memory["best_score"], memory["best_loss"])
        if better:
            memory.update(best_score=score, best_loss=loss, best_step=run.step, stale=0)
            self._keep(run)
        else:
            memory["stale"] = memory.get("stale", 0) + 1
        number = plural(len(records), "answer")
        told = f"{outcomes.headline} {score:.4f}{f' ({number})' if self.task.writes else ''}"
        run.reporter.note(f"step {run.step} · validation {told} · loss {loss:.4f}{' · best so far' if better else ''}")

    def _some(self) -> tuple[Sequence[Record], Sequence[Encoded]]:
        """The examples that are answered each time. Writing takes far longer than reading: a few answers show where it goes, and the loss
        on all tells which weights are best."""
        most = WRITTEN
        if self.whole is not None:
            most = min(WRITTEN, max(FIRST, int(LOOKING * self.whole / self.each))) if self.each else FIRST
        step = every(len(self.records), most) if self.task.writes else 1
        return self.records[::step], self.encoded[::step]

    def _costs(self, run: Training) -> Iterator[LossSum]:
        """Of the validation examples, where answering them doesn't tell it."""
        with evaluating(run.model):
            for _, batch in batches_of(in_pieces(self.encoded)[0], BATCH_TOKENS, capacity=self.tools.capacity):
                yield self.task.objective(run.model, batch.to(run.device))


def _per_target(costs: Iterable[LossSum]) -> float:
    """Nats a target."""
    total, targets = 0.0, 0
    for cost in costs:
        total, targets = total + float(cost.loss_sum), targets + cost.n_targets
    return total / max(1, targets)


class Thaw:
    """Gradual unfreezing: the head learns first, then, in equal shares of the first half of the run, one more block from the top, the
    embedding last (Howard and Ruder 2018, section 3.3). A function of the progress alone, so that resuming needs nothing."""

    def __init__(self, run: Training, depths: dict[str, int]) -> None:
        self.depths = depths
        self.levels = sorted(set(depths.values()), reverse=True)
        self(run, "step")

    def __call__(self, run: Training, event: Event) -> None:
        """Set which weights learn in the next step."""
        if event != "step":
            return
        open_levels = 1 + int(min(1.0, 2 * run.progress) * (len(self.levels) - 1) + 1e-9)
        least = self.levels[open_levels - 1]
        for name, parameter in run.model.named_parameters():
            parameter.requires_grad_(self.depths[name] >= least)


def no_gradient(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Keep these parameters as they are."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)
