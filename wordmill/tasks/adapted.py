"""What a run with `lora` does differently: what must hold before it, what its checkpoints say of the base, what it leaves.

runs/NAME/   model/ (the base with the adapter merged into it)   adapter/ (the adapter alone, in PEFT's format)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wordmill.core.errors import CheckpointError
from wordmill.models.adapters import add_lora, chosen, places, save_adapter
from wordmill.models.folder import build_model, load_model, read_config, save_model
from wordmill.models.hub import resolve_model
from wordmill.models.lora import merge_lora
from wordmill.tasks.run import weight_hashes

if TYPE_CHECKING:
    from wordmill.tasks.pretrain import PretrainConfig


def check_lora(config: PretrainConfig) -> None:
    """Raises `ConfigError` for layers that the base doesn't have, `UsageError` for one that can't be adapted: before the text is read."""
    if config.lora is None or config.parent is None:
        return
    with torch.device("meta"):
        chosen(config.lora.targets, places(build_model(read_config(resolve_model(config.parent)))))


def base_facts(config: PretrainConfig) -> dict[str, Any]:
    """The hashes of the base's weights: a checkpoint holds the adapter alone, which means nothing beside others."""
    if config.lora is None or config.parent is None:
        return {}
    return {"base": weight_hashes(config.parent)}


def check_base(config: PretrainConfig, saved: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` when the base is not the one that the checkpoint's adapter was trained beside."""
    if config.lora is not None and base_facts(config)["base"] != saved["config"].get("base"):
        raise CheckpointError("the weights of the base are not those that this run began with", where=config.parent,
                              fix="Put them back, or start a new run")  # fmt: skip


def save_adapted(config: PretrainConfig, weights: Mapping[str, Tensor], model_folder: Path, adapter: Path, metrics: dict[str, Any]) -> None:
    """Write the adapter, and the base with it merged in, from the trained `weights` in float32 and the base as its folder has it: what the
    run computed with may have been rounded. Counts the adapter's weights in `metrics`."""
    assert config.lora is not None and config.parent is not None
    model = load_model(resolve_model(config.parent), dtype=torch.float32)
    add_lora(model, config.lora, config.seed)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(weights[name])
    metrics["trained_parameters"] = sum(parameter.numel() for parameter in learned.values())
    save_adapter(model, adapter, config.lora, base=config.parent)
    merge_lora(model)
    save_model(model, model_folder)
