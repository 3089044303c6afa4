"""The plan of a fine-tuning run: what was asked for, and good first choices for everything else, by family and amount of data."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from wordmill.core.config import merge
from wordmill.core.device import choose_numbers, crawls
from wordmill.core.errors import ConfigError, UsageError
from wordmill.core.files import read_json
from wordmill.core.progress import human_count, human_time, plural
from wordmill.models.config import ModelConfig, RecurrentConfig
from wordmill.models.heads import head_layout
from wordmill.tasks.loud import open_to_muon
from wordmill.tasks.plan import parse_time
from wordmill.tasks.run import SavedPlan
from wordmill.tasks.task import task_class
from wordmill.tasks.tuned_shape import LABELLER, NARROW, narrowed
from wordmill.train.budget import count_parameters
from wordmill.train.loop import TrainConfig
from wordmill.train.optim import OptimConfig

if TYPE_CHECKING:
    from wordmill.tasks.finetune import FinetuneConfig

RATE, REFERENCE = 5e-5, 110e6
"""The learning rate of a model of that many weights; small models take larger ones, as 1/√weights."""
WRITER: dict[str, Any] = {"kind": "muon", **OptimConfig().rates()}
"""How a Transformer that has learned nothing yet learns to write: there is as much to learn as in pretraining, and its rates are as there
(docs/log.md)."""
WRITER_TARGETS, MOST_ROWS = 2048, 256
"""Targets of a step of a model that learns to write by Muon, about, and examples of a step at most."""
SCRATCH = {"transformer": 5e-4, "recurrent": 3e-3}
"""Learning rates of other models that have learned nothing yet."""
ADAPTER = 10.0
"""An adapter's learning rate in proportion to that of all weights (Schulman et al. 2025, thinkingmachines.ai/blog/lora)."""
AVERAGE, AVERAGED_FROM = 0.99, 1000
"""Decay of the average over steps that is judged and kept in place of the last weights, and the fewest steps of a run of so many that has
one (docs/log.md)."""
FEW = 30_000
"""Examples below which it is said what more than one reading of each would bring."""
SMALL = 10_000_000
"""Weights below which a model goes over the data as often as one that has learned nothing yet (docs/log.md)."""
LONGEST = 512
"""Tokens of an example at most, unless asked otherwise."""
CPU_ROW, GPU_ROW = 128, 512
"""Tokens of a row that holds several examples. A GPU's attention keeps these apart at no cost; a CPU's looks at all pairs in a row: rows
of 1,024 tokens took 1.8 times as long as rows of 128 (a BERT of 22 million weights, sentences of 24 tokens)."""
MICRO_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Tokens that go through the model at once."""


@dataclass
class TunePlan(SavedPlan):
    """What will be done."""

    max_tokens: int
    """Tokens of an example at most."""
    capacity: int
    """Tokens of a row that holds several examples; 0: as many as the longest of the step has."""
    patience: int
    """Evaluations without a gain after which the run ends; 0: never."""
    task: dict[str, Any]
    """What the task found in the data (`Task.plain`)."""
    data: dict[str, Any]
    """Counts and hashes of the splits."""
    whole: float | None = None
    """Seconds for training and all that comes after it; None: no time was set."""
    summary: str = ""
    notes: list[str] = field(default_factory=list)


def longest(config: FinetuneConfig, model: ModelConfig) -> int:
    """Tokens of an example at most. Raises `ConfigError` for more than the model has positions."""
    if config.max_tokens is None:
        return min(task_class(config.task).longest, model.max_positions)
    if config.max_tokens > model.max_positions:
        raise ConfigError(f"{config.max_tokens:,} tokens are more than the model's {model.max_positions:,} positions", where="--max-tokens")
    return config.max_tokens


def row_capacity(model: ModelConfig, device: torch.device) -> int:
    """Tokens of a row of several examples; 0 where only rows as short as can be are cheap: recurrent models work a step at a time, and
    masks of relative positions are written out."""
    if isinstance(model, RecurrentConfig) or model.positions == "relative" or model.attention_softcap or model.encoder_layers:
        return 0
    return CPU_ROW if device.type == "cpu" else GPU_ROW


def _size(config: FinetuneConfig, model: ModelConfig) -> str:
    """How many weights the model has: its output layer stays where it writes, and goes where a head takes its place."""
    writes = task_class(config.task).suited(model.kind, config.options).generative
    return human_count(count_parameters(model if writes else model.replace(lm_head=False)))


def tune_plan(
    config: FinetuneConfig, model: ModelConfig, *, n: int, n_validation: int, longest_example: int, cut: Mapping[str, int],
    task: dict[str, Any], data: dict[str, Any], device: torch.device, started: float,
    targets: float = 1.0, by_muon: Mapping[str, Any] | None = None, whole: int | None = None,
) -> TunePlan:  # fmt: skip
    """Choose what was not asked for; `n` training examples with `targets` places to learn from each on average, `cut`: examples cut by
    split, `by_muon`: how Muon trains this model (None: AdamW does), `whole`: the examples of which these are pieces (None: none is)."""
    scratch = config.scratch
    weights = count_parameters(model.replace(lm_head=False))
    optim = _optim(config, weights, recurrent=isinstance(model, RecurrentConfig), by_muon=by_muon)
    rows = int(config.train.get("rows") or _rows(n, targets, writer=optim["kind"] == "muon" and task_class(config.task).generative))
    steps_per_epoch = -(-n // rows)
    epochs, why = _epochs(config, n, weights if n_validation else SMALL)
    capacity = row_capacity(model, device)
    width = max(capacity, longest_example)
    values: dict[str, Any] = {
        "context": width, "rows": rows, "micro_rows": max(1, MICRO_TOKENS.get(device.type, 8192) // width), "seed": config.seed,
        "optim": optim, "schedule": {"kind": "linear", "warmup": 0.1}, "clip": 1.0,
    }  # fmt: skip
    left: float | None = None
    if config.time is not None:
        left = parse_time(config.time) - (time.monotonic() - started)
        reserve = max(2.0, (0.25 if task_class(config.task).writes else 0.1) * left)  # answers take longer to judge than labels
        if left - reserve < 1.0:
            raise UsageError(f"{config.time} is too short: reading and encoding alone took {human_time(parse_time(config.time) - left)}",
                             where="--time", fix="Give more time")  # fmt: skip
        values["seconds"], values["evaluations"], length = round(left - reserve, 2), 10, f"{human_time(left - reserve)} of training"
        values["ema"] = AVERAGE  # a young average follows closely, so that few steps lose nothing by it
    else:
        steps = config.steps or max(1, math.ceil(epochs * steps_per_epoch - 1e-9))
        values["steps"] = steps
        values["ema"] = AVERAGE if steps >= AVERAGED_FROM else 0.0
        values["evaluations"] = max(1, min(20, round(2 * steps / steps_per_epoch), steps))
        length = f"{plural(steps, 'step')} ({steps / steps_per_epoch:.3g} epochs{'' if config.steps else why})"
    train = TrainConfig.of(merge(values, config.train), where="train")
    numbers = choose_numbers(config.dtype, device, whole=not scratch and config.lora is None)
    if train.sam and config.dtype == "auto" and numbers == "bf16":
        numbers = "mixed"  # weights in bfloat16 can't be moved by so little
    kind = model.cell if isinstance(model, RecurrentConfig) else model.family
    told = f"{n:,}" if whole in (n, None) else f"{whole:,} ({n:,} pieces)"
    origin = "from scratch" if scratch else f"from {config.parent}"
    summary = (f"{config.task}: {kind} of {_size(config, model)} weights {origin}, {told} training and {n_validation:,} validation "
               f"examples, {length}, {plural(train.rows, 'example')} a step, {told_rates(train.optim)}, "
               f"{numbers} on {device}")  # fmt: skip
    most, example = longest(config, model), "an example with its answer" if task_class(config.task).writes else "an example"
    told = ", ".join(f"{count:,} of {name}" for name, count in cut.items() if count) or "none"
    notes = [f"at most {most} tokens {example}; cut: {told}"]
    if (slow := crawls(numbers, device)) is not None:
        notes.append(slow)
    if n_validation:
        notes.append(f"the best weights on the validation examples are kept; it ends after {plural(config.patience, 'evaluation')} "
                     f"without a gain"
                     if config.patience else "the best weights on the validation examples are kept")  # fmt: skip
    if train.ema:
        notes.append(f"an average of the weights ({train.ema:g} a step) is judged and kept")
    open_to = set(task_class(config.task).Settings.model_fields) - set(config.options)
    if isinstance(model, RecurrentConfig) and narrowed(config, model):
        notes.append(f"the time is short for so much text: {NARROW} wide in place of {LABELLER['width']}, which needs longer "
                     f"(model.hidden_size=… sets it)")  # fmt: skip
    if weights < SMALL and "r_drop" in open_to:
        notes.append("task.r_drop=1 would take twice as long, and often gives so small a model a point or two more")
    whole_learns = not scratch and config.lora is None and config.freeze == "none" and train.optim.kind == "adamw"
    if config.task == "classify" and whole_learns and n < FEW and "sam" not in config.train:
        notes.append("train.sam=0.05 (sharpness-aware steps) would take twice as long; MiniLM is a point better for it on SST-2")
    if "ngrams" in open_to and scratch and not isinstance(model, RecurrentConfig):
        notes.append("task.ngrams=true would let single words and phrases speak beside the network: often two points more for a model from "
                     "scratch, but transformers has no class for it")  # fmt: skip
    if "pooling" in open_to and config.shaped and not config.fresh and _by_mean(config):
        alone = head_layout(model, "sequence", "mean").architecture.startswith("Wordmill")
        notes.append("this model was made so that the mean of its tokens stands for a text (1_Pooling): task.pooling=mean may do better"
                     f"{', but transformers has no class for it' if alone else ''}")  # fmt: skip
    if config.lora is not None:
        head = "" if task_class(config.task).generative else ", and the head whole"
        notes.append(f"a LoRA of rank {config.lora.rank} learns{head}; the weights of {config.parent} stay as they are")
        if config.lr is None and "lr" not in config.train.get("optim", {}):
            notes.append(f"an adapter takes a higher learning rate than a whole model: {train.optim.lr:.3g} here (--lr sets another)")
    if config.freeze != "none":
        notes.append("the model below the head stays as it is" if config.freeze == "base" else "unfrozen gradually, from the head down")
    return TunePlan(model, train, numbers, most, capacity, config.patience if n_validation else 0, task, data, left, summary, notes)


def _by_mean(config: FinetuneConfig) -> bool:
    """Whether the model's folder is one of `sentence-transformers` that takes the mean of all tokens."""
    pooling = config.base / "1_Pooling" / "config.json"
    return pooling.exists() and bool(read_json(pooling).get("pooling_mode_mean_tokens"))


