"""LoRA adapters in folders: which layers a model has to adapt, and PEFT's format, read and written without `peft`.

    adapter_config.json   adapter_model.safetensors        (the base is named in the first)

The tensors are called `base_model.model.NAME.lora_A.weight` (R, D) and `….lora_B.weight` (O, R), NAME being the layer's in Hugging Face's
class, whatever way that class stores its own weight. What of this format can't be honoured here is an error, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wordmill.core.errors import ConfigError, ModelError, UsageError, nearest
from wordmill.core.files import read_json, write_atomic, write_json
from wordmill.core.lineage import FILE as LINEAGE
from wordmill.core.lineage import read_lineage
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.models.families import family
from wordmill.models.folder import ADAPTER, LanguageModel, read_config, weight_list, write_tensors
from wordmill.models.hub import is_hub_name, resolve_model
from wordmill.models.lora import ALL, LoraConfig, LoraLinear, Pair, adapter_names, checked_weight, lora_layers, replace_layer
from wordmill.models.tensors import read_safetensors, weight_hashes
from wordmill.models.transformer import Transformer

TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
"""What PEFT calls the kinds of models; it has no word for masked ones."""


@dataclass(frozen=True)
class Place:
    """One linear layer of a family: which of our layers holds it, and in which rows."""

    module: str
    start: int
    rows: int
    transposed: bool = False
    """Whether the family stores its weight (in, out)."""


def places(model: LanguageModel) -> dict[str, Place]:
    """The layers that can be adapted, by the family's names (our own where there is none). The output layer is not among them.

    Raises `UsageError` for a recurrent model, whose matrices are used at every step of a sequence.
    """
    if not isinstance(model, Transformer):
        raise UsageError("a recurrent model has no linear layers that LoRA could adapt", where="lora", fix="Train all of its weights")
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.rpartition(".")[2] != "head"}
    mapping = weight_list(model.config)
    if mapping is None:
        parts = model.matrix_parts()
        named = [(name, parts.get(f"{name}.weight", ()), False) for name in linear]
        theirs = {name: tuple(f"{name}.{i}" for i in range(len(sizes))) or (name,) for name, sizes, _ in named}
    else:
        mine = {weight.ours.removesuffix(".weight"): weight for weight in mapping if weight.ours.endswith(".weight")}
        named = [(name, mine[name].sizes, mine[name].transpose) for name in linear]
        theirs = {name: tuple(other.removesuffix(".weight") for other in mine[name].theirs) for name in linear}
    found = {}
    for name, sizes, transposed in named:
        start = 0
        for other, rows in zip(theirs[name], sizes or (linear[name].out_features,), strict=True):
            found[other] = Place(name, start, rows, transposed)
            start += rows
    return found


def chosen(targets: Collection[str], known: Mapping[str, Place]) -> list[str]:
    """The layers that `targets` name, in the model's order. Raises `ConfigError` for a target that names none."""
    for target in targets:
        if target != ALL and not any(_names(target, name, place) for name, place in known.items()):
            words = {".".join(place.module.split(".")[-2:]) for place in known.values()} | {name.rpartition(".")[2] for name in known}
            raise ConfigError(f"this model has no layer {target!r} to adapt", where="lora.targets", fix=nearest(target, {ALL, *words}))
    return [name for name, place in known.items() if any(_names(target, name, place) for target in targets)]


def _names(target: str, name: str, place: Place) -> bool:
    if target == ALL:
        return ".blocks." in f".{place.module}"
    return any(one == target or one.endswith(f".{target}") for one in (place.module, name))


def add_lora(model: LanguageModel, config: LoraConfig, seed: int, name: str = "default") -> None:
    """Freeze a model and put a new adapter beside its layers, which alone learns: A uniform in ±1/√D, drawn on the CPU in float32, B zero.
    Adapters that are there already stay as they are, frozen.

    Raises `ConfigError` for a target that the model doesn't have, `UsageError` for a model that can't be adapted.
    """
    known = places(model)
    names = chosen(config.targets, known)
    _check_name(model, name)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer_name in names:
        place = known[layer_name]
        layer = _adapted(model, place.module)
        width = layer.in_features
        a = torch.empty(config.rank, width).uniform_(-(width**-0.5), width**-0.5, generator=generator)
        _add(layer, name, a, torch.zeros(place.rows, config.rank), place.start, config.scale)
        layer.dropout = config.dropout
    for layer in lora_layers(model).values():
        layer.active[name] = 1.0


