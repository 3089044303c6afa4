"""Fine-tuning: a table of examples in, a model folder that does the job out; in one call that can be killed and resumed.

    files ─ records ─ look ─ split ─ encode ─ plan ─ model with its head ─ fit ─ judge ─ model/ ─ report.html

What is particular to a task is in its own file (tasks/task.py says how); here is what they share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import Encoded, ExampleRows, in_pieces
from wordmill.core.config import Config
from wordmill.core.device import choose_device, products, tune_memory
from wordmill.core.errors import DataError, UsageError
from wordmill.core.files import hash_values, occupied, read_json, write_json, write_text
from wordmill.core.lineage import write_lineage
from wordmill.core.progress import SILENT, Reporter, human_time, plural, verb
from wordmill.evaluate.watch import best_weights, weights_in
from wordmill.models.adapters import add_lora
from wordmill.models.config import ModelConfig, TransformerConfig
from wordmill.models.folder import LanguageModel, build_model, save_model
from wordmill.models.heads import Headed, goes_on, has_ngrams, load_start, save_headed, take_head
from wordmill.models.hub import is_hub_name, resolve_model, settled
from wordmill.models.lora import LoraConfig
from wordmill.models.shapes import start_from_shapes
from wordmill.models.transformer import Transformer
from wordmill.tasks.adapted import base_facts, base_of, check_base, head_facts, save_tuned_adapter
from wordmill.tasks.aside import set_aside
from wordmill.tasks.card import tuned_card
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.judge import Judged, judge, sample_page
from wordmill.tasks.loud import LOUD_RATES, asks_for_muon, check_muon, learned_by
from wordmill.tasks.run import (
    FACTS,
    Run,
    finished,
    first_does,
    left_as_it_was,
    new_run,
    parent_facts,
    resumed,
    saved_config,
    signals,
    take_up,
    timed,
    write_config,
)
from wordmill.tasks.task import Task, Tools, check_used, encode_all, task_class
from wordmill.tasks.tune_asked import check_asked, model_kind
from wordmill.tasks.tune_plan import WRITER, TunePlan, longest, row_capacity, tune_plan
from wordmill.tasks.tuned_shape import tuned_shape
from wordmill.tasks.watch import TaskWatch, Thaw, every
from wordmill.tokenizer import Tokenizer, TokenizerConfig
from wordmill.tokenizer.config import sized_by_text, suggest_vocab
from wordmill.tokenizer.train import train_tokenizer
from wordmill.train import budget
from wordmill.train.distributed import World, world
from wordmill.train.log import Log
from wordmill.train.loop import Training, fit
from wordmill.train.optim import BEHIND, depth
from wordmill.train.report import PAGES, write_report

VALIDATION_MOST = 2000
"""Validation examples that are looked at while training, at most; in the end all are."""

WRITTEN_MOST = 500
"""Validation examples that are answered in writing in the end, at most (of the test examples all): writing takes long."""


MOST_CHARACTERS = 8192
"""Tokens of a tokenizer of characters, at most."""


class FinetuneConfig(Config):
    """What is asked of a fine-tuning run: also the layout of a recipe. What is not given is chosen by family and amount of data."""

    task: str
    """What to learn: classify, tag, …"""
    data: tuple[str, ...] = ()
    """Files of examples to train on."""
    validation: tuple[str, ...] = ()
    """Files to choose the best weights by; without any, a share of the examples is set aside."""
    test: tuple[str, ...] = ()
    """Files to judge the finished model by; they are looked at once, in the end."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the examples set aside where no validation files are given; 0: none, and the last weights are kept."""
    parent: str | None = None
    """What to start from: a model folder or a hub name, or a family's name to start from scratch."""
    fresh: bool = False
    """Only the shape and the tokenizer of `parent` are taken: its weights are drawn anew. What pretraining brings is the difference."""
    tokenizer_folder: str | None = None
    """A trained tokenizer, from scratch; without one, one is trained on the examples."""
    tokenizer: TokenizerConfig = TokenizerConfig(vocab=None, allow_smaller=True)
    """How that tokenizer is trained."""
    size: str | None = None
    """Number of weights of a model from scratch, such as 5m."""
    shape: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings of a model from scratch (TransformerConfig or RecurrentConfig); of another, dropout alone."""
    options: dict[str, Any] = {}  # noqa: RUF012
    """Settings of the task (ClassifyConfig, …)."""
    train: dict[str, Any] = {}  # noqa: RUF012
    """Settings of the training (TrainConfig) that are not to be chosen; optim.layer_decay is the factor between layers."""
    epochs: float | None = Field(default=None, gt=0)
    """How many times to go over the examples."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps."""
    time: str | None = None
    """Time for everything, such as 10m."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate."""
    max_tokens: int | None = Field(default=None, ge=4)
    """Tokens of an example at most; longer ones are cut, and counted. None: 512 (chat: 1,024), or the model's positions."""
    split_seed: int | None = Field(default=None, ge=0)
    """Seed of which examples are set aside; None: that of everything else. Runs that are compared share it."""
    patience: int = Field(default=6, ge=0)
    """Evaluations without a gain after which the run ends; 0: never."""
    freeze: Literal["none", "base", "gradual"] = "none"
    """base: only the head learns. gradual: the head first, then one block after the other from the top."""
    lora: LoraConfig | None = None
    """Learn an adapter beside the weights of `parent`, which stay as they are, and the head whole; None: all weights learn."""
    dtype: str = "auto"
    """Numbers to compute with: auto, bf16, mixed (float32 but for the products) or fp32."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""

    _sized = field_validator("tokenizer", mode="before")(sized_by_text)
    _settled = field_validator("parent")(settled)

    @property
    def scratch(self) -> bool:
        """Whether the model starts from scratch."""
        return self.parent is not None and (self.fresh or not self.shaped)

    @property
    def shaped(self) -> bool:
        """Whether shape and tokenizer are those of a model that is there: in a folder, or on the hub."""
        return self.parent is not None and (Path(self.parent).exists() or is_hub_name(self.parent))

    @property
    def base(self) -> Path:
        """The folder of that model. Raises as `resolve_model`."""
        return resolve_model(self.parent or "")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        chosen = [name for name in ("epochs", "steps", "time") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} both say how long to train: give one of them")
        if self.lora is not None and self.freeze != "none":
            raise ValueError(f"beside an adapter (lora) all weights of the model are frozen anyway: leave freeze={self.freeze} away")
        if self.lora is not None and self.parent is not None and self.scratch:
            why = "--fresh gives it new weights" if self.fresh and self.shaped else f"{self.parent!r} is no folder"
            raise ValueError(f"an adapter (lora) is trained beside a model that has learned something, and {why}")
        return self


@dataclass
class Prepared:
    """What stands before a plan is made."""

    task: Task
    splits: dict[str, Records]
    encoded: dict[str, list[Encoded]]
    model: ModelConfig
    tokenizer: Tokenizer
    tools: Tools
    left_out: dict[str, int]
    """Examples of each split of which nothing to learn would have been left."""

    @property
    def data(self) -> dict[str, Any]:
        """Counts and hashes of the splits: what must not change when a run is resumed."""
        return {name: {"examples": len(records), "files": records.files,
                       "hash": hash_values([sorted((k, str(v)) for k, v in r.values.items()) for r in records.records])}
                for name, records in self.splits.items()}  # fmt: skip


def finetune(
    task: str | None = None,
    data: str | Path | Sequence[str | Path] = (),
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Run:
    """Train a model on examples of a task and leave a model folder that does it.

    `model` is a model folder or a hub name, or a family's name to start from scratch; `settings` are the fields of `FinetuneConfig`
    (`epochs=3`, `validation="dev.csv"`, `options={"label": "stars"}`, …). `resume` goes on with the run in `out`.
    Raises `WordmillError` for what can't be read or honoured; `Stopped` after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    started = time.monotonic()
    tune_memory()
    given = as_given(task, data, model, settings)
    place = choose_device(device)
    with world(place) as group, ExitStack() as held:
        log = reporter if group.first else Reporter(quiet=True)
        config, folder = _open(given, Path(out) if out else None, resume, group)
        done = finished(folder) if resume else None
        if done is not None:
            log.note("this run is finished")
            return done
        if group.first:
            held.enter_context(occupied(folder))
        timings: dict[str, float] = {}
        with left_as_it_was(folder, new=group.first and not resume):
            with timed(timings, "reading and encoding"):
                ready = prepare(config, folder, place, log)
                ready.task.begin(ready.encoded["train"], ready.splits["train"].records, log)
            plan = _planned(config, folder, ready, place, group, started, log)
            dtype = held.enter_context(products(plan.dtype, place))
            run = assemble(config, plan, ready, folder, place, dtype, group, log)
        with log.task("training", total=1.0) as bar, signals(run):
            watch = _callbacks(run, config, plan, ready, bar, tensorboard)
            take_up(run, watch, lambda facts: check_base(config, facts), resume=resume)
            if config.freeze == "gradual":
                run.callbacks.append(Thaw(run, depths(run.model)))
            before = run.seconds
            fit(run)
        timings |= {"training": run.seconds - before - watch.seconds, "validation": watch.seconds}
        metrics = finish(run, config, plan, ready, folder, timings, log) if group.first else {}
        group.wait()
    log.note(f"done in {human_time(time.monotonic() - started)}")
    return Run(folder, metrics)


