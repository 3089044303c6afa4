"""The plan of a run: everything that was asked for, and everything else chosen by measuring. Plain to read in config.yaml."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from wordmill.batches.corrupted import learned_share, objective_rows
from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.batches.store import TokenStore
from wordmill.core.config import check_names, merge
from wordmill.core.device import choose_dtype, crawls
from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.core.measure import matmul_rate
from wordmill.core.progress import Reporter, human_count, human_time, plural
from wordmill.models.adapters import add_lora
from wordmill.models.config import UNLIMITED, ModelConfig, RecurrentConfig, TransformerConfig
from wordmill.models.families import family
from wordmill.models.folder import build_model, check_expressible, compile_blocks, read_config, recompute_blocks
from wordmill.models.hub import resolve_model
from wordmill.models.kernels import matrix_units
from wordmill.tasks.loud import LOUD_RATES, check_muon, learned_by, open_to_muon
from wordmill.tasks.run import SavedPlan
from wordmill.tokenizer import Tokenizer
from wordmill.train import budget
from wordmill.train.loop import TrainConfig
from wordmill.train.objectives import OBJECTIVES
from wordmill.train.optim import OptimConfig

if TYPE_CHECKING:
    from wordmill.tasks.pretrain import PretrainConfig

VALIDATION_SHARE = 0.003
"""One validation during training takes at most about this share of the training time."""
TRIAL_PAYS = 180.0
"""Seconds of training from which on it is worth trying whether compiling pays."""
SAVING_SECONDS = 2.5
"""Kept back for writing the model folder and the report."""
REFERENCE = (256, 4)
"""Width and layers of the model whose training speed says how many operations a time budget buys."""


@dataclass
class Plan(SavedPlan):
    """What will be done."""

    peak_flops: float
    """Measured operations a second of a plain matrix product: what utilisation is a share of."""
    flops_per_token: float
    """Operations to train on one token, as measured steps had them: output layer and attention counted where they are computed."""
    validation_targets: int | None
    """Targets that each validation reads; None: all."""
    keep_best: bool
    """Whether the best weights by validation are kept (a corpus seen several times)."""
    summary: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class _Asked:
    """What a plan is made from."""

    config: PretrainConfig
    train: TokenStore
    validation: TokenStore | None
    tokenizer: Tokenizer
    device: torch.device
    processes: int
    started: float
    """The monotonic time at which a time budget began."""
    dtype: torch.dtype
    seconds: float | None
    """The time budget."""
    context: int

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        assert self.seconds is not None
        return self.seconds - (time.monotonic() - self.started)

    @property
    def tokens_a_step(self) -> int:
        """That keep the device busy."""
        return 2048 if self.device.type == "cpu" else 65_536


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
    # weights in bfloat16 can't be moved by so little
    dtype = choose_dtype("fp32" if config.dtype == "auto" and config.train.get("sam") else config.dtype, device)
    peak = 1e9 * matmul_rate(device, dtype)
    seconds = parse_time(config.time) if config.time is not None else None
    asked = _Asked(config, train, validation, tokenizer, device, processes, started, dtype, seconds, _context(config, device, seconds))
    model, rate = _model(asked)
    values, speed = _steps_and_speed(asked, model, rate)
    tokens = _length(asked, model, values, speed)
    epochs = tokens / train.n_tokens
    if train.n_tokens < asked.context:
        reporter.warn(f"the training text has {plural(train.n_tokens, 'token')}, less than one context of {asked.context}: a model learns "
                      f"little more from it than to repeat it")  # fmt: skip
    guard = budget.regularisation(epochs) if config.parent is None else {"dropout": 0.0, "weight_decay": 0.01, "ema": 0.0}
    notes = [
        f"measured: {human_count(speed.tokens_per_second)} tokens/s, {100 * speed.rate / peak:.0f} % of the "
        f"{human_count(peak)} FLOP/s of a plain matrix product"
    ]
    if (slow := crawls(config.dtype, device)) is not None:
        notes.append(slow)
    if epochs > 2:
        kept = "best weights by validation kept"
        notes.append(f"the corpus will be seen {epochs:.1f} times: dropout {guard['dropout']}, weight decay {guard['weight_decay']}, "
                     + (f"average of the weights, {kept}" if guard["ema"] else kept))  # fmt: skip
    model = model.replace(**{"dropout": guard["dropout"], **config.model})
    values["ema"] = guard["ema"]
    values["optim"] = {**values["optim"], "weight_decay": guard["weight_decay"], **config.train.get("optim", {})}
    values = merge(values, config.train)
    values["compile"], why = _compiled(asked, model, values, speed, tokens)
    notes += [why] if why else []
    trained = TrainConfig.of(values, where="train")
    cap = None
    if validation is not None:
        affordable = VALIDATION_SHARE * (trained.seconds or tokens / speed.tokens_per_second) * speed.reading
        cap = None if affordable >= validation.n_tokens else max(8192, int(affordable))
    length = human_time(seconds) + " in all" if seconds is not None else plural(trained.steps or 0, "step")
    kind = model.family if isinstance(model, TransformerConfig) else model.cell
    what = f"a LoRA of rank {config.lora.rank} beside " if config.lora is not None else ""
    summary = (f"{what}{kind} of {human_count(budget.count_parameters(model))} weights{' from ' + config.parent if config.parent else ''}, "
               f"objective {config.objective}, context {trained.context}, {trained.rows * trained.context:,} tokens a step, "
               f"{length}, about {human_count(tokens)} tokens ({epochs:.2g} epochs), "
               f"{config.dtype if config.dtype != 'auto' else str(dtype).removeprefix('torch.')} on {device}")  # fmt: skip
    return Plan(model, trained, "bf16" if dtype == torch.bfloat16 else "fp32", peak, speed.flops / speed.tokens, cap, epochs > 2,
                summary, notes)  # fmt: skip


def training_rows(
    config: PretrainConfig,
    model: ModelConfig,
    store: TokenStore,
    tokenizer: Tokenizer,
    context: int,
    rows: int,
    *,
    limit: int | None = None,
) -> CarriedRows | PackedRows:
    """The rows of the run's objective, or text in order for a model that carries its state on. Raises `UsageError` for what doesn't go
    together."""
    objective = config.objective or "clm"
    check_objective(model.kind, objective)
    if model.kind == "recurrent":
        return CarriedRows(store, context, rows, config.seed)
    start = model.decoder_start_id if model.kind == "encoder-decoder" else None
    return objective_rows(objective, store, context, rows, config.seed, tokenizer, config.corruption, start=start, limit=limit)


def _cant_learn(kind: str, objective: str, fitting: Sequence[str]) -> UsageError:
    article = "an" if kind[0] in "ae" else "a"
    return UsageError(f"{article} {kind} can't learn {objective}", where="--objective", fix=f"It learns {' or '.join(fitting)}")


def check_objective(kind: str, objective: str) -> None:
    """Raises `UsageError` when a model of this kind (a key of `FITTING`, or "recurrent") can't learn it."""
    fitting = FITTING.get(kind, ("clm",))
    if objective not in fitting:
        raise _cant_learn(kind if kind in FITTING else f"{kind} model", objective, fitting)


