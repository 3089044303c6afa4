"""The model folder: Hugging Face's layout, written and read without `transformers`.

    config.json  model.safetensors  generation_config.json   (+ tokenizer files, wordmill.json, README.md from elsewhere)

Loading maps the file into memory and copies tensor by tensor, so it takes little more than the weights themselves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wordmill.core.errors import ModelError
from wordmill.core.files import read_json, write_atomic, write_json
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.families import Weight, family
from wordmill.models.recurrent import RecurrentLM
from wordmill.models.transformer import Transformer

LanguageModel = Transformer | RecurrentLM
RECURRENT = "wordmill-recurrent"
WEIGHTS = "model.safetensors"


def build_model(config: ModelConfig) -> LanguageModel:
    """A model of that shape; its weights are not drawn yet (`initialise(seed)` draws them)."""
    return RecurrentLM(config) if isinstance(config, RecurrentConfig) else Transformer(config)


def read_config(folder: Path) -> ModelConfig:
    """The settings in a folder's config.json. Raises `ModelError` for what is missing or not supported."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(
            "no such model folder", where=folder, fix="Give the folder that a training command wrote, for example runs/NAME/model"
        )
    if not path.exists():
        raise ModelError("this folder has no config.json, so it is not a model folder", where=folder)
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
    return {"model_type": kind.name, "architectures": [kind.architecture], "dtype": name, **kind.to_hf(config)}


def save_model(model: LanguageModel, folder: Path, *, dtype: torch.dtype = torch.float32, weights: dict[str, Tensor] | None = None) -> None:
    """Write config.json, model.safetensors and generation_config.json.

    `weights` replaces the model's own (the float32 masters of a bfloat16 model, an average). Raises `DiskFullError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, ours = model.config, dict(weights if weights is not None else model.state_dict())
    theirs = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in _to_family(config, ours)}
    write_atomic(folder / WEIGHTS, lambda part: write_tensors(theirs, part))
    write_json(folder / "config.json", config_json(config, dtype))
    ids = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "pad_token_id": config.pad_id}
    write_json(folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None})


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a file. Raises OSError, with its number, when the disk is full: the library hides that inside a message."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if "os error 28" in str(error) or "No space left" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def load_model(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """The model in a folder, in evaluation mode, on `device`; `dtype` None keeps the dtype of the file.

    Raises `ModelError` when a file is missing or torn, or a tensor is missing, unexpected or of another shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):
        model = build_model(config)
    weights = _from_family(config, folder)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, shape in wanted.items():
        if name not in weights:
            raise ModelError(f"the weights lack {name}", where=folder / WEIGHTS)
        if weights[name].shape != shape:
            raise ModelError(f"{name} has shape {tuple(weights[name].shape)}, config.json asks for {tuple(shape)}", where=folder / WEIGHTS)
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    return model.requires_grad_(False).eval()


def _weight_list(config: ModelConfig) -> list[Weight] | None:
    """The mapping of every tensor, the output layer's included; None where names are our own."""
    if isinstance(config, RecurrentConfig):
        return None
    kind = family(config.family)
    return [*kind.weights(config), *([] if config.tie_embeddings else [Weight("head.weight", (kind.head,))])]


def _to_family(config: ModelConfig, ours: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    mapping = _weight_list(config)
    if mapping is None:
        yield from ours.items()
        return
    for weight in mapping:
        tensor = ours.pop(weight.ours)
        for name, part in zip(weight.theirs, tensor.split(weight.sizes) if weight.sizes else (tensor,), strict=True):
            yield name, part.t() if weight.transpose else part
    assert not ours, f"weights without a name in {config.family}: {sorted(ours)}"


def _from_family(config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    found = _read_weights(folder)
    mapping = _weight_list(config)
    if mapping is None:
        return found
    kind = family(config.family)
    if not any(name.startswith(kind.prefix) for name in found):
        found = {name if name == kind.head else kind.prefix + name: tensor for name, tensor in found.items()}
    ours = {}
    for weight in mapping:
        absent = [name for name in weight.theirs if name not in found]
        if absent:
            raise ModelError(f"the weights lack {absent[0]}", where=folder)
        parts = [found.pop(name) for name in weight.theirs]
        parts = [part.t() if weight.transpose else part for part in parts]
        ours[weight.ours] = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
    if isinstance(config, TransformerConfig) and config.tie_embeddings:
        found.pop(kind.head, None)
    left = [name for name in found if not name.endswith(kind.skip or ("\0",))]
    if left:
        raise ModelError(
            f"unexpected tensor {left[0]} ({len(left)} in all)", where=folder, fix=f"Is this a plain {config.family} language model?"
        )
    return ours


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json lists."""
    index = folder / f"{WEIGHTS}.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [WEIGHTS]
    found: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        if not path.exists():
            raise ModelError(f"this model folder has no {name}", where=folder)
        try:
            with safe_open(path, framework="pt") as file:
                found.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise ModelError(f"this file is torn or is not safetensors ({error})", where=path, fix="Copy or download it again") from error
    return found
