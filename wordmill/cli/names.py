"""What options and settings are called here: for those who type the names of other trainers. Read only once a word wasn't understood."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordmill.core.config import Config

CALLED_ELSEWHERE = {
    "learning_rate": "--lr", **dict.fromkeys(("num_train_epochs", "num_epochs"), "--epochs"),
    **dict.fromkeys(("max_steps", "max_iters"), "--steps"), **dict.fromkeys(("output_dir", "out_dir"), "--out"),
    "model_name_or_path": "--model", **dict.fromkeys(("max_length", "max_seq_length", "cutoff_len"), "--max-tokens"),
    "lora_rank": "--lora", "lora_r": "--lora", "bf16": "--dtype bf16", "fp16": "--dtype bf16", "resume_from_checkpoint": "--resume",
    "early_stopping_patience": "patience=…", "eval_file": "--validation", "validation_file": "--validation", "test_file": "--test",
}  # fmt: skip
"""Options of others' trainers, and what is written here in their place: an option, perhaps with its value, or a setting."""


def settings_called(name: str, section: str) -> list[str]:
    """Where settings of that name stand, or those which others call so: train.optim.lr for learning_rate. `section`: model for pretraining,
    task for fine-tuning."""
    known = [(place, name if name in config.model_fields else config.called_elsewhere.get(name)) for place, config in sections(section)]
    return list(dict.fromkeys(f"{place}.{called}" for place, called in known if called))


def option_called(name: str, options: Collection[str], section: str) -> str | None:
    """What an option that isn't there is called here, among `options` or the settings of `section`; None where that isn't known."""
    plain = name.lstrip("-").replace("-", "_")
    here = CALLED_ELSEWHERE.get(plain, "")
    if here.partition(" ")[0] in options or (here.endswith("=…") and section == "task"):
        return f"Here it is {here}"
    settings = settings_called(plain, section)
    return f"Here it is a setting, without dashes: {' or '.join(f'{place}=…' for place in settings)}" if settings else None


def sections(section: str) -> list[tuple[str, type[Config]]]:
    """The groups of settings that pretraining (`section` is model) or another command has, with their classes."""
    from wordmill.batches.corrupt import DenoiseConfig, InfillConfig, MaskConfig
    from wordmill.corpus import CorpusConfig
    from wordmill.models.config import RecurrentConfig, TransformerConfig
    from wordmill.tasks.task import TASKS, task_class
    from wordmill.tokenizer import TokenizerConfig
    from wordmill.train.loop import TrainConfig
    from wordmill.train.optim import OptimConfig
    from wordmill.train.schedule import ScheduleConfig

    found: list[tuple[str, type[Config]]] = [("task", task_class(name).Settings) for name in TASKS] if section == "task" else []
    found += [("model", TransformerConfig), ("model", RecurrentConfig), ("train", TrainConfig), ("train.optim", OptimConfig),
              ("train.schedule", ScheduleConfig)]  # fmt: skip
    if section == "model":  # pretraining, which reads raw text
        found += [("corruption", MaskConfig), ("corruption", DenoiseConfig), ("corruption", InfillConfig),
                  ("tokenizer", TokenizerConfig), ("corpus", CorpusConfig)]  # fmt: skip
    return found