FITTING = {"decoder": ("clm", "prefix"), "encoder": ("mlm",), "encoder-decoder": ("denoise", "infill")}
"""What each kind of model can learn; the first is what it learns when nobody says."""


def check_settings(config: PretrainConfig) -> None:
    """What can be known to be wrong before the text is read: names of settings, values of the training. Raises `WordmillError`."""
    for section, fields in (("train", TrainConfig.model_fields), ("model", TransformerConfig.model_fields)):
        for name in getattr(config, section):
            if name not in fields and name in type(config).model_fields:
                own = "It is a group of its own: corruption.rate=… and the like"
                raise ConfigError(f"{name} is no part of {section}", where=f"{section}.{name}",
                                  fix=own if name == "corruption" else f"Say it without {section}. before it")  # fmt: skip
    check_sizes(config.model)
    if config.parent is not None and config.tokenizer_folder is not None:
        raise UsageError(f"the tokenizer of {config.parent} is settled: its weights mean nothing with another", where="--tokenizer",
                         fix="Leave --tokenizer away with --from")  # fmt: skip
    if config.parent is None:
        check_shape(config.family, config.model, asked_size(config.model), settled=not (config.time or config.size))
    elif set(config.model) - {"dropout"}:
        raise UsageError(
            f"the shape of {config.parent} is settled: {', '.join(sorted(set(config.model) - {'dropout'}))} can't be set",
            where="model",
            fix="Only model.dropout can",
        )
    TrainConfig.of({"steps": 1, **config.train}, where="train")


