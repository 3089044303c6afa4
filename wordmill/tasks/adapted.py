"""What a run with `lora` does differently: what must hold before it, what its checkpoints say of the base, what it leaves.

runs/NAME/   model/ (the base with the adapter merged into it)   adapter/ (the adapter alone, in PEFT's format)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wordmill.core.errors import CheckpointError, ModelError
from wordmill.core.lineage import FILE, read_lineage
from wordmill.models.adapters import add_lora, attach, chosen, own_base, places, read_adapter, save_adapter
from wordmill.models.folder import LanguageModel, build_model, load_model, read_config, save_model
from wordmill.models.heads import HeadConfig, Headed, head_names, load_base, with_head
from wordmill.models.hub import resolve_model
from wordmill.models.lora import merge_lora
from wordmill.models.meta import without_weights
from wordmill.models.tensors import weight_hashes

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig
    from wordmill.tasks.pretrain import PretrainConfig


HEADS = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS"}
"""What PEFT calls models with a head for a task."""


def check_lora(config: PretrainConfig | FinetuneConfig) -> None:
    """Raises `ConfigError` for layers that the base doesn't have, `UsageError` for one that can't be adapted: before the text is read."""
    if config.lora is None or config.parent is None:
        return
    with without_weights():
        chosen(config.lora.targets, places(build_model(read_config(resolve_model(config.parent)))))


def base_facts(config: PretrainConfig | FinetuneConfig) -> dict[str, Any]:
    """The hashes of the base's weights: a checkpoint holds the adapter alone, which means nothing beside others."""
    if config.lora is None or config.parent is None:
        return {}
    return {"base": weight_hashes(resolve_model(config.parent))}


def check_base(config: PretrainConfig | FinetuneConfig, saved: Mapping[str, Any]) -> None:
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
    metrics["trained_parameters"] = _fill(model, weights)
    save_adapter(model, adapter, config.lora, base=config.parent)
    merge_lora(model)
    save_model(model, model_folder)


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Put the trained weights into a model of which the same ones learn; how many numbers these are."""
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(weights[name])
    return sum(parameter.numel() for parameter in learned.values())


def base_of(model: Any) -> LanguageModel:
    """The language model in a model with a head for a task, or the model itself: what an adapter stands beside."""
    return cast(LanguageModel, model.base if isinstance(model, Headed) else model)


def save_tuned_adapter(config: FinetuneConfig, model: nn.Module, weights: Mapping[str, Tensor], adapter: Path) -> int:
    """Write the adapter of a fine-tuning run, its head whole beside it, from the trained `weights` in float32 and `model`, which is as the
    run began and ends with all of it merged in. Returns how many numbers were trained."""
    assert config.lora is not None and config.parent is not None
    base = base_of(model)
    add_lora(base, config.lora, config.seed)
    trained = _fill(model, weights)
    settings: dict[str, Any] = {}
    if isinstance(model, Headed):
        whole = {called: model.get_parameter(name) for name, called in head_names(model).items()}
        settings = {"whole": whole, "task": HEADS[model.head.kind], "inside": model.layout.prefix}
    save_adapter(base, adapter, config.lora, base=config.parent, **settings)
    merge_lora(base)
    return trained


def head_facts(model: nn.Module) -> dict[str, Any] | None:
    """What has to be known of a head beside its weights, JSON-ready."""
    return model.head.plain() if isinstance(model, Headed) else None


def open_tuned_adapter(folder: Path, *, device: torch.device, dtype: torch.dtype | None) -> Headed:
    """The model that an adapter's folder of a fine-tuning run and its base make together, in evaluation mode.

    Raises `ModelError` for a folder that doesn't say what its head stands for, or whose head doesn't fit; the rest as in `attach`.
    """
    facts, read = read_lineage(folder).get("head"), read_adapter(folder)
    if facts is None:
        raise ModelError("this adapter's folder does not say what its answers stand for", where=folder / FILE)
    base = load_base(own_base(folder), dtype=dtype)
    model = with_head(base, HeadConfig.of(facts, where=str(folder / FILE)), seed=0)
    for name, called in head_names(model).items():
        parameter = model.get_parameter(name)
        if called not in read.whole or read.whole[called].shape != parameter.shape:
            raise ModelError(f"the adapter's head does not fit: {called} is missing or of another shape", where=folder)
        with torch.no_grad():
            parameter.copy_(read.whole[called])
    attach(model.base, read, inside=model.layout.prefix)
    return model.to(device).requires_grad_(False).eval()
