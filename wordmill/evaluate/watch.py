"""Callbacks that watch a run: validation, the best weights, and a sample from the same prompts every time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from wordmill.batches.pack import PackedRows
from wordmill.batches.store import TokenStore
from wordmill.core.errors import disk_errors
from wordmill.core.files import write_atomic
from wordmill.evaluate.validation import evaluate_rows, evaluate_store
from wordmill.generate.loaded import Loaded
from wordmill.tokenizer import Tokenizer
from wordmill.train.checkpoint import listing, save_tensors
from wordmill.train.log import Log
from wordmill.train.loop import Event, Training

BEST = "best-{:08}.safetensors"
"""The best weights by validation, by their step."""


@contextmanager
def weights_in(run: Training, weights: dict[str, Tensor]) -> Iterator[None]:
    """Put other weights (the average, the best) into the model for a while."""
    own = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters() if name in weights}
    _fill(run, weights)
    try:
        yield
    finally:
        _fill(run, own)


def _fill(run: Training, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            if name in weights:  # frozen weights stay as they are
                parameter.copy_(weights[name])


class Watch:
    """Validates `config.evaluations` times, evenly spread over the run, and at its end; draws samples each time.

    Validation is bits per byte of `store`, or, for objectives that have none, loss and accuracy on `rows` (at most `max_targets` places of
    them). The validation loss is that of the weights that would be saved (the average where there is one). With `keep_best`
    the best weights by validation are kept in checkpoints/best-STEP.safetensors, and so are those that a kept checkpoint
    would go back to.
    """

    def __init__(
        self,
        log: Log,
        store: TokenStore | None,
        tokenizer: Tokenizer,
        *,
        prompts: Sequence[str],
        max_targets: int | None,
        keep_best: bool,
        rows: PackedRows | None = None,
        sample_tokens: int = 48,
    ) -> None:
        self.log, self.store, self.tokenizer, self.prompts = log, store, tokenizer, prompts
        self.max_targets, self.keep_best, self.sample_tokens = max_targets, keep_best, sample_tokens
        self.rows, self.seconds = rows, 0.0

    def __call__(self, run: Training, event: Event) -> None:
        """Validate when a further share of the run is done; all processes take part, the first one writes."""
        memory = run.memory
        due = int(run.progress * run.config.evaluations) > memory.get("evaluated", 0) if event == "step" else False
        last = event == "end" and memory.get("evaluated_step") != run.step
        if not (due or last):
            return
        memory["evaluated"], memory["evaluated_step"] = int(run.progress * run.config.evaluations), run.step
        started = time.monotonic()
        if run.world.first:
            if run.average:
                with weights_in(run, run.average):
                    self._look(run)
            else:
                self._look(run)
        run.world.wait()
        self.seconds += time.monotonic() - started

    def _look(self, run: Training) -> None:
        found = self._validate(run)
        if found is not None:
            numbers, told = found
            loss = numbers["validation_loss"]
            self.log.write({"step": run.step, "time": round(run.seconds, 3), "tokens": run.tokens, **numbers})
            best = run.memory.get("best_loss")
            if self.keep_best and (best is None or loss < best):
                run.memory["best_loss"], run.memory["best_step"] = loss, run.step
                self._keep(run)
            run.reporter.note(f"step {run.step} · validation loss {loss:.4f} · {told}")
        self._sample(run)

    def _validate(self, run: Training) -> tuple[dict[str, float], str] | None:
        """The numbers for the log, and the headline; None where there is nothing to validate on."""
        if self.rows is not None:
            some = None if self.max_targets is None else max(1, self.max_targets // self.rows.context)
            told = evaluate_rows(run.model, self.rows, max_rows=some)
            if not told.targets:
                run.reporter.warn("the validation text is so short that no target was drawn in it: nothing is validated")
                return None
            return {"validation_loss": told.loss, "validation_accuracy": told.accuracy}, f"{100 * told.accuracy:.2f} % of targets right"
        if self.store is None:
            return None
        score = evaluate_store(run.model, self.store, context=run.config.context, max_targets=self.max_targets)
        loss = score.nats / score.tokens
        numbers = {"validation_loss": loss, "validation_bpb": score.bits_per_byte, "validation_ppl": math.exp(min(loss, 700.0))}
        return numbers, f"{score.bits_per_byte:.4f} bits per byte"

    def _keep(self, run: Training) -> None:
        if run.folder is not None:
            folder = run.folder / "checkpoints"
            folder.mkdir(exist_ok=True)
            write_atomic(folder / BEST.format(run.step), lambda part: save_tensors(run.weights(), part))
            found = best_steps(folder)
            needed = {max((s for s in found if s <= int(place.name.removeprefix("step-"))), default=None) for place in listing(folder)}
            for step in set(found) - needed - {run.step}:
                (folder / BEST.format(step)).unlink()

    def rewind(self, run: Training) -> None:
        """Forget what lies beyond the step that a resumed run starts from."""
        self.log.rewind(run)
        if run.folder is not None and run.world.first:
            for step in best_steps(run.folder / "checkpoints"):
                if step > run.step:
                    (run.folder / "checkpoints" / BEST.format(step)).unlink()

    def _sample(self, run: Training) -> None:
        if not self.prompts:
            return
        loaded = Loaded(run.model, self.tokenizer)
        texts = loaded.generate(list(self.prompts), max_tokens=self.sample_tokens, temperature=0.8, top_p=0.95, seed=0)
        run.model.train()
        if run.folder is not None:
            place = run.folder / "samples.jsonl"
            with disk_errors(place, "writing samples"), open(place, "a", encoding="utf-8") as file:
                for prompt, text in zip(self.prompts, texts, strict=True):
                    file.write(json.dumps({"step": run.step, "prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
        run.reporter.note(f"  {' '.join((self.prompts[0] + texts[0]).split())[:120]}")


def best_weights(folder: Path, step: int | None) -> dict[str, Tensor] | None:
    """The best weights by validation, when they were kept."""
    place = folder / "checkpoints" / BEST.format(step or 0)
    return load_file(place) if step is not None and place.exists() else None


def best_steps(folder: Path) -> list[int]:
    """The steps whose weights were kept as the best so far."""
    return sorted(int(place.stem.removeprefix("best-")) for place in folder.glob("best-*.safetensors"))
