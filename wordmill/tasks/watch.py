"""Watching a fine-tuning run: its score on the validation examples, the best weights, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wordmill.batches.examples import Encoded, batches_of, in_pieces
from wordmill.evaluate.watch import Watch
from wordmill.generate.score import evaluating
from wordmill.tasks.examples import Record
from wordmill.tasks.task import BATCH_TOKENS, Task, Tools
from wordmill.train.log import Log
from wordmill.train.loop import Event, Training


class TaskWatch(Watch):
    """Judges the model on validation examples as often as the plan says, keeps the best weights (the better score, then the lower loss),
    and ends the run after `patience` evaluations without a gain (0: never). No other examples are ever looked at."""

    def __init__(self, log: Log, task: Task, tools: Tools, records: Sequence[Record], encoded: Sequence[Encoded], *, patience: int) -> None:
        super().__init__(log, None, tools.tokenizer, prompts=(), max_targets=None, keep_best=True)
        self.task, self.tools, self.records, self.encoded, self.patience = task, tools, records, encoded, patience

    def __call__(self, run: Training, event: Event) -> None:
        """As `Watch`; all processes learn from the first one whether it is enough."""
        before = run.memory.get("evaluated_step")
        super().__call__(run, event)
        if run.memory.get("evaluated_step") != before and self.patience:
            stale = run.memory.get("stale", 0)
            run.enough = bool(run.world.agree(float(stale >= self.patience), run.device))
            if run.enough and event == "step":
                run.reporter.note(f"no gain in {stale} evaluations: enough")

    def rewind(self, run: Training) -> None:
        """As `Watch`; a run that had had enough has had enough."""
        super().rewind(run)
        run.enough = bool(self.patience) and run.memory.get("stale", 0) >= self.patience

    def _look(self, run: Training) -> None:
        if not self.records:
            return
        loss = self._loss(run)
        answers = self.task.respond(run.model, self.tools, self.records, encoded=self.encoded)
        outcomes = self.task.outcomes(self.records, answers)
        scores = outcomes.metrics()
        score, memory = scores[outcomes.headline], run.memory
        self.log.write({"step": run.step, "time": round(run.seconds, 3), "tokens": run.tokens, "validation_loss": loss,
                        "validation_score": score, **{f"validation_{name}": value for name, value in scores.items() if name != "accuracy"},
                        "score": outcomes.headline})  # fmt: skip
        better = (score, -loss) > (memory.get("best_score", -1.0), -memory.get("best_loss", float("inf")))
        if better:
            memory.update(best_score=score, best_loss=loss, best_step=run.step, stale=0)
            self._keep(run)
        else:
            memory["stale"] = memory.get("stale", 0) + 1
        run.reporter.note(
            f"step {run.step} · validation {outcomes.headline} {score:.4f} · loss {loss:.4f}{' · best so far' if better else ''}"
        )

    def _loss(self, run: Training) -> float:
        """Nats a target on the validation examples."""
        total, targets = 0.0, 0
        with evaluating(run.model):
            for _, batch in batches_of(in_pieces(self.encoded)[0], BATCH_TOKENS, capacity=self.tools.capacity):
                found: Any = self.task.objective(run.model, batch.to(run.device))
                total, targets = total + float(found.loss_sum), targets + found.n_targets
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
