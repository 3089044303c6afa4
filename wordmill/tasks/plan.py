"""The plan of a run: everything that was asked for, and everything else chosen by measuring. Plain to read in config.yaml."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.batches.store import TokenStore
from wordmill.core.config import check_names, merge
from wordmill.core.device import choose_dtype
from wordmill.core.errors import ConfigError, UsageError
from wordmill.core.measure import matmul_rate
from wordmill.core.progress import Reporter, human_count, human_time
from wordmill.models.config import ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.folder import build_model
from wordmill.tokenizer import Tokenizer
from wordmill.train import budget
from wordmill.train.loop import TrainConfig
from wordmill.train.optim import OptimConfig

if TYPE_CHECKING:
    from wordmill.tasks.pretrain import PretrainConfig

VALIDATION_SHARE = 0.003
"""One validation during training takes at most about this share of the training time."""
SAVING_SECONDS = 2.5
"""Kept back for writing the model folder and the report."""
REFERENCE = (256, 4)
"""Width and layers of the model whose training speed says how many operations a time budget buys."""


@dataclass
class Plan:
    """What will be done."""

    model: ModelConfig
    train: TrainConfig
    dtype: str
    peak_flops: float
    """Measured operations a second of a plain matrix product: what utilisation is a share of."""
    validation_targets: int | None
    """Targets that each validation reads; None: all."""
    keep_best: bool
    """Whether the best weights by validation are kept (a corpus seen several times)."""
    summary: str = ""
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For config.yaml."""
        values = {name: value for name, value in asdict(self).items() if name not in ("model", "train")}
        kind = "recurrent" if isinstance(self.model, RecurrentConfig) else "transformer"
        return {"kind": kind, "model": self.model.plain(), "train": self.train.plain(), **values}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Plan:
        """The way back."""
        rest = dict(values)
        kind = RecurrentConfig if rest.pop("kind") == "recurrent" else TransformerConfig
        return cls(kind.of(rest.pop("model"), where="plan.model"), TrainConfig.of(rest.pop("train"), where="plan.train"), **rest)


