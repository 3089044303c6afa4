"""What is asked of a training run, looked at before anything is read: what could only fail later, and what would have no effect.

A setting that is not honoured is an error that names it: nobody finds out after an hour that a word of the command counted for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wordmill.batches.corrupted import corruption_config
from wordmill.core.config import Config
from wordmill.core.device import choose_dtype
from wordmill.core.errors import ConfigError, UsageError
from wordmill.corpus.sources import is_built
from wordmill.models.folder import head_kind, whole_config
from wordmill.models.hub import resolve_model
from wordmill.tasks.plan import parse_count
from wordmill.tokenizer import Tokenizer

if TYPE_CHECKING:
    from wordmill.tasks.pretrain import PretrainConfig

ELSEWHERE = {
    "seed": "--seed N (seed=N in a recipe)",
    "compile": "--compile on|off",
    "steps": "--steps N",
    "seconds": "--time 10m",
    "row_limit": "--epochs N",
}
"""Fields of `TrainConfig` that are filled from other settings, and how these are given."""


def without_effect(names: Iterable[str], why: str, *, fix: str = "Leave that away") -> None:
    """Raises `UsageError` for settings that are given and would do nothing."""
    listed = ", ".join(names)
    if listed:
        raise UsageError(f"{listed} would have no effect: {why}", fix=fix)


def named(given: Mapping[str, Any], section: str) -> list[str]:
    """The settings of a section that were given, as the command line writes them."""
    values = given.get(section) or {}
    return [f"{section}.{name}" for name in sorted(values.model_fields_set if isinstance(values, Config) else values)]


def check_training(train: Mapping[str, Any], size: str | None, elsewhere: Mapping[str, str]) -> None:
    """What pretraining and fine-tuning have in common. `elsewhere` are settings of the training that are given in another way."""
    for name, way in elsewhere.items():
        if name in train:
            raise ConfigError(f"train.{name} is filled from another setting", where=f"train.{name}", fix=f"Say {way}")
    if size is not None:
        parse_count(size, "--size")


def check_end(tokenizer: Tokenizer, where: str | Path | None) -> None:
    """Raises `UsageError` for a tokenizer without an end token."""
    if tokenizer.eos_id is None:
        raise UsageError(
            "this tokenizer has no end token, so a model could never learn to stop",
            where=where,
            fix="Add eos_token to its tokenizer_config.json",
        )


def check_asked(config: PretrainConfig, given: Mapping[str, Any]) -> None:
    """Raises `WordmillError` for what a pretraining run can't honour; `given` is what was said, without what follows from it."""
    check_training(config.train, config.size, ELSEWHERE)
    if config.dtype != "auto":
        choose_dtype(config.dtype, torch.device("cpu"))
    if config.tokens is not None:
        parse_count(config.tokens, "--tokens")
    if config.epochs is not None and config.epochs <= 0:
        raise UsageError("epochs must be more than 0", where="--epochs")
    if config.steps is not None and config.steps < 1:
        raise UsageError(f"steps must be at least 1, not {config.steps}", where="--steps")
    if built(config.sources):
        if config.validation:
            raise UsageError(
                "a corpus folder brings its own validation split", where="--validation", fix="Give the files themselves as sources"
            )
        why = f"{config.sources[0]} is a corpus that is built already"
        without_effect(named(given, "corpus"), why, fix="Say it to `wordmill corpus build`, or give the files themselves as sources")
    purpose = (given.get("tokenizer") or {}).get("purpose") if isinstance(given.get("tokenizer"), Mapping) else None
    if purpose not in (None, config.tokenizer.purpose):
        raise ConfigError(f"a model that learns {config.objective} needs a tokenizer for {config.tokenizer.purpose}, not {purpose}",
                          where="tokenizer.purpose", fix="Leave that away")  # fmt: skip
    if config.parent is not None:
        without_effect(named(given, "tokenizer"), f"the tokenizer of {config.parent} is used")
        without_effect(["--size"] if config.size else [], f"the shape of {config.parent} is settled")
        check_end(Tokenizer.load(resolve_model(config.parent)), config.parent)
        _check_head(config.parent)
    if config.tokenizer_folder is not None:
        without_effect(named(given, "tokenizer"), f"the tokenizer in {config.tokenizer_folder} is used")
        check_end(Tokenizer.load(config.tokenizer_folder), config.tokenizer_folder)
    objective = config.objective or "clm"
    corruption_config(objective, config.corruption)
    if objective != "clm":
        without_effect(["--prompt"] if config.prompts else [], f"a model that learns {objective} is shown no text to continue")


def _check_head(parent: str) -> None:
    """Raises `UsageError` for a model without the output layer that pretraining trains."""
    folder = resolve_model(parent)
    if head_kind(folder) is not None:
        what = "this model was fine-tuned for a task and has an answer in place of an output layer"
        raise UsageError(what, where=parent, fix="Go on from the model that it was made from")
    if not whole_config(folder).lm_head:
        what = "this model has no output layer, and pretraining needs one: its folder holds the bare encoder"
        raise UsageError(what, where=parent, fix="Take a folder that has it (BertForMaskedLM and the like), or fine-tune this one")


def built(sources: tuple[str, ...]) -> bool:
    """Whether the sources are one corpus folder."""
    return len(sources) == 1 and is_built(Path(sources[0]))
