"""What `pretrain`, `finetune` and the commands that use what came out share: their words; and how a training that is stopped tells how
to go on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmill.cli.common import emit
from wordmill.core.errors import UsageError
from wordmill.core.progress import Reporter

if TYPE_CHECKING:
    from wordmill.core.config import Config
    from wordmill.tasks.run import Run

CALLED_ELSEWHERE = {
    "learning_rate": "--lr", **dict.fromkeys(("num_train_epochs", "num_epochs"), "--epochs"),
    **dict.fromkeys(("max_steps", "max_iters"), "--steps"), **dict.fromkeys(("output_dir", "out_dir"), "--out"),
    "model_name_or_path": "--model", **dict.fromkeys(("max_length", "max_seq_length", "cutoff_len"), "--max-tokens"),
    "lora_rank": "--lora", "lora_r": "--lora", "bf16": "--dtype bf16", "fp16": "--dtype bf16", "resume_from_checkpoint": "--resume",
    "early_stopping_patience": "patience=…", "eval_file": "--validation", "validation_file": "--validation", "test_file": "--test",
}  # fmt: skip
"""Options of others' trainers, and what is written here in their place: an option, perhaps with its value, or a setting."""
STOPPED = {"SIGINT": 130, "SIGTERM": 143}


def split_words(words: Sequence[str], plain: Collection[str], section: str) -> tuple[list[str], list[str]]:
    """Names (of files, a task), and settings of the form name=value (a file that exists is a file whatever its name). `plain` are the
    settings without a section, `section` one to suggest. Raises `UsageError` for a word such as `layers=6` that names no section."""
    names, pairs = [], []
    for word in words:
        name = word.partition("=")[0]
        if "=" not in word or "/" in name or Path(word).exists():
            names.append(word)
        elif "." in name or name in plain:
            pairs.append(word)
        else:
            raise UsageError(f"can't read the setting {word!r}", fix=_section_hint(name, word, section))
    return names, pairs


def _section_hint(name: str, word: str, section: str) -> str:
    """Where a setting without a section may belong."""
    sections = _sections(section)
    if name in dict(sections):
        return f"{name} is a group of settings: {name}.NAME=value"
    value = word.partition("=")[2]
    found = [f"{place}={value}" for place in settings_called(name, section)]
    if not found:
        return f"There is no setting {name!r}. Settings name their section, such as train.rows=16"
    return f"Settings name their section: {' or '.join(found)}"


def settings_called(name: str, section: str) -> list[str]:
    """Where settings of that name stand, or those which others call so: train.optim.lr for learning_rate. `section`: model for pretraining,
    task for fine-tuning."""
    known = [(place, name if name in config.model_fields else config.called_elsewhere.get(name)) for place, config in _sections(section)]
    return list(dict.fromkeys(f"{place}.{called}" for place, called in known if called))


def option_called(name: str, options: Collection[str], section: str) -> str | None:
    """What an option that isn't there is called here, among `options` or the settings of `section`; None where that isn't known."""
    plain = name.lstrip("-").replace("-", "_")
    here = CALLED_ELSEWHERE.get(plain, "")
    if here.partition(" ")[0] in options or (here.endswith("=…") and section == "task"):
        return f"Here it is {here}"
    settings = settings_called(plain, section)
    return f"Here it is a setting, without dashes: {' or '.join(f'{place}=…' for place in settings)}" if settings else None


def _sections(section: str) -> list[tuple[str, type[Config]]]:
    """The groups of settings that pretraining (`section` is model) or another command has, with their classes."""
    from wordmill.batches.corrupt import DenoiseConfig, InfillConfig, MaskConfig
    from wordmill.corpus import CorpusConfig
    from wordmill.models.config import RecurrentConfig, TransformerConfig
    from wordmill.tasks.task import TASKS, task_class
    from wordmill.tokenizer import TokenizerConfig
    from wordmill.train.loop import TrainConfig
    from wordmill.train.optim import OptimConfig
    from wordmill.train.schedule import ScheduleConfig

    sections: list[tuple[str, type[Config]]] = [("task", task_class(name).Settings) for name in TASKS] if section == "task" else []
    sections += [("model", TransformerConfig), ("model", RecurrentConfig), ("train", TrainConfig), ("train.optim", OptimConfig),
                 ("train.schedule", ScheduleConfig)]  # fmt: skip
    if section == "model":  # pretraining, which reads raw text
        sections += [("corruption", MaskConfig), ("corruption", DenoiseConfig), ("corruption", InfillConfig),
                     ("tokenizer", TokenizerConfig), ("corpus", CorpusConfig)]  # fmt: skip
    return sections


def task_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """The settings of a task that a command which uses a fine-tuned model was given. Raises `UsageError` for those of another section."""
    from wordmill.core.config import parse_overrides

    found = parse_overrides(pairs)
    other = next((word for word in pairs if not word.startswith("task.")), None)
    if other is not None:
        raise UsageError(f"{other} can't be honoured: only settings of the task can", fix="For example task.beams=1")
    return dict(found.get("task", {}))


def over_recipe(recipe: Path | None, given: Mapping[str, Any], lengths: Collection[str]) -> dict[str, Any]:
    """The settings of a recipe with those of the command line laid over them; of `lengths`, which exclude one another, one that is given
    takes the place of whichever the recipe has."""
    from wordmill.core.config import merge, read_yaml

    values = read_yaml(recipe) if recipe else {}
    if any(name in given for name in lengths):
        values = {name: value for name, value in values.items() if name not in lengths}
    return merge(values, given)


def to_the_end(
    command: str, work: Callable[[], Run], out: Path | None, *, json: bool, show: Reporter, following: Callable[[Run], str]
) -> int:
    """Run a training and print what it left, with `following`, the command to give next.

    Returns the exit code: that of the signal, when one stopped it; then the command that resumes is told.
    """
    from wordmill.train.loop import Stopped

    try:
        run = work()
    except Stopped as stopped:
        name, folder = str(stopped.args[0]), str(stopped.args[1])
        show.warn(f"stopped by {name}; a checkpoint is saved. Go on with: wordmill {command} -o {shlex.quote(folder)} --resume")
        return STOPPED.get(name, 130)
    except KeyboardInterrupt:
        if out is None or not any((out / name).exists() for name in ("config.yaml", "seeds.json")):
            raise
        show.warn(f"stopped. Go on with: wordmill {command} -o {shlex.quote(str(out))} --resume")
        return 130
    if int(os.environ.get("RANK", "0")):
        return 0  # under torchrun, the first process speaks for all
    emit(json, {"run": str(run.folder), "model": str(run.model_folder), "report": str(run.report), **run.metrics},
         f"model: {run.model_folder}\nreport: {run.report}\nnext: {following(run)}")  # fmt: skip
    return 0
