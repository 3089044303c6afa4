"""What `pretrain`, `finetune` and the commands that use what came out share: their words; and how a training that is stopped tells how
to go on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmill.cli.common import emit
from wordmill.cli.names import sections, settings_called
from wordmill.core.errors import UsageError
from wordmill.core.progress import Reporter

if TYPE_CHECKING:
    from wordmill.tasks.run import Run

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
    if name in dict(sections(section)):
        return f"{name} is a group of settings: {name}.NAME=value"
    value = word.partition("=")[2]
    found = [f"{place}={value}" for place in settings_called(name, section)]
    if not found:
        return f"There is no setting {name!r}. Settings name their section, such as train.rows=16"
    return f"Settings name their section: {' or '.join(found)}"


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