def _rows(n: int, targets: float, *, writer: bool) -> int:
    """Examples a step. A model that learns to write by Muon takes as many as hold `WRITER_TARGETS`, if that leaves a hundred steps an
    epoch: with a quarter of them it learns as much from an example at Muon's rates, and the optimiser's own work is four times as much."""
    usual = 8 if n < 300 else 16 if n < 2000 else 32
    wanted = min(WRITER_TARGETS / max(1.0, targets), n / 100, MOST_ROWS)
    return max(usual, 2 ** int(math.log2(max(1.0, wanted)))) if writer else usual


def told_rates(optim: OptimConfig) -> str:
    """The optimiser's peak learning rates, in words."""
    if optim.kind != "muon":
        return f"learning rate {optim.lr:.3g}"
    return "Muon with the rates " + ", ".join(f"{name} {value:.3g}" for name, value in optim.rates().items())


def _optim(config: FinetuneConfig, weights: int, *, recurrent: bool, by_muon: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a model of that many weights learns, but for what was asked for in `train.optim`."""
    if by_muon is not None and open_to_muon(config.train):
        factor = 1.0 if config.lr is None else config.lr / by_muon["lr"]
        rates = {name: value * factor if name.endswith("lr") else value for name, value in by_muon.items()}
        return {"eps": 1e-8, "weight_decay": 0.01, **rates}
    rate = config.lr or float(f"{_rate(config, weights, recurrent=recurrent):.2g}")
    return {"kind": "adamw", "lr": rate, "beta1": 0.9, "beta2": 0.98 if config.scratch else 0.999, "eps": 1e-8, "weight_decay": 0.01}


def _rate(config: FinetuneConfig, weights: int, *, recurrent: bool) -> float:
    """The learning rate of a model of that many weights."""
    if config.scratch:
        return SCRATCH["recurrent" if recurrent else "transformer"]
    rate = max(5e-6, RATE * math.sqrt(REFERENCE / weights))
    return min(1e-3, rate) if config.lora is None else min(5e-3, ADAPTER * rate)


def _epochs(config: FinetuneConfig, n: int, weights: int) -> tuple[float, str]:
    """How often to go over the data, and a word on why."""
    if config.epochs is not None:
        return config.epochs, ""
    often = config.scratch or weights < SMALL
    base = 15 if n < 500 else 8 if n < 2000 else 5 if n < (30_000 if often else 8_000) else 3
    if not often:
        return float(base), ""
    why = "since nothing is known yet" if config.scratch else "for so small a model"
    return 3.0 * base, f", more than usual {why}"