def _check_name(model: nn.Module, name: str) -> None:
    if NAME.fullmatch(name) is None or hasattr(nn.ModuleDict, name):
        raise UsageError(f"{name!r} can't be the name of an adapter", fix="Take a word of letters, digits, - and _")
    if name in adapter_names(model):
        raise UsageError(f"this model has an adapter {name!r} already", fix="Give it another name, or remove that one first")


def _adapted(model: nn.Module, path: str) -> LoraLinear:
    """The layer of that name, made one that takes adapters where it isn't."""
    layer = model.get_submodule(path)
    if not isinstance(layer, LoraLinear):
        layer = LoraLinear(layer)  # type: ignore[arg-type]
        replace_layer(model, path, layer)
    return layer


def _add(layer: LoraLinear, name: str, a: Tensor, b: Tensor, start: int, scale: float) -> None:
    if name not in layer.adapters:
        layer.adapters[name] = nn.ModuleList()
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    layer.adapters[name].append(Pair(a.to(**like), b.to(**like), start, scale))  # type: ignore[operator]


def adapter_tensors(
    model: LanguageModel, name: str = "default", weights: Mapping[str, Tensor] | None = None, *, inside: str | None = None
) -> dict[str, Tensor]:
    """An adapter's tensors in float32 by PEFT's names. `weights` (by the names of the model's parameters) replaces the model's own: the
    masters of a bfloat16 model, an average. `inside`: the model stands in a class with a head for a task, under names that begin so."""
    by_place = {(place.module, place.start): (inside or "") + other for other, place in places(model).items()}
    bare = "" if model.config.lm_head or inside is not None else family(model.config.family).prefix  # type: ignore[union-attr]
    found = {}
    for path, layer in lora_layers(model).items():
        for i, pair in enumerate(layer.pairs(name)):
            other = by_place[path, pair.start].removeprefix(bare)
            for part, letter in (("a", "A"), ("b", "B")):
                own = getattr(pair, part)
                tensor = own if weights is None else weights[f"{path}.adapters.{name}.{i}.{part}"]
                found[f"{PREFIX}{other}.lora_{letter}.weight"] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    return found


def save_adapter(
    model: LanguageModel,
    folder: Path,
    config: LoraConfig,
    *,
    base: str | Path,
    name: str = "default",
    weights: Mapping[str, Tensor] | None = None,
    whole: Mapping[str, Tensor] | None = None,
    task: str | None = None,
    inside: str | None = None,
) -> None:
    """Write an adapter as PEFT does. `config` is what it was made with, `base` the model folder or hub name that it belongs to.

    `weights`, `inside`: as for `adapter_tensors`. `whole`: layers that were trained whole beside it (a task's head), by their names in
    Hugging Face's class. `task`: PEFT's word for what the model does; None: that of a language model. Raises `DiskFullError`; `UsageError`
    for a model without an adapter of that name.
    """
    if name not in adapter_names(model):
        raise UsageError(f"this model has no adapter {name!r}", where="save_adapter")
    tensors = adapter_tensors(model, name, weights, inside=inside)
    whole = {} if whole is None else whole
    known = places(model)
    adapted = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors}
    others = {(inside or "") + weight for found in weight_list(model.config) or [] for weight in found.theirs}
    others = {weight.removesuffix(".weight") for weight in (*others, *whole)} - adapted
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    path = Path(base)
    values = {
        "peft_type": "LORA", "task_type": task or TASKS.get(model.config.kind), "auto_mapping": None,  # type: ignore[union-attr]
        "base_model_name_or_path": str(path.resolve()) if path.exists() else str(base), "inference_mode": True, "r": config.rank,
        "lora_alpha": alpha, "lora_dropout": config.dropout, "use_rslora": config.rslora, "target_modules": endings(adapted, others),
        "fan_in_fan_out": any(place.transposed for place in known.values()), "bias": "none", "init_lora_weights": True,
        "modules_to_save": sorted({other.rpartition(".")[0] for other in whole}) or None,
    }  # fmt: skip
    tensors |= {PREFIX + other: tensor.detach().to("cpu", torch.float32, copy=True).contiguous() for other, tensor in whole.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TENSORS, lambda part: write_tensors(tensors, part))
    write_json(folder / ADAPTER, values)