def make_plan(
    config: PretrainConfig,
    train: TokenStore,
    validation: TokenStore | None,
    tokenizer: Tokenizer,
    device: torch.device,
    processes: int,
    started: float,
    reporter: Reporter,
) -> Plan:
    """Choose what was not asked for. `started` is the monotonic time at which a time budget began."""
    dtype = choose_dtype(config.dtype, device)
    peak = 1e9 * matmul_rate(device, dtype)
    seconds = parse_time(config.time) if config.time is not None else None
    context = _context(config, device, seconds)
    model, rate = _model(config, tokenizer, context, seconds, dtype, device, started)
    tokens = _tokens(config, train)
    guess = (
        tokens
        if tokens is not None
        else ((seconds or 600.0) - (time.monotonic() - started)) * rate / budget.flops_per_token(model, context)
    )
    optim = OptimConfig.of(merge(_optim_defaults(model), config.train.get("optim", {})), where="train.optim")
    rows = int(config.train.get("rows") or _rows(model, guess, context, train))
    micro = int(config.train.get("micro_rows") or max(1, min(rows, (2048 if device.type == "cpu" else 65_536) // context)))
    speed = _measure(model, optim, context, rows, micro, dtype, device, seconds)
    notes = [
        f"measured: {human_count(speed.tokens_per_second)} tokens/s, {100 * speed.rate / peak:.0f} % of the "
        f"{human_count(peak)} FLOP/s of a plain matrix product"
    ]
    values: dict[str, Any] = {
        "context": context,
        "rows": rows,
        "micro_rows": micro,
        "optim": optim.plain(),
        "seed": config.seed,
        "clip": 0.0 if optim.kind == "muon" else 1.0,
    }
    left = 0.0
    if seconds is not None:
        reserve = SAVING_SECONDS + (validation.n_tokens / speed.reading if validation else 0.0)
        left = seconds - (time.monotonic() - started) - reserve
        if left < 0.3 * seconds:
            raise UsageError(
                f"{config.time} is too short: reading, tokenizing and evaluating alone take {human_time(seconds - left)}",
                where="--time",
                fix="Give more time, or less text",
            )
        values["seconds"] = round(left, 2)
        tokens = left * speed.tokens_per_second * processes
    assert tokens is not None
    epochs = tokens / train.n_tokens
    if seconds is None:
        values["steps"] = config.steps or _steps(model, train, context, rows, tokens)
        if config.epochs is not None and "steps" not in config.train and not isinstance(model, RecurrentConfig):
            values["row_limit"] = PackedRows(train, context, rows, 0).rows_for(tokens)
    guard = budget.regularisation(epochs)
    if epochs > 2:
        notes.append(
            f"the corpus will be seen {epochs:.1f} times: dropout {guard['dropout']}, weight decay {guard['weight_decay']}, "
            "average of the weights, best weights by validation kept"
        )
    model = model.replace(**{"dropout": guard["dropout"], **config.model})
    values["ema"] = guard["ema"]
    values["optim"] = {**values["optim"], "weight_decay": guard["weight_decay"], **config.train.get("optim", {})}
    values = merge(values, config.train)
    values["compile"] = config.compile == "on"
    trained = TrainConfig.of(values, where="train")
    cap = None
    if validation is not None:
        total = left or tokens / speed.tokens_per_second
        affordable = VALIDATION_SHARE * total * speed.reading
        cap = None if affordable >= validation.n_tokens else max(8192, int(affordable))
    length = human_time(seconds) + " in all" if seconds is not None else f"{trained.steps} steps"
    kind = model.family if isinstance(model, TransformerConfig) else model.cell
    summary = (f"{kind} of {human_count(budget.count_parameters(model))} weights, context {context}, {rows * context:,} tokens a step, "
               f"{length}, about {human_count(tokens)} tokens ({epochs:.2g} epochs), "
               f"{config.dtype if config.dtype != 'auto' else str(dtype).removeprefix('torch.')} on {device}")  # fmt: skip
    return Plan(model, trained, "bf16" if dtype == torch.bfloat16 else "fp32", peak, cap, epochs > 2, summary, notes)


def check_settings(config: PretrainConfig) -> None:
    """What can be known to be wrong before the text is read: names of settings, values of the training. Raises `ConfigError`."""
    budget.family_shape(config.family, 64, 1)
    check_names(RecurrentConfig if config.family in ("lstm", "gru") else TransformerConfig, config.model, "model")
    TrainConfig.of({**({} if "seconds" in config.train else {"steps": 1}), **config.train}, where="train")


def _context(config: PretrainConfig, device: torch.device, seconds: float | None) -> int:
    """Longer contexts pay when there is time to learn from them; the recurrent state carries on, so it needs little."""
    if "context" in config.train:
        return int(config.train["context"])
    if config.family in ("lstm", "gru"):
        return 64
    if device.type != "cpu":
        return 1024
    return 256 if (seconds or 0) <= 1200 else 512


def _model(
    config: PretrainConfig,
    tokenizer: Tokenizer,
    context: int,
    seconds: float | None,
    dtype: torch.dtype,
    device: torch.device,
    started: float,
) -> tuple[ModelConfig, float]:
    """The model, and the operations a second that a reference model of its family was measured to train at (0: not needed)."""
    common: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
    }
    if config.family not in ("lstm", "gru"):
        common["max_positions"] = max(context, 1024 if config.family == "gpt2" else 2048)
    if config.family == "qwen3":
        common |= {"tie_embeddings": False, "embedding_std": 0.8}
    sized = {"width", "layers", "hidden_size", "embedding_size"} & set(config.model)
    rate = 0.0
    if seconds is not None:
        reference = budget.model_config(config.family, {**budget.family_shape(config.family, *REFERENCE), **common})
        tokens_a_step = 2048 if device.type == "cpu" else 65_536
        rate = _measure(
            reference,
            OptimConfig.of(_optim_defaults(reference)),
            context,
            tokens_a_step // context,
            tokens_a_step // context,
            dtype,
            device,
            100.0,
        ).rate
    if config.size is not None:
        chosen = budget.for_size(config.family, parse_count(config.size, "--size"), common)
    elif seconds is not None and not sized:
        left = max(1.0, seconds - (time.monotonic() - started))
        chosen = budget.for_operations(config.family, rate * left, common)
    else:
        width = int(config.model.get("width") or config.model.get("hidden_size") or 384)
        layers = int(config.model.get("layers") or max(1, round(width / 64)))
        chosen = budget.model_config(config.family, {**budget.family_shape(config.family, width, layers), **common})
    asked = config.model.get("width")
    own = config.model
    if asked is not None and config.family not in ("lstm", "gru"):  # whatever follows from the width is chosen anew
        own = {**{k: v for k, v in budget.family_shape(config.family, int(asked), chosen.layers).items() if k != "layers"}, **config.model}
    model = budget.model_config(config.family, {**chosen.plain(), **own})
    if model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size ({model.vocab_size}) is smaller than the tokenizer's ({tokenizer.vocab_size})", where="model.vocab_size"
        )
    if model.max_positions < context:
        raise ConfigError(
            f"context {context} is longer than the model's {model.max_positions} positions",
            where="train.context",
            fix="Lower train.context or raise model.max_positions",
        )
    return model, rate


def _optim_defaults(model: ModelConfig) -> dict[str, Any]:
    """Muon and its rates for Transformers; AdamW for recurrent models, whose matrices are used at every step of a sequence."""
    return {"kind": "adamw", "lr": 3e-3, "beta1": 0.9, "beta2": 0.99} if isinstance(model, RecurrentConfig) else {}


def _tokens(config: PretrainConfig, train: TokenStore) -> float | None:
    if config.tokens is not None:
        return parse_count(config.tokens, "--tokens")
    if config.epochs is not None:
        if config.epochs <= 0:
            raise UsageError("epochs must be more than 0", where="--epochs")
        return config.epochs * train.n_tokens
    if config.steps is not None:
        if config.steps < 1:
            raise UsageError("steps must be at least 1", where="--steps")
        context, rows = int(config.train.get("context", 256)), int(config.train.get("rows", 16))
        return float(config.steps * context * rows)
    return None


def _rows(model: ModelConfig, tokens: float, context: int, train: TokenStore) -> int:
    rows = max(8, budget.rows_for(tokens, context)) if isinstance(model, RecurrentConfig) else budget.rows_for(tokens, context)
    return max(1, min(rows, train.n_tokens // context)) if train.n_tokens >= context else 1


def _steps(model: ModelConfig, train: TokenStore, context: int, rows: int, tokens: float) -> int:
    kind = CarriedRows if isinstance(model, RecurrentConfig) else PackedRows
    return kind(train, context, rows, 0).steps(tokens)


def _measure(
    model: ModelConfig,
    optim: OptimConfig,
    context: int,
    rows: int,
    micro: int,
    dtype: torch.dtype,
    device: torch.device,
    seconds: float | None,
) -> budget.Speed:
    trial = build_model(model)
    trial.initialise(0)
    return budget.measure_speed(trial.to(device, dtype), optim, context, rows, micro, seconds=min(5.0, 0.02 * seconds) if seconds else 1.0)


def parse_time(text: str) -> float:
    """`90s`, `10m`, `1.5h`, `1h30m` or plain seconds → seconds. Raises `UsageError`."""
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip().lower())
    parts = [float(x) if x and x.count(".") < 2 and x != "." else 0.0 for x in found.groups()] if found and text.strip() else []
    total = sum(x * unit for x, unit in zip(parts, (3600.0, 60.0, 1.0), strict=True)) if parts else 0.0
    if total <= 0:
        raise UsageError(f"can't read the time {text!r}", where="--time", fix="Write it like 10m, 90s or 1h30m")
    return total


def parse_count(text: str, where: str) -> float:
    """`15m`, `300k`, `1.5b` or a plain number → a number. Raises `UsageError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbt]?)", text.strip().lower().replace("_", "").replace(",", ""))
    value = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[found[2]] if found else 0.0
    if value <= 0:
        raise UsageError(f"can't read the number {text!r}", where=where, fix="Write it like 15m, 300k or 1.5b")
    return value