def check_sizes(settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for sizes of a model that are none."""
    for name in budget.SIZES:
        if name in settings and (type(settings[name]) is not int or settings[name] < 1):
            raise ConfigError(f"a whole number from 1 on is needed, not {settings[name]!r}", where=f"model.{name}")


def check_shape(name: str, settings: Mapping[str, Any], usual: tuple[int, int], *, settled: bool) -> None:
    """The settings of a new model of the family on their own, before there is a tokenizer; how sizes fit one another only where none is
    left to choose, because they are `settled` or the width is asked for. `usual`: width and layers then. Raises `ConfigError`."""
    shape = budget.family_shape(name, *usual)
    check_names(RecurrentConfig if name in budget.RECURRENT else TransformerConfig, settings, "model")
    own, rest = budget.sizes(settings)
    fitted = own if settled or {"width", "hidden_size"} & set(own) else {}
    some = {"vocab_size": 1000, "bos_id": 0, "eos_id": 0, "pad_id": 0, **({"decoder_start_id": 0} if "encoder_layers" in shape else {})}
    try:
        check_expressible(budget.model_config(name, {**some, **shape, **rest, **fitted}))
    except ModelError as error:
        if error.where != "config.json":
            raise
        raise ConfigError(f"{name} can't have such a shape: {error.what}", where="model",
                          fix="Let model.width be a multiple of model.heads") from None  # fmt: skip


def asked_size(settings: Mapping[str, Any], width: int = 384, layers: int | None = None) -> tuple[int, int]:
    """Width and layers where nothing is measured: as asked for, or else these (None: as many layers as suit the width)."""
    width = settings.get("width") or settings.get("hidden_size") or width
    return width, settings.get("layers") or layers or max(1, round(width / 64))


def _context(config: PretrainConfig, device: torch.device, seconds: float | None) -> int:
    """Longer contexts pay when there is time to learn from them; the recurrent state carries on, so it needs little."""
    if "context" in config.train:
        return int(config.train["context"])
    if config.family in budget.RECURRENT:
        return 64 if config.objective == "clm" else 128  # the state doesn't carry on where it would come from both ends
    wanted = 1024 if device.type != "cpu" else 256 if (seconds or 0) <= 1200 else 512
    return min(wanted, read_config(resolve_model(config.parent)).max_positions) if config.parent is not None else wanted


def _model(asked: _Asked) -> tuple[ModelConfig, float]:
    """The model, and the operations a second that a reference model of its family was measured to train at (0: not needed)."""
    config, tokenizer = asked.config, asked.tokenizer
    if config.parent is not None:
        model = read_config(resolve_model(config.parent))
        _check_fits(model, asked)
        return model, 0.0
    common: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id,
                              "pad_id": tokenizer.pad_id}  # fmt: skip
    if config.family not in budget.RECURRENT:
        common |= _common({**family(config.family).parts, **config.model}, asked)
    own, rest = budget.sizes(config.model)
    common |= rest  # what is asked for beside the size holds for every size that is tried
    sized = {"width", "layers", "hidden_size", "embedding_size"} & set(config.model)
    rate = 0.0
    if asked.seconds is not None:
        reference = budget.model_config(config.family, {**budget.family_shape(config.family, *REFERENCE), **common})
        rows = asked.tokens_a_step // asked.context
        rate = _measure(asked, reference, OptimConfig.of(_optim_defaults(reference, config)), rows, rows, seconds=2.0).rate
    if config.size is not None:
        chosen = budget.for_size(config.family, parse_count(config.size, "--size"), common, own)
    elif asked.seconds is not None and not sized:
        chosen = budget.for_operations(config.family, rate * max(1.0, asked.left), common)
    else:
        chosen = budget.model_config(config.family, {**budget.family_shape(config.family, *asked_size(own)), **common})
    model = budget.model_config(config.family, {**chosen.plain(), **own})
    _check_fits(model, asked)
    return model, rate


RECURRENT_RATE = 2.0
"""Learning rate of a recurrent model times its width (docs/log.md)."""
WIDE = 384
"""From this width on, half the tokens at once are as fast on a CPU without matrix units."""


def _common(parts: Mapping[str, Any], asked: _Asked) -> dict[str, Any]:
    """Settings of a Transformer from scratch that follow from the tokenizer, the context, and from what was found to train fast;
    `parts`: what is settled already."""
    found: dict[str, Any] = {}
    if parts.get("max_positions") != UNLIMITED:
        found["max_positions"] = max(asked.context, 2048 if parts.get("positions", "rotary") == "rotary" else 1024)
    if "encoder_layers" in parts:
        found["decoder_start_id"] = asked.tokenizer.required("pad", "from which the decoder starts")
    if not parts.get("tie_embeddings", False):
        # An embedding of its own is drawn wide, so that it is not drowned by what the blocks add (docs/log.md).
        found |= {"tie_embeddings": False, "embedding_std": 0.8}
    return found


def _check_fits(model: ModelConfig, asked: _Asked) -> None:
    ours, theirs = model.vocab_size, asked.tokenizer.vocab_size
    if ours < theirs:
        raise ConfigError(f"model.vocab_size ({ours}) is smaller than the tokenizer's ({theirs})", where="model.vocab_size")
    if isinstance(model, TransformerConfig):
        check_expressible(model)  # better now than when the trained model is to be saved
    if model.max_positions < asked.context:
        raise ConfigError(
            f"context {asked.context} is longer than the model's {model.max_positions} positions",
            where="train.context",
            fix="Lower train.context" + ("" if asked.config.parent else " or raise model.max_positions"),
        )


def _optim_defaults(model: ModelConfig, config: PretrainConfig) -> dict[str, Any]:
    """Muon and its rates for Transformers from scratch, and half of them for one that goes on from there; AdamW for recurrent models, whose
    matrices are used at every step of a sequence, and, with a low rate, for a model that AdamW trained. An adapter takes about ten times
    that rate (Schulman et al. 2025, thinkingmachines.ai/blog/lora).

    Where only a share of the tokens is learned, a step's gradient is as noisy as one from so much fewer tokens, and Muon makes all of it
    the same size: its rate for matrices falls with the root of that share. At the whole rate such models stay at how often tokens occur.
    """
    if config.lora is not None:
        return {"kind": "adamw", "lr": 2e-3, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8}
    by_share = math.sqrt(learned_share(config.objective or "clm", config.corruption))
    if config.parent is not None:
        quiet = {"kind": "adamw", "lr": 2e-4, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8}
        if learned_by(resolve_model(config.parent)) == "muon":
            loud = {**LOUD_RATES, "matrix_lr": _rounded(LOUD_RATES["matrix_lr"] * by_share)}
            return loud if open_to_muon(config.train) else quiet
        check_muon(config.train, config.parent)
        return quiet
    if not isinstance(model, RecurrentConfig):
        return {"matrix_lr": _rounded(OptimConfig().matrix_lr * by_share)}
    return {"kind": "adamw", "lr": min(0.01, RECURRENT_RATE / model.hidden_size), "beta1": 0.9, "beta2": 0.99}


def _rounded(x: float) -> float:
    return float(f"{x:.3g}")


def _steps_and_speed(asked: _Asked, model: ModelConfig, rate: float) -> tuple[dict[str, Any], budget.Speed]:
    """Context, rows a step and optimiser, and how fast such steps are here."""
    config, context = asked.config, asked.context
    guess = _tokens(config, asked.train)
    if guess is None:
        guess = asked.left * rate / budget.flops_per_token(model, context) if rate else (asked.seconds or 600.0) * 2_000
    optim = OptimConfig.of(merge(_optim_defaults(model, config), config.train.get("optim", {})), where="train.optim")
    rows = int(config.train.get("rows") or _rows(model, guess, context, asked.train))
    micro = int(config.train.get("micro_rows") or max(1, min(rows, _at_once(asked, model) // context)))
    seconds = min(5.0, 0.02 * asked.seconds) if asked.seconds else 1.0
    speed = _measure(asked, model, optim, rows, micro, seconds=seconds)
    values: dict[str, Any] = {
        "context": context,
        "rows": rows,
        "micro_rows": micro,
        "optim": optim.plain(),
        "seed": config.seed,
        "clip": 0.0 if optim.kind == "muon" else 1.0,
    }
    if config.parent is not None:
        values["schedule"] = {"kind": "cosine", "warmup": 0.05}
    return values, speed


def _at_once(asked: _Asked, model: ModelConfig) -> int:
    """Tokens that go through the model at once. A wide model keeps a CPU without matrix units just as busy with half as many, in less
    memory (docs/log.md); an adapter is trained for want of memory."""
    if asked.config.lora is not None:
        return asked.tokens_a_step // 4
    wide = asked.device.type == "cpu" and isinstance(model, TransformerConfig) and model.width >= WIDE
    return asked.tokens_a_step // (2 if wide and not matrix_units() else 1)


def _length(asked: _Asked, model: ModelConfig, values: dict[str, Any], speed: budget.Speed) -> float:
    """Put the seconds or the steps of the training into `values`; returns about how many tokens they read."""
    config, train = asked.config, asked.train
    if asked.seconds is not None:
        reserve = SAVING_SECONDS + (asked.validation.n_tokens / speed.reading if asked.validation else 0.0)
        left = asked.left - reserve
        if left < 0.3 * asked.seconds:
            raise UsageError(
                f"{config.time} is too short: reading, tokenizing and evaluating alone take {human_time(asked.seconds - left)}",
                where="--time",
                fix="Give more time, or less text",
            )
        values["seconds"] = round(left, 2)
        return left * speed.tokens_per_second * asked.processes
    tokens = _tokens(config, train)
    assert tokens is not None
    rows = training_rows(config, model, train, asked.tokenizer, asked.context, values["rows"])
    values["steps"] = config.steps or rows.steps(tokens)
    if config.steps is not None:
        tokens = float(config.steps * values["rows"] * asked.context)  # until the rows of a step were settled, only a guess
    if config.epochs is not None and isinstance(rows, PackedRows):
        values["row_limit"] = rows.rows_for(tokens)
    return tokens


def _tokens(config: PretrainConfig, train: TokenStore) -> float | None:
    if config.tokens is not None:
        return parse_count(config.tokens, "--tokens")
    if config.epochs is not None:
        return config.epochs * train.n_tokens
    if config.steps is not None:
        context, rows = int(config.train.get("context", 256)), int(config.train.get("rows", 16))
        return float(config.steps * context * rows)
    return None


def _rows(model: ModelConfig, tokens: float, context: int, train: TokenStore) -> int:
    rows = max(8, budget.rows_for(tokens, context)) if isinstance(model, RecurrentConfig) else budget.rows_for(tokens, context)
    return max(1, min(rows, train.n_tokens // context)) if train.n_tokens >= context else 1


def _compiled(asked: _Asked, model: ModelConfig, values: dict[str, Any], speed: budget.Speed, tokens: float) -> tuple[bool, str | None]:
    """Whether the blocks are compiled, and why. `auto` tries it on a GPU, when the run is long enough for the trial itself: compiled steps
    must win back what compiling them took. A CPU's kernels do as much (docs/log.md), so there `auto` leaves it."""
    never = isinstance(model, RecurrentConfig) or asked.config.train.get("recompute")
    if asked.config.compile != "auto" or asked.device.type != "cuda" or never:
        return asked.config.compile == "on", None
    length = tokens / speed.tokens_per_second
    if length < TRIAL_PAYS:
        return False, None
    begun = time.monotonic()
    optim = OptimConfig.of(values["optim"], where="train.optim")
    faster = _measure(asked, model, optim, values["rows"], values["micro_rows"], seconds=1.0, compiled=True)
    spent = time.monotonic() - begun
    saved = length * (1 - faster.seconds / speed.seconds)
    if "seconds" in values:
        values["seconds"] = round(values["seconds"] - spent, 2)  # the trial is part of the budget
    told = f"torch.compile makes a step {speed.seconds / faster.seconds:.2f} × as fast and takes {spent:.0f} s"
    return saved > spent, f"{told}: {'used' if saved > spent else 'not used'}"


def _measure(
    asked: _Asked, model: ModelConfig, optim: OptimConfig, rows: int, micro: int, *, seconds: float, compiled: bool = False
) -> budget.Speed:
    trial = build_model(model)
    trial.initialise(0)
    if asked.config.lora is not None:
        add_lora(trial, asked.config.lora, 0)
    if compiled:
        compile_blocks(trial)
    if asked.config.train.get("recompute"):
        recompute_blocks(trial)
    batches = training_rows(asked.config, model, asked.train, asked.tokenizer, asked.context, rows)
    objective = OBJECTIVES[asked.config.objective or "clm"]
    speed = budget.measure_speed(trial.to(asked.device, asked.dtype), objective, batches, optim, micro, seconds=seconds)
    if asked.config.train.get("sam"):  # each step is read and learned from twice
        speed = replace(speed, seconds=2 * speed.seconds, flops=2 * speed.flops)
    return speed


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