def endings(wanted: Collection[str], others: Collection[str]) -> list[str]:
    """The shortest ends of names, whole words between points, that all of `wanted` and none of `others` have: PEFT's `target_modules`."""

    def tails(name: str) -> list[str]:
        words = name.split(".")
        return [".".join(words[i:]) for i in range(len(words) - 1, -1, -1)]

    forbidden = {tail for name in others for tail in tails(name)}
    return sorted({next((tail for tail in tails(name) if tail not in forbidden), name) for name in wanted})


# Settings of adapter_config.json. Those below are read or change nothing in what is computed; any other must be unset.
HARMLESS = frozenset(
    """
    peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules exclude_modules
    lora_alpha lora_dropout fan_in_fan_out use_rslora modules_to_save init_lora_weights layers_to_transform layers_pattern megatron_core
    qalora_group_size eva_config loftq_config corda_config lora_ga_config runtime_config ensure_weight_tying
    """.split()
)
INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to draw an adapter that leave the base as it is."""


@dataclass
class Adapter:
    """An adapter folder that was read."""

    folder: Path
    config: LoraConfig
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """A and B by the layer's name in Hugging Face's class."""
    whole: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of layers that were trained whole."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a model of its own."""
    return (folder / ADAPTER).exists() and not (folder / "config.json").exists()


def adapter_base(folder: Path) -> Path:
    """The model folder that an adapter belongs to: as named, or seen from the adapter's folder. Downloads it where it is a hub name.

    Raises `ModelError` for a base that isn't named or isn't there.
    """
    where = folder / ADAPTER
    name = read_json(where).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError("this adapter does not say which model it belongs to", where=where, fix="Set base_model_name_or_path")
    beside = folder / name
    if not Path(name).exists() and beside.exists():
        return beside
    if not Path(name).exists() and not is_hub_name(name):
        raise ModelError(f"the adapter's base {name!r} is not there", where=where, fix="Set base_model_name_or_path to where it is now")
    try:
        return resolve_model(name)
    except ModelError as error:
        raise ModelError(f"the adapter's base {name!r} can't be had: {error.what}", where=where, fix=error.fix) from error


def check_beneath(folder: Path, base: Path) -> None:
    """Raises `ModelError` where the weights in `base` are not those that the adapter in `folder` was trained beside, as far as its lineage
    tells: shapes fit, and the answers would be others."""
    parent = read_lineage(folder).get("parent") or {}
    known = parent.get("weights")
    if known and any(known.get(name) != told for name, told in weight_hashes(base).items()):
        raise ModelError(f"the weights in {base} are not those that this adapter was trained beside ({parent.get('folder')})", where=folder,
                         fix=f"Put them back; to use it all the same, take `parent` out of its {LINEAGE}")  # fmt: skip


def own_base(folder: Path) -> Path:
    """`adapter_base`, where its weights are those that the adapter was trained beside. Raises as `adapter_base` and `check_beneath`."""
    base = adapter_base(folder)
    check_beneath(folder, base)
    return base


def read_shape(folder: Path) -> ModelConfig:
    """The settings of a folder's model, of an adapter's folder those of its base. Raises as `adapter_base` and `read_config`."""
    return read_config(adapter_base(folder) if is_adapter(folder) else folder)


