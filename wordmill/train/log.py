"""What a run leaves behind as it goes: metrics.jsonl, the progress bar, TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from wordmill.core.errors import MissingExtraError, disk_errors
from wordmill.core.files import write_text
from wordmill.core.progress import Task, human_count
from wordmill.train.loop import Event, Training


class Log:
    """A callback that writes one row a step and moves the progress bar.

    Rows: step, time (s), tokens (read), loss (nats/target), lr (and, with Muon, matrix_lr, embedding_lr, head_lr: the learning
    rates of the step), tokens_per_second, mfu (share of the
    measured matrix-product rate), grad_norm. Other callbacks add rows with `write`. `bytes_per_token` None: the loss is not one that
    bits per byte follow from, and none are shown.
    """

    def __init__(
        self,
        folder: Path | None,
        task: Task,
        *,
        flops_per_token: float,
        peak: float,
        bytes_per_token: float | None,
        tensorboard: bool = False,
    ) -> None:
        self.path = folder / "metrics.jsonl" if folder else None
        self.task, self.flops, self.peak, self.bytes_per_token = task, flops_per_token, peak, bytes_per_token
        self.board = _tensorboard(folder) if tensorboard and folder else None
        self.before = (0, 0.0)

    def rewind(self, run: Training) -> None:
        """Drop rows and samples beyond the step that a resumed run starts from, and an unfinished last line."""
        self.before = (run.tokens, run.seconds)
        self.task.begin(run.progress)
        for path in (self.path, self.path.with_name("samples.jsonl")) if self.path else ():
            if path.exists():
                lines = path.read_bytes().split(b"\n")
                write_text(path, "".join(f"{line.decode()}\n" for line in lines if _step_of(line) <= run.step))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self.path is not None:
            with disk_errors(self.path, "writing the log"), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name not in ("step", "time"):
                    self.board.add_scalar(name, value, row["step"])

    def __call__(self, run: Training, event: Event) -> None:
        """One row a logged step."""
        if event == "end" and self.board is not None:
            self.board.close()
        if event != "step" or not run.last.get("logged"):
            return
        tokens, seconds = run.tokens - self.before[0], run.seconds - self.before[1]
        self.before = (run.tokens, run.seconds)
        speed = tokens / seconds if seconds > 0 else 0.0
        mfu = speed * self.flops / self.peak if self.peak else None
        row = {"step": run.step, "time": round(run.seconds, 3), "tokens": run.tokens, "loss": run.last["loss"],
               **{name: peak * run.last["lr_factor"] for name, peak in run.config.optim.rates().items()},
               "tokens_per_second": round(speed, 1), "mfu": None if mfu is None else round(mfu, 4),
               "grad_norm": run.last["grad_norm"]}  # fmt: skip
        self.write(row)
        shown = {"step": str(run.step), "loss": f"{run.last['loss']:.3f}"}
        if self.bytes_per_token is not None:
            shown["bpb"] = f"{run.last['loss'] / math.log(2) / self.bytes_per_token:.3f}"
        shown["tokens/s"] = human_count(speed)
        self.task.set(run.progress, **shown, **({} if mfu is None else {"FLOP utilisation": f"{100 * mfu:.0f} %"}))


def _step_of(line: bytes) -> float:
    """The step of a row; infinite for a line that is not whole."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "track", "--tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
