"""What every training run shares, whatever it trains: its folder, resuming it, its signals, its times, several processes.

runs/NAME/   config.yaml (asked, and the plan)   metrics.jsonl   checkpoints/   model/   report.html   run.json (facts)
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from wordmill.core.config import Config, differences, merge, read_yaml
from wordmill.core.errors import ConfigError, UsageError, WordmillError, WriteError
from wordmill.core.files import new_folder, read_json, write_text
from wordmill.core.handlers import handling
from wordmill.evaluate.watch import Watch
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.hub import resolve_model
from wordmill.models.tensors import weight_hashes
from wordmill.train import checkpoint
from wordmill.train.distributed import World
from wordmill.train.loop import TrainConfig, Training, restore

CONFIG, FACTS = "config.yaml", "run.json"
T = TypeVar("T")
C = TypeVar("C", bound=Config)


@dataclass
class SavedPlan:
    """What a plan for any kind of run holds, and its way into config.yaml and back."""

    model: ModelConfig
    train: TrainConfig
    dtype: str

    def plain(self) -> dict[str, Any]:
        """For config.yaml."""
        values = {name: value for name, value in asdict(self).items() if name not in ("model", "train")}
        kind = "recurrent" if isinstance(self.model, RecurrentConfig) else "transformer"
        return {"kind": kind, "model": self.model.plain(), "train": self.train.plain(), **values}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """The way back."""
        rest = dict(values)
        kind = RecurrentConfig if rest.pop("kind") == "recurrent" else TransformerConfig
        return cls(kind.of(rest.pop("model"), where="plan.model"), TrainConfig.of(rest.pop("train"), where="plan.train"), **rest)


@dataclass
class Run:
    """A finished run."""

    folder: Path
    """The run folder."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The numbers of the final evaluation."""

    @property
    def model_folder(self) -> Path:
        """The model folder: give it to any other command."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"


def finished(folder: Path) -> Run | None:
    """The run in a folder, when it went to its end."""
    metrics = read_json(folder / FACTS).get("metrics") if (folder / FACTS).exists() else None
    return Run(folder, metrics) if metrics is not None and (folder / "model" / "config.json").exists() else None


@contextmanager
def left_as_it_was(folder: Path, *, new: bool) -> Iterator[None]:
    """Remove a new run's folder when the run can't begin for a reason that the user mends in the command, so that the mended command works.
    What a disk stopped can be resumed, and stays."""
    try:
        yield
    except WordmillError as error:
        if new and not isinstance(error, WriteError):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def saved_config(folder: Path) -> dict[str, Any]:
    """What config.yaml holds: `asked`, and `plan` once there is one. Raises `ConfigError` for a file that is damaged."""
    values = read_yaml(folder / CONFIG)
    if not isinstance(values.get("asked"), dict):
        raise ConfigError("this file is damaged: it does not say what was asked for", where=folder / CONFIG,
                          fix="Start a new run with another -o; the models in this folder can still be used")  # fmt: skip
    return values


def write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Write config.yaml."""
    write_text(folder / CONFIG, yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False))


def resumed(kind: type[C], given: Mapping[str, Any], out: Path | None) -> tuple[C, Path]:
    """The settings and the folder of the run to resume. Raises `UsageError` when there is none, or its settings have changed."""
    if out is None or not (out / CONFIG).exists():
        raise UsageError(
            "there is no run to resume here", where=out, fix="Name its folder with -o, or leave --resume away to start a new run"
        )
    old = saved_config(out)["asked"]
    check_unchanged(kind, old, given, out)
    return kind.of(old), out


def check_unchanged(kind: type[Config], old: Mapping[str, Any], given: Mapping[str, Any], out: Path) -> None:
    """Raises `UsageError`, which lists them, for settings that are given and are not those of the run to resume."""
    changed = differences(old, kind.of(merge(old, given)).plain())
    if changed:
        raise UsageError(
            "a run is resumed with the settings it was started with; changed: " + "; ".join(changed),
            where=out,
            fix="Leave these away, or start a new run with another -o",
        )


def new_run(config: Config, out: Path | None, group: World) -> Path:
    """Make the folder of a new run, with what was asked. Raises `UsageError` for one that holds something."""
    folder = run_folder(out)
    if group.first:
        make_run_folder(folder, CONFIG)
        write_config(folder, {"asked": config.plain()})
    group.wait()
    return folder


def run_folder(out: str | Path | None) -> Path:
    """The folder of a new run: `out`, or runs/DATE-TIME."""
    return Path(out) if out is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def make_run_folder(folder: Path, mark: str) -> Path:
    """Make it; `mark` is the file by which a run is known that could be resumed. Raises `UsageError` for a folder that holds something."""
    hint = "Go on with it by --resume, or name another folder with -o" if (folder / mark).exists() else "Name another folder with -o"
    return new_folder(folder, hint=hint)


def parent_facts(folder: str | Path | None) -> dict[str, Any] | None:
    """What a model went on from: its folder, and what its weights were."""
    if folder is None:
        return None
    return {"folder": str(folder), "weights": weight_hashes(resolve_model(folder))}


def first_does(group: World, work: Callable[[], T]) -> T:
    """The first process works, the others wait and then find the result on disk."""
    if not group.first:
        group.wait()
    result = work()
    if group.first:
        group.wait()
    return result


def take_up(run: Training, watch: Watch, check: Callable[[Mapping[str, Any]], None], *, resume: bool) -> None:
    """Put a run where its newest checkpoint left it, or at its beginning; `check` looks at the checkpoint's facts first. Raises as
    `restore`."""
    assert run.folder is not None
    saved = checkpoint.load_newest(run.folder / "checkpoints")
    if saved is not None:
        check(saved.facts)
        restore(run, saved)
        run.reporter.note(f"resumed at step {run.step}")
    elif resume:
        run.reporter.note("there was no checkpoint yet: starting from the beginning")
    watch.rewind(run)


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Note how many seconds the body took."""
    begun = time.monotonic()
    yield
    timings[name] = round(time.monotonic() - begun, 3)


@contextmanager
def signals(run: Training) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint; a second one ends it at once."""

    def stop(number: int, _frame: Any) -> None:
        if run.stop is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        run.stop = signal.Signals(number).name

    with handling(stop, signal.SIGINT, signal.SIGTERM):
        yield