def read_adapter(folder: Path) -> Adapter:
    """Settings and tensors of an adapter folder. Raises `ModelError` for what is missing, torn, or not supported."""
    where = folder / ADAPTER
    if not where.exists():
        raise ModelError(f"this folder has no {ADAPTER}, so it holds no adapter", where=folder)
    values = read_json(where)
    _check_settings(values, where)
    path = folder / TENSORS
    if not path.exists():
        old = " (adapter_model.bin is a pickle, which is not opened)" if (folder / "adapter_model.bin").exists() else ""
        raise ModelError(f"this adapter has no {TENSORS}{old}", where=folder, fix="Save it with save_pretrained of a recent peft")
    config = LoraConfig.of({"rank": values.get("r", 8), "alpha": values.get("lora_alpha", 8), "rslora": values.get("use_rslora", False),
                            "dropout": values.get("lora_dropout", 0.0)}, where=str(where))  # fmt: skip
    found = Adapter(folder, config)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, stored in read_safetensors(path).items():
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        stored.copy_to(tensor)
        part = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", key)
        if part is not None:
            halves.setdefault(part[1], {})[part[2]] = tensor
        elif key.startswith(PREFIX) and ".lora_" not in key and values.get("modules_to_save"):
            found.whole[key.removeprefix(PREFIX)] = tensor
        else:
            raise ModelError(f"this adapter holds {key}, which is not supported", where=path, fix="Only LoRA on linear layers is")
    for name, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise ModelError(f"the adapter has only one of the two matrices of {name}", where=path)
        a, b = pair["A"], pair["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != config.rank or b.shape[1] != config.rank:
            raise ModelError(
                f"{name} has matrices {tuple(a.shape)} and {tuple(b.shape)}, and {ADAPTER} says rank {config.rank}", where=path
            )
        found.pairs[name] = a, b
    if not found.pairs:
        raise ModelError("this adapter adapts nothing", where=path)
    return found


def _check_settings(values: Mapping[str, Any], where: Path) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"an adapter of the type {kind!r} is not supported", where=where, fix="LORA is")
    for name, value in values.items():
        if (name == "bias" and value != "none") or (name not in HARMLESS and name != "bias" and value):
            raise ModelError(f"setting {name!r} = {value!r} of this adapter is not supported", where=where, fix="Only plain LoRA is")
    if values.get("init_lora_weights") not in INITS:
        raise ModelError(
            f"this adapter (init_lora_weights = {values['init_lora_weights']!r}) belongs to a base with changed weights",
            where=where,
            fix="Convert it to plain LoRA when saving: path_initial_model_for_weight_conversion in peft",
        )


def load_adapter(model: LanguageModel, folder: str | Path, name: str = "default", weight: float = 1.0) -> None:
    """Put an adapter from a folder beside a model's layers, frozen, and let it count with `weight` (0: kept for later).

    Raises `ModelError` for a folder that holds no such adapter, or one that was made for another model.
    """
    read = read_adapter(resolve_model(folder))
    if read.whole:
        raise ModelError(
            f"this adapter brings layers of its own ({', '.join(sorted(read.whole)[:3])}), which a language model has no use for",
            where=read.folder,
            fix="It belongs to a model fine-tuned for a task",
        )
    attach(model, read, name, weight)


def attach(model: LanguageModel, read: Adapter, name: str = "default", weight: float = 1.0, *, inside: str = "") -> None:
    """As `load_adapter`, for an adapter that was read; its whole layers are the caller's business. One that doesn't fit changes nothing.
    `inside`: as for `adapter_tensors`."""
    known, weight = places(model), checked_weight(name, weight)
    _check_name(model, name)
    ready: list[Callable[[], None]] = []
    prefix = getattr(family(model.config.family), "prefix", "") if not isinstance(model.config, RecurrentConfig) else ""
    for named, (a, b) in read.pairs.items():
        other = named.removeprefix(inside)
        place = known.get(other) or known.get(prefix + other)
        if place is None:
            raise ModelError(
                f"the adapter changes {other}, and the model has no such layer to adapt", where=read.folder, fix="Is this its base?"
            )
        width = model.get_submodule(place.module).in_features
        if a.shape[1] != width or b.shape[0] != place.rows:
            raise ModelError(
                f"the adapter's {other} goes from {a.shape[1]} to {b.shape[0]}, the model's from {width} to {place.rows}",
                where=read.folder,
                fix="It belongs to another base",
            )
        ready.append(partial(_attach, model, place, name, a, b, read.config.scale))
    for one in ready:
        one()
    for layer in lora_layers(model).values():
        layer.active[name] = weight


def _attach(model: LanguageModel, place: Place, name: str, a: Tensor, b: Tensor, scale: float) -> None:
    layer = _adapted(model, place.module)
    _add(layer, name, a, b, place.start, scale)
    layer.adapters[name].requires_grad_(False)
