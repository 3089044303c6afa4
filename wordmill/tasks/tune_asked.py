"""What is asked of a fine-tuning run, looked at before anything is read: the part of asked.py that is about examples and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from wordmill.core.device import choose_numbers
from wordmill.core.errors import UsageError
from wordmill.models.folder import read_config
from wordmill.tasks.adapted import check_lora
from wordmill.tasks.asked import ELSEWHERE, check_training, named, without_effect
from wordmill.tasks.plan import asked_size, check_shape, check_sizes, parse_time
from wordmill.tasks.task import task_class
from wordmill.tasks.tuned_shape import SMALLEST
from wordmill.tokenizer import Tokenizer
from wordmill.train import budget
from wordmill.train.loop import TrainConfig

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig


def check_asked(config: FinetuneConfig, given: Mapping[str, Any]) -> None:
    """What can be known to be wrong before anything is read; `given` is what was said. Raises `WordmillError`."""
    kinds = task_class(config.task)
    if not config.data:
        raise UsageError("no examples given", fix="Name a file: wordmill finetune TASK FILE --model FOLDER")
    if config.parent is None:
        raise UsageError("no model given", fix="Name a model folder, or a family to start from scratch: --model runs/x/model, --model bert")
    if config.time is not None:
        parse_time(config.time)
    check_training(config.train, config.size, ELSEWHERE | {"compile": "nothing: fine-tuning is not compiled"})
    TrainConfig.of({"steps": 1, **config.train}, where="train")
    if config.dtype != "auto":
        choose_numbers(config.dtype, torch.device("cpu"), whole=True)
    if config.lora is not None:
        check_lora(config)
        if config.options.get("ngrams"):
            raise UsageError("an adapter can't hold n-grams", where="task.ngrams", fix="Leave that away, or --lora")
    if config.tokenizer_folder is not None and not config.shaped:
        without_effect(named(given, "tokenizer"), f"the tokenizer in {config.tokenizer_folder} is used")
        Tokenizer.load(config.tokenizer_folder)
    if not config.shaped:
        if "/" in config.parent or config.parent.startswith("."):
            raise UsageError("no such model folder", where=config.parent, fix="Give the folder that a training command wrote")
        check_sizes(config.shape)
        check_shape(config.parent, config.shape, asked_size(config.shape, *SMALLEST), settled=config.size is None)
        if config.fresh:
            raise UsageError(f"{config.parent} is a family: its weights are new anyway", where="--fresh", fix="Leave --fresh away")
    else:
        only = {"--size": config.size, "--tokenizer": config.tokenizer_folder}
        wrong = [name for name, value in only.items() if value is not None] + named(given, "tokenizer")
        wrong += [f"model.{name}" for name in set(config.shape) - {"dropout"}]
        if wrong:
            raise UsageError(f"the shape and the tokenizer of {config.parent} are settled: {', '.join(sorted(wrong))} can't be set",
                             fix="Only model.dropout can; a family's name starts from scratch")  # fmt: skip
    _check_split(config, given)
    kinds.suited(model_kind(config), config.options)


def _check_split(config: FinetuneConfig, given: Mapping[str, Any]) -> None:
    """Raises `UsageError` for what is said of examples that are not set aside, or of how they are looked at where there are none."""
    said = [name for name in ("validation_share", "split_seed") if given.get(name) is not None]
    if config.validation:
        without_effect(said, f"the best weights are chosen by {', '.join(config.validation)}, and no examples are set aside")
    elif not config.validation_share:
        idle = [name for name in ("split_seed", "patience") if given.get(name) is not None]
        without_effect(idle, "with validation_share=0 there are no validation examples")


def model_kind(config: FinetuneConfig) -> str:
    """What kind of model is started from: encoder, decoder, encoder-decoder or recurrent. Raises `ModelError` for no model folder."""
    assert config.parent is not None
    if config.shaped:
        return read_config(config.base).kind
    return budget.model_config(config.parent, budget.family_shape(config.parent, 64, 1)).kind
