"""The model folder: Hugging Face's layout, written and read without `transformers`.

    config.json  model.safetensors  generation_config.json   (+ tokenizer files, wordmill.json, README.md from elsewhere)

Loading (of sharded and of old `.bin` folders too) copies tensor by tensor out of mapped files, see tensors.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wordmill.core.errors import ConfigError, ModelError
from wordmill.core.files import read_json, write_atomic, write_json
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.families import Family, Weight, family
from wordmill.models.lora import merged_state
from wordmill.models.meta import without_weights
from wordmill.models.recurrent import RecurrentLM
from wordmill.models.tensors import WEIGHTS, Stored, open_weights
from wordmill.models.transformer import Stack, Transformer

LanguageModel = Transformer | RecurrentLM
RECURRENT = "wordmill-recurrent"
ADAPTER = "adapter_config.json"
"""What makes a folder one of an adapter (adapters.py)."""


def build_model(config: ModelConfig) -> LanguageModel:
    """A model of that shape; its weights are not drawn yet (`initialise(seed)` draws them)."""
    return RecurrentLM(config) if isinstance(config, RecurrentConfig) else Transformer(config)


def compile_blocks(model: LanguageModel) -> None:
    """Compile each block on its own: all of them share one compilation, a sixth of the time that the whole model takes."""
    for block in [*getattr(model, "blocks", []), *getattr(getattr(model, "encoder", None), "blocks", [])]:
        block.compile(dynamic=False)
    for stack in _stacks(model):
        stack.uniform = True


def recompute_blocks(model: nn.Module) -> None:
    """In training keep only what goes into each block, and compute the block again in the backward pass (Chen et al. 2016, arXiv
    1604.06174): a third more work, and memory for one block's activations in place of all. Gradients are the same, bit for bit.

    Raises `ConfigError` for a recurrent model, which has no blocks.
    """
    stacks = _stacks(model)
    if not stacks:
        raise ConfigError("a recurrent model has no blocks that could be computed again", where="train.recompute", fix="Leave it away")
    for stack in stacks:
        stack.recompute = True


def _stacks(model: nn.Module) -> list[Stack]:
    return [module for module in model.modules() if isinstance(module, Stack)]


def read_config(folder: Path) -> ModelConfig:
    """The settings in a folder's config.json. Raises `ModelError` for what is missing or not supported."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(
            "no such model folder", where=folder, fix="Give the folder that a training command wrote, for example runs/NAME/model"
        )
    if not path.exists():
        adapter = (folder / ADAPTER).exists()
        raise ModelError(
            "this folder holds an adapter, not a whole model" if adapter else "this folder has no config.json, so it is not a model folder",
            where=folder,
            fix="Open it with wordmill.load, which finds its base; Loaded.save then writes both as one model" if adapter else None,
        )
    return read_config_file(path)


def read_config_file(path: Path) -> ModelConfig:
    """The settings in a config.json. Raises `ModelError` for what is not supported."""
    values = read_json(path)
    kind = values.get("model_type")
    if kind == RECURRENT:
        known = {name: value for name, value in values.items() if name in RecurrentConfig.model_fields}
        return RecurrentConfig.of({**known, "family": RECURRENT}, where=str(path))
    if not isinstance(kind, str):
        raise ModelError("config.json names no model_type", where=path)
    try:
        settings = family(kind).from_hf(values)
    except KeyError as error:
        raise ModelError(f"config.json lacks the setting {error.args[0]!r}", where=path) from None
    return TransformerConfig.of({"family": kind, "vocab_size": values.get("vocab_size"), **settings}, where=str(path))


def config_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What config.json says of a model."""
    name = str(dtype).removeprefix("torch.")
    if isinstance(config, RecurrentConfig):
        return {"model_type": RECURRENT, "architectures": ["RecurrentLM"], "dtype": name, **config.plain()}
    kind = family(config.family)
    architecture = kind.architecture if config.lm_head else kind.bare
    return {"model_type": kind.name, "architectures": [architecture], "dtype": name, **kind.to_hf(config)}


TRAINING_ONLY = frozenset({"family", "dropout", "init_std", "embedding_std", "lm_head", "pooler"})
"""Settings that config.json need not say: they change no logits, or the weights tell."""


def check_expressible(config: ModelConfig) -> None:
    """Raises `ModelError` for a setting that the family's config.json has no word for: the folder would be another model."""
    if isinstance(config, RecurrentConfig):
        return
    kind = family(config.family)
    back = TransformerConfig.of({"family": kind.name, "vocab_size": config.vocab_size, **kind.from_hf(config_json(config, torch.float32))})
    for name in TransformerConfig.model_fields:
        if name in TRAINING_ONLY or name in _without_meaning(config):
            continue
        ours, theirs = (_normal(one, name) for one in (config, back))
        if ours != theirs and not (isinstance(ours, float) and isinstance(theirs, float) and abs(ours - theirs) <= 1e-6 * abs(ours)):
            raise ModelError(
                f"the family {kind.name} has no way to say {name}={getattr(config, name)!r} (it means {getattr(back, name)!r})",
                where="model",
                fix="Change the setting, or choose another family: wordmill-transformer can say everything",
            )