def as_given(
    task: str | None, data: str | Path | Sequence[str | Path], model: str | Path | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What was said to `finetune`, by the names of `FinetuneConfig`."""
    named = {name: str(value) for name, value in (("task", task), ("parent", model)) if value is not None}
    return {**settings, **_files(data=data, validation=settings.get("validation"), test=settings.get("test")), **named}


def _files(**given: Any) -> dict[str, list[str]]:
    """Names of files, each given as one or several."""
    found = {name: [value] if isinstance(value, str | Path) else list(value or ()) for name, value in given.items()}
    return {name: [str(path) for path in paths] for name, paths in found.items() if paths}


def _open(given: Mapping[str, Any], out: Path | None, resume: bool, group: World) -> tuple[FinetuneConfig, Path]:
    """The settings and the run folder: new, or that of the run to resume, whose settings must not have changed."""
    if resume:
        return resumed(FinetuneConfig, given, out)
    if not given.get("task"):
        raise UsageError("no task given", fix="For example: wordmill finetune classify reviews.csv --model FOLDER")
    config = FinetuneConfig.of(given)
    check_asked(config, given)
    return config, new_run(config, out, group)


def prepare(config: FinetuneConfig, folder: Path, device: torch.device, reporter: Reporter) -> Prepared:
    """Records, splits, tokenizer and encoded examples: a function of the settings and the files, made again on resuming."""
    kind = model_kind(config)
    task = task_class(config.task).suited(kind, config.options)
    if kind not in task.kinds:
        raise UsageError(f"{config.task} needs {' or '.join(task.kinds)}, and {config.parent} is {kind}", where="--model")
    if config.freeze == "base" and task.generative:
        raise UsageError(f"{config.task} has no head that could learn alone", where="freeze", fix="Use freeze=gradual or none")
    asked = {"train": config.data, "validation": config.validation, "test": config.test}
    splits = {name: task.read(paths, learn=name == "train", reporter=reporter) for name, paths in asked.items() if paths}
    task.look(splits, reporter)
    check_used(task, config.options, splits["train"].records)
    if "validation" not in splits and config.validation_share:
        splits = set_aside(config, task, splits, folder, reporter)
    learned = task.counts(splits["train"].records)
    for name, records in splits.items():
        if learned and not task.counts(records.records):
            what = ", ".join(list(learned)[:5])
            reporter.warn(f"{name}: none of its examples holds any of what is learned ({what}): its score says nothing")
    task.weigh(splits["train"].records)
    n_bytes = 0 if config.shaped else _size(task, splits["train"])
    plain = _tokenizer(config, task, splits["train"], n_bytes, folder, reporter)
    model, tokenizer = tuned_shape(config, plain, n_bytes, writes=task.generative), task.equip(plain)
    if tokenizer.vocab_size > plain.vocab_size:
        new = plural(tokenizer.vocab_size - plain.vocab_size, "new special token")
        if config.lora is not None:
            raise UsageError(f"{new} need rows of the vocabulary that learn, and beside an adapter (lora) none do", where="--lora",
                             fix="Leave --lora away, or take a template without them: task.template=plain")  # fmt: skip
        reporter.note(f"the vocabulary gets {new}")
        model = model.replace(vocab_size=max(model.vocab_size, tokenizer.vocab_size))
    tools = Tools(tokenizer, model, longest(config, model), row_capacity(model, device))
    task.settle(tools, splits["train"].records, reporter)
    if config.shaped and not config.fresh and has_ngrams(config.base) and not task.spec.get("ngrams"):
        new = ": task.ngrams=true fits new ones to these examples" if "ngrams" in task.Settings.model_fields else ""
        reporter.note(f"the n-grams of {config.parent} are left behind{new}")
    encoded: dict[str, list[Encoded]] = {}
    read = {name: len(records) for name, records in splits.items()}
    for name, records in splits.items():
        records.records, encoded[name] = encode_all(task, records.records, tools, answer=True, name=name, reporter=reporter)
    lost = sum(not any((one.targets >= 0).any() for one in example.pieces or (example,)) for example in encoded["train"])
    if lost:
        what = f"{lost:,} of {plural(len(encoded['train']), 'training example')} {verb(lost, 'teach')} nothing"
        reporter.warn(f"{what}: their answer was cut away, or is longer than what windows have in common")
    left_out = {name: read[name] - len(records) for name, records in splits.items()}
    return Prepared(task, splits, encoded, model, tokenizer, tools, left_out)


def _size(task: Task, train: Records) -> int:
    """Bytes of text (UTF-8) in the training examples."""
    return sum(len(text.encode()) for record in train.records for text in task.texts(record))


def _tokenizer(config: FinetuneConfig, task: Task, train: Records, n_bytes: int, folder: Path, reporter: Reporter) -> Tokenizer:
    """The model's own; from scratch the one named, or one trained on the training examples alone. A model that labels has no output layer
    over its vocabulary, and learns what words mean from labels: four times as many tokens as for writing serve it better."""
    if config.shaped:
        return Tokenizer.load(config.base)
    if config.tokenizer_folder is not None:
        return Tokenizer.load(config.tokenizer_folder)
    place = folder / "tokenizer"
    if (place / "tokenizer.json").exists():
        return Tokenizer.load(place)
    texts = [text for record in train.records for text in task.texts(record)]
    if not any(map(str.strip, texts)):
        raise DataError("all texts are empty: there is nothing to learn", where=train.files[0], fix="Is it the right column?")
    shape = budget.family_shape(config.parent or "", 64, 1)
    wanted = config.tokenizer
    if task.spec.get("characters") and "kind" not in wanted.model_fields_set:
        wanted = wanted.replace(kind="char", vocab=wanted.vocab or MOST_CHARACTERS)  # a tag for each character: a token for each
    if wanted.purpose == "causal" and "cell" not in shape and not shape.get("causal", True):
        wanted = wanted.replace(purpose="masked")
    if wanted.purpose == "causal" and task.generative and shape.get("encoder_layers"):
        wanted = wanted.replace(purpose="denoising", sentinels=1)  # `… </s>` around a text, as the family has it
    if not task.generative and wanted.vocab is None:
        wanted = wanted.replace(vocab=4 * suggest_vocab(n_bytes), allow_smaller=True)
    tokenizer = train_tokenizer(texts, wanted, reporter=reporter)
    tokenizer.save(place, lineage={"settings": wanted.plain()})
    reporter.note(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, trained on the training examples")
    return tokenizer


def _planned(
    config: FinetuneConfig, folder: Path, ready: Prepared, device: torch.device, group: World, started: float, reporter: Reporter
) -> TunePlan:
    """The plan of this run: made once by the first process, then read from config.yaml. Raises `DataError` when the data have changed."""

    def plan() -> TunePlan:
        saved = saved_config(folder)
        if "plan" in saved:
            return TunePlan.from_plain(saved["plan"])
        cut = {name: sum(1 for one in examples if one.cut) for name, examples in ready.encoded.items()}
        read, _ = in_pieces(ready.encoded["train"])
        wide = max(max(len(one.ids), one.length - len(one.ids)) for one in read)
        targets = sum(int((one.targets != IGNORE).sum()) for one in read) / len(read)
        whole, aside = len(ready.encoded["train"]), len(ready.encoded.get("validation", ()))
        made = tune_plan(config, ready.model, n=len(read), whole=whole, n_validation=aside, cut=cut,
                         longest_example=wide, targets=targets, task=ready.task.plain(), data=ready.data, device=device,
                         started=started, by_muon=_by_muon(config, ready))  # fmt: skip
        if any(ready.left_out.values()):
            made.notes.append(f"left out as too long: {', '.join(f'{n:,} of {name}' for name, n in ready.left_out.items() if n)}")
        long = sum(1 for examples in ready.encoded.values() for one in examples if one.pieces)
        if long:
            are = verb(long, "are")
            made.notes.append(f"{plural(long, 'example')} {are} longer than that and {are} read in pieces that overlap")
        model = ready.model
        family = model.family if isinstance(model, TransformerConfig) else model.cell
        beneath = model if ready.task.generative else model.replace(lm_head=False)
        write_json(folder / FACTS, {
            "summary": made.summary,
            "model": {"family": family, "parameters": budget.count_parameters(beneath), "layers": model.layers, "dtype": made.dtype,
                      "device": str(device)},
            "data": {"splits": {name: {"examples": len(ready.splits[name]), "tokens": sum(one.length for one in in_pieces(examples)[0]),
                                       "cut": cut[name], "left_out": ready.left_out[name]} for name, examples in ready.encoded.items()},
                     "labels": ready.task.counts(ready.splits["train"].records)},
            "notes": made.notes,
        })  # fmt: skip
        write_config(folder, {**saved, "plan": json.loads(json.dumps(made.plain()))})
        return made

    made = first_does(group, plan)
    changed = [name for name, facts in ready.data.items() if made.data.get(name, {}).get("hash") != facts["hash"]]
    if changed:
        raise DataError(f"the examples of {' and '.join(changed)} have changed since the run began", where=folder,
                        fix="Start a new run with another -o")  # fmt: skip
    if not any(len(one.targets[one.targets >= 0]) for one in in_pieces(ready.encoded["train"])[0]):
        raise DataError("no training example has anything to learn: every answer was cut away", where=ready.splits["train"].files[0])
    reporter.note(made.summary)
    for line in made.notes:
        reporter.note(f"  {line}")
    return made


def _by_muon(config: FinetuneConfig, ready: Prepared) -> dict[str, Any] | None:
    """How Muon trains this model; None where AdamW does. Raises as `check_muon`."""
    if config.scratch:
        writes = ready.task.generative and isinstance(ready.model, TransformerConfig)
        return WRITER if writes or asks_for_muon(config.train) else None
    if config.lora is None and learned_by(config.base) == "muon":
        return LOUD_RATES
    check_muon(config.train, config.parent, config.lr)
    return None


def build(config: FinetuneConfig, model: ModelConfig, ready: Prepared, reporter: Reporter = SILENT) -> nn.Module:
    """The model, with the head of its task: the one that it has, where that gives the same answers."""
    base: LanguageModel
    before: Headed | None = None
    if config.scratch:
        base = build_model(model)
        base.initialise(config.seed)
        if ready.task.by_shape and ready.tokenizer.kind != "char":  # a character is its own shape
            start_from_shapes(base.embedding.weight, ready.tokenizer.token_texts(), config.seed)
    else:
        base, before = load_start(config.base)
        base.requires_grad_(True)
        if isinstance(base, Transformer):
            base.set_dropout(model.dropout)
        else:
            base.config = base.config.replace(dropout=model.dropout, token_dropout=model.token_dropout)  # type: ignore[union-attr]
    made = ready.task.build(base, config.seed)
    if before is not None and isinstance(made, Headed):
        if goes_on(made, before):
            take_head(made, before)
            reporter.note("it goes on with the head that it has")
        else:
            had = ", ".join(before.head.labels[:8])
            reporter.note(f"the head is new: the one that it had says or reads something else ({had})")
        if before.crf is not None and made.crf is None:
            reporter.note("its CRF is left behind: task.crf=true goes on with it")
    return made


def assemble(
    config: FinetuneConfig, plan: TunePlan, ready: Prepared, folder: Path, device: torch.device, dtype: torch.dtype, group: World,
    reporter: Reporter,
) -> Training:  # fmt: skip
    """The model and everything that trains it. What changes which weights there are, or which of them learn, is done here."""
    model = build(config, plan.model, ready, reporter).to(device, dtype)
    if config.freeze == "base":
        assert isinstance(model, Headed)
        model.base.requires_grad_(False)
    if config.lora is not None:
        add_lora(base_of(model), config.lora, config.seed)
    read, owners = in_pieces(ready.encoded["train"])
    shares = ready.task.shares(ready.splits["train"].records)
    rows = ExampleRows(read, plan.train.rows, config.seed, capacity=plan.capacity, shares=None if shares is None else shares[owners])
    resumed_config = {"model": plan.model.plain(), "train": plan.train.plain(), **base_facts(config)}
    return Training(cast(LanguageModel, model), ready.task.objective, rows, plan.train, folder, device, group, reporter,
                    resumed_config=resumed_config)  # fmt: skip


def depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter lies, the head deepest: the order of gradual unfreezing, from the top."""
    return {name: depth(name) if name.startswith("base.") or not isinstance(model, Headed) else BEHIND + 1
            for name, _ in model.named_parameters()}  # fmt: skip


def _callbacks(run: Training, config: FinetuneConfig, plan: TunePlan, ready: Prepared, bar: Any, tensorboard: bool) -> TaskWatch:
    log = Log(run.folder if run.world.first else None, bar, flops_per_token=0.0, peak=0.0, bytes_per_token=None, tensorboard=tensorboard)
    records = ready.splits["validation"].records if "validation" in ready.splits else []
    encoded = ready.encoded.get("validation", [])
    # Looking at all of a large validation set again and again would take longer than training.
    step = every(len(records), VALIDATION_MOST)
    times = 1 if ready.task.before is None or config.scratch else 2  # the model as it was before is asked too
    of_validation = times * len(records[:: _answered(ready.task, len(records))])
    in_the_end = of_validation + times * len(ready.encoded.get("test", ()))
    watch = TaskWatch(log, ready.task, ready.tools, records[::step], encoded[::step], patience=plan.patience, in_the_end=in_the_end,
                      of_validation=of_validation, whole=plan.whole)  # fmt: skip
    run.callbacks += [log, watch] if run.world.first else [watch]
    return watch


def _answered(task: Task, examples: int, share: float = 1.0) -> int:
    """Of so many validation examples each how-manyth is answered in the end: writing takes long, and there may be time for a `share` of
    them."""
    return every(examples, max(1, round(share * min(examples, WRITTEN_MOST)))) if task.writes else 1


def finish(
    run: Training, config: FinetuneConfig, plan: TunePlan, ready: Prepared, folder: Path, timings: dict[str, float], reporter: Reporter
) -> dict[str, Any]:
    """Take the best weights, judge them on all validation examples and, once, on the test examples; write folder, card and report."""
    begun = time.monotonic()
    weights = run.weights()
    best = best_weights(folder, run.memory.get("best_step")) if run.memory.get("best_step") != run.step else None
    if best is not None:
        reporter.note(f"keeping the weights of step {run.memory['best_step']}, the best on the validation examples")
        weights = best
    train = ready.splits["train"].records
    metrics: dict[str, Any] = {"task": config.task, "step": run.step, "best_step": run.memory.get("best_step", run.step),
                               "examples": len(train), "parameters": sum(p.numel() for p in run.model.parameters())}  # fmt: skip
    pages, tiles = "", dict[str, float]()

    def before() -> nn.Module | None:
        return None if config.scratch else build(config, plan.model, ready).to(run.device)

    found: dict[str, Judged] = {}
    share = float(run.memory.get("answered", 1.0))
    with weights_in(run, weights):
        if "validation" in ready.splits:
            ready.task.end(run.model, ready.tools, ready.encoded["validation"], ready.splits["validation"].records, reporter)
        for name in ("validation", "test"):
            if name in ready.splits:
                records = ready.splits[name].records
                if name == "validation" and (step := _answered(ready.task, len(records), share)) > 1:
                    reporter.note(f"validation: one of {step} examples is answered, of {len(records):,}")
                    records = records[::step]
                judged, answers = judge(ready.task, run.model, ready.tools, records, train=train, before=before,
                                        left_out=ready.left_out[name], reporter=reporter)  # fmt: skip
                found[name] = judged
                metrics[name] = judged.plain()
                tiles[f"{judged.headline.replace('_', ' ')} ({name})"] = judged.metrics[judged.headline]
                pages = f"<h2>On the {name} examples</h2>{_scores(judged)}"
                pages += sample_page(judged.samples) + ready.task.pages(records, answers)
                for line in judged.text().splitlines():
                    reporter.note(f"{name}: {line}")
    last = found.get("test") or found.get("validation")
    if last is not None and (as_good := last.not_better()) is not None:
        advice = "These examples are too easy to tell" if last.perfect else "More time, more examples or another start may help"
        reporter.warn(f"the model is no better than what is had without one: {as_good}. {advice}")
    folders: dict[str, dict[str, Any]] = {"model": {}}
    still = {name for name, _ in run.model.named_parameters()} - set(weights)
    # What is frozen is as it was in the parent: the model at hand may hold it rounded to bfloat16.
    whole = build(config, plan.model, ready).float() if still else run.model
    if config.lora is None:
        frozen = {name: weight for name, weight in whole.state_dict().items() if name in still}
        save(run.model, ready.task, folder / "model", {**frozen, **weights})
    else:
        metrics["trained_parameters"] = save_tuned_adapter(config, whole, weights, folder / "adapter")
        save(whole, ready.task, folder / "model", whole.state_dict())
        folders["adapter"] = {"head": head_facts(whole)}
    for name in folders:
        ready.task.store(folder / name, ready.tokenizer)
    timings["final evaluation and saving"] = round(time.monotonic() - begun, 3)  # but for the cards and the report, which tell it
    parent = None if config.scratch else parent_facts(config.parent)  # reads all of the parent's weights
    for name, more in folders.items():
        write_lineage(folder / name, task=config.task, tuned={**ready.task.plain(), "max_tokens": plan.max_tokens}, parent=parent,
                      data=plan.data, tokenizer=ready.tokenizer.hash,
                      learned_by=plan.train.optim.kind if config.scratch else learned_by(config.base),
                      recipe=config.plain(), train=plan.train.plain(), metrics=metrics, timings=timings, **more)  # fmt: skip
    write_text(folder / "model" / "README.md", tuned_card(folder.name, config, run.model, found, ready.task.describe()))
    write_text(folder / PAGES, pages)
    write_json(folder / "timings.json", timings)
    flat = {f"{name}_{key}": value for name, judged in found.items() for key, value in judged.metrics.items()}
    facts = {**read_json(folder / FACTS), "tiles": dict(reversed(tiles.items())), "results": flat}
    write_json(folder / FACTS, {**facts, "metrics": metrics})
    write_report(folder)
    return metrics


def save(model: Any, task: Task, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write the model's part of its folder."""
    if isinstance(model, Headed):
        save_headed(model, folder, weights=weights)
    else:
        save_model(model, folder, weights=weights)


def _scores(judged: Judged) -> str:
    """Metrics, their intervals and the baselines, as a table."""
    head = "".join(f'<th class="number">{name}</th>' for name in ("score", "95 % interval", *judged.baselines))
    rows = []
    for name, value in judged.metrics.items():
        low, high = judged.intervals[name]
        cells = [f"{value:.4f}", f"{low:.4f} … {high:.4f}", *(f"{b[name]:.4f}" if name in b else "–" for b in judged.baselines.values())]
        rows.append(f'<tr><td class="key">{name.replace("_", " ")}</td>' + "".join(f'<td class="number">{c}</td>' for c in cells) + "</tr>")
    cut = f"{plural(judged.examples, 'example')}; {judged.lost()}"
    cut = " · ".join([cut, *judged.remarks])
    return f'<p class=sub>{cut}</p><div class="card"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


__all__ = ["FinetuneConfig", "Record", "finetune"]