def _without_meaning(config: TransformerConfig) -> set[str]:
    """Settings of parts that this model does not have."""
    idle = set() if config.positions == "rotary" else {"rope_theta", "rope_local_theta", "rope_scaling", "rope_share"}
    idle |= set() if config.positions == "learned" else {"position_offset"}
    idle |= {"max_positions"} if config.positions == "relative" else {"relative_buckets", "relative_distance"}
    idle |= set() if config.norm == "layernorm" else {"norm_bias"}
    idle |= set() if config.head_transform else {"head_transform_bias", "head_activation"}
    if config.rope_scaling is not None and config.rope_scaling.kind == "ntk":
        idle |= {"rope_theta", "rope_scaling"}
    if not any(map(config.window, range(config.layers))):
        idle |= {"rope_local_theta"}
    return idle


def _normal(config: TransformerConfig, name: str) -> Any:
    """A setting's value, written out where there are several ways to say the same."""
    if name == "windows":
        return [config.window(layer) for layer in range(config.layers)]
    value = getattr(config, name)
    defaults = {"attention_scale": config.head_size**-0.5, "encoder_heads": config.heads, "encoder_ffn_size": config.ffn_size,
                "rope_local_theta": config.rope_theta,
                "embedding_scale": config.width**0.5 if config.positions == "sinusoidal" else 1.0}  # fmt: skip
    return defaults[name] if value is None and name in defaults else value


def save_model(model: LanguageModel, folder: Path, *, dtype: torch.dtype = torch.float32, weights: dict[str, Tensor] | None = None) -> None:
    """Write config.json, model.safetensors and generation_config.json.

    `weights` replaces the model's own (the float32 masters of a bfloat16 model, an average). The adapters of a model that count
    are merged into what is written. Raises `DiskFullError`, and `ModelError` for a model that the family can't express.
    """
    check_expressible(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    config, ours = model.config, dict(weights if weights is not None else merged_state(model))
    theirs = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in to_family(config, ours)}
    write_atomic(folder / WEIGHTS, lambda part: write_tensors(theirs, part))
    write_json(folder / "config.json", config_json(config, dtype))
    ids = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "pad_token_id": config.pad_id,
           "decoder_start_token_id": getattr(config, "decoder_start_id", None)}  # fmt: skip
    write_json(folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None})


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a file. Raises OSError, with its number, for what the system refuses: the library hides that inside a message."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        said = re.search(r"os error (\d+)", str(error))
        if said:
            raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
        raise


def load_model(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """The model in a folder, in evaluation mode, on `device`; `dtype` None keeps the dtype of the file.

    A folder of a bare encoder gives a model without an output layer. Learned tensors that the model has no part for are
    listed in its `ignored`. Raises `ModelError` when a file is missing or torn, or a tensor is missing, unexpected or of
    another shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    if head_kind(folder) is not None:
        raise ModelError(
            "this model was fine-tuned for a task and has an answer in place of an output layer",
            where=folder,
            fix="Open it with wordmill.load, or use it with wordmill predict",
        )
    return assemble(config, open_weights(folder), folder, device=device, dtype=dtype)


HEAD_KINDS = {"sequence": "ForSequenceClassification", "token": "ForTokenClassification", "span": "ForQuestionAnswering"}
"""How the names of the classes end that answer once for a text, once for each token, or with a span."""


def head_kind(folder: Path) -> str | None:
    """Which of `HEAD_KINDS` the folder's model is by its config.json; None for a language model or a bare one."""
    architecture = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    return next((kind for kind, ending in HEAD_KINDS.items() if architecture.endswith(ending)), None)


def assemble(
    config: ModelConfig, stored: dict[str, Stored], folder: Path, *, device: torch.device | str, dtype: torch.dtype | None
) -> LanguageModel:
    """The model of that shape with the tensors of a folder, all of which must belong to it; the rest as in `load_model`."""
    config, ignored, stored = _whole(config, stored, folder)
    with without_weights():
        model = build_model(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    mapping = weight_list(config) or [Weight(name, (name,)) for name in shapes]
    assert sorted(weight.ours for weight in mapping) == sorted(shapes), "every parameter has a name in the family"
    _check_names(mapping, stored, shapes, folder)
    ours = {weight.ours: _read(weight, stored, shapes[weight.ours], dtype).to(device) for weight in mapping}
    model.load_state_dict(ours, assign=True)
    if isinstance(model, Transformer):
        model.ignored = ignored
    return model.requires_grad_(False).eval()


def whole_config(folder: Path) -> ModelConfig:
    """The settings of a folder's model as `load_model` would make it: config.json, and what the weights tell (nothing of them is read).

    Raises `ModelError` as `load_model` does for what is missing or torn.
    """
    return _whole(read_config(folder), open_weights(folder), folder)[0]


def _whole(config: ModelConfig, stored: dict[str, Stored], folder: Path) -> tuple[ModelConfig, tuple[str, ...], dict[str, Stored]]:
    """The settings with what the weights tell, the tensors that the model has no part for, and the others."""
    if isinstance(config, RecurrentConfig) or family(config.family).weights is None:
        return config, (), stored
    kind = family(config.family)
    stored = _todays_names(kind, stored)
    config, ignored = _what_is_there(config, kind, stored, folder)
    return config, ignored, stored


def weight_list(config: ModelConfig) -> list[Weight] | None:
    """The mapping of every tensor, the output layer's included; None where names are our own."""
    if isinstance(config, RecurrentConfig):
        return None
    kind = family(config.family)
    if kind.weights is None:
        return None
    untied = config.lm_head and not config.tie_embeddings
    return [*kind.weights(config), *([Weight("head.weight", (kind.head,))] if untied else [])]


def to_family(config: ModelConfig, ours: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names and in the layout of the family; `ours` is used up."""
    mapping = weight_list(config)
    if mapping is None:
        yield from ours.items()
        return
    for weight in mapping:
        tensor = ours.pop(weight.ours).detach()
        if weight.shift:
            tensor = tensor.float() - weight.shift
        for name, part in zip(weight.theirs, tensor.split(weight.sizes) if weight.sizes else (tensor,), strict=True):
            part = part.t() if weight.transpose else part
            yield name, part[None] if weight.leading else part
    assert not ours, f"weights without a name in {config.family}: {sorted(ours)}"


def _todays_names(kind: Family, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors under the names of the whole model, without those that hold no learned weights."""
    found = {}
    bare = not any(name.startswith(kind.prefix) for name in stored)
    own = {kind.head, *(alias for alias, _ in kind.copies if not alias.startswith(kind.prefix))}
    for name, tensor in stored.items():
        for old, new in kind.renames:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if not (kind.skip and name.endswith(kind.skip)):
            found[kind.prefix + name if bare and name not in own else name] = tensor
    return found


def _what_is_there(
    config: TransformerConfig, kind: Family, stored: dict[str, Stored], folder: Path
) -> tuple[TransformerConfig, tuple[str, ...]]:
    """The config with the optional parts that the file has (pooler, output layer), and the names of tensors without a use.
    Takes those and second copies out of `stored`. Raises `ModelError` for copies that differ."""
    if kind.pooler and kind.pooler in stored:
        config = config.replace(pooler=True)
    assert kind.weights is not None
    embedding = next(weight.theirs[0] for weight in kind.weights(config) if weight.ours == "embedding.weight")
    copies = [*kind.copies, *([(kind.head, embedding)] if config.tie_embeddings and config.lm_head else [])]
    for alias, name in dict(copies).items():
        if alias not in stored:
            continue
        if name not in stored:
            stored[name] = stored.pop(alias)
        elif stored[alias].equals(stored[name]):
            del stored[alias]
        elif alias == kind.head and config.tie_embeddings:
            config = config.replace(tie_embeddings=False)  # config.json says tied, the file holds two matrices: the file is the model
        elif alias != kind.head:
            raise ModelError(f"{alias} should be the same as {name}, and differs", where=folder)
    weights = weight_list(config) or []
    heads = [weight for weight in weights if weight.ours.startswith("head") and not weight.optional]
    if heads and not any(name in stored for weight in heads for name in weight.theirs):
        config = config.replace(lm_head=False)
    unused = tuple(sorted(name for name in stored if kind.unused and name.endswith(kind.unused)))
    for name in unused:
        del stored[name]
    return config, unused


def _check_names(mapping: list[Weight], stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raises `ModelError` for a tensor that is missing, unexpected or of another shape, before anything is read."""
    for weight in mapping:
        shape = shapes[weight.ours]
        for name, rows in zip(weight.theirs, weight.sizes or shape[:1], strict=True):
            if name not in stored:
                if weight.optional:
                    continue
                raise ModelError(f"the weights lack {name}", where=folder)
            expected = (rows, *shape[1:])[:: -1 if weight.transpose else 1]
            expected = (1, *expected) if weight.leading else expected
            if stored[name].shape != expected:
                raise ModelError(f"{name} has shape {stored[name].shape}, config.json asks for {expected}", where=stored[name].path)
    left = sorted(set(stored) - {name for weight in mapping for name in weight.theirs})
    if left:
        raise ModelError(
            f"unexpected tensor {left[0]} ({len(left)} in all)", where=stored[left[0]].path, fix="Is config.json of this model?"
        )


def _read(weight: Weight, stored: Mapping[str, Stored], shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    """One of our tensors, made of the family's."""
    if weight.theirs[0] not in stored:
        return torch.zeros(shape, dtype=dtype or next(iter(stored.values())).dtype)
    kept = torch.float32 if weight.shift and dtype != torch.float64 else dtype
    out = torch.empty(shape, dtype=kept or stored[weight.theirs[0]].dtype)
    start = 0
    for name, rows in zip(weight.theirs, weight.sizes or shape[:1], strict=True):
        part = out[start : start + rows]
        part = part.t() if weight.transpose else part
        stored[name].copy_to(part[None] if weight.leading else part, shift=weight.shift)
        start += rows
    return out
