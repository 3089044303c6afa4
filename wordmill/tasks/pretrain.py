"""Pretraining: text in, a model folder out, in one call that can be killed and resumed at any moment.

    sources ─ corpus/ ─ tokenizer/ ─ tokens/ ─ plan ─ fit ─ evaluation ─ model/ ─ report.html

`pretrain` reads top to bottom; each stage leaves its folder inside the run folder, and a stage whose folder is there
is not done again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from wordmill.batches.pack import PackedRows
from wordmill.batches.store import TokenStore, encode_corpus
from wordmill.core.config import Config
from wordmill.core.device import choose_device, choose_dtype, tune_float32, tune_memory
from wordmill.core.errors import DataError, UsageError
from wordmill.core.files import occupied, read_json, write_json, write_text
from wordmill.core.lineage import write_lineage
from wordmill.core.progress import SILENT, Reporter, human_bytes, human_count, human_time, plural, verb
from wordmill.corpus import Corpus, CorpusConfig, build_corpus
from wordmill.evaluate.validation import evaluate_rows, evaluate_store, tokens_at_once
from wordmill.evaluate.watch import Watch, best_weights, weights_in
from wordmill.models.adapters import add_lora
from wordmill.models.config import TransformerConfig
from wordmill.models.folder import build_model, compile_blocks, load_model, read_config, save_model
from wordmill.models.hub import resolve_model, settled
from wordmill.models.lora import LoraConfig
from wordmill.models.transformer import Transformer
from wordmill.tasks.adapted import base_facts, check_base, check_lora, save_adapted
from wordmill.tasks.asked import built, check_asked
from wordmill.tasks.card import model_card
from wordmill.tasks.facts import run_facts
from wordmill.tasks.loud import learned_by
from wordmill.tasks.plan import FITTING, Plan, check_objective, check_settings, make_plan, parse_time, training_rows
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
)  # fmt: skip
from wordmill.tokenizer import Tokenizer, TokenizerConfig
from wordmill.tokenizer.config import sized_by_text
from wordmill.tokenizer.report import report as tokenizer_report
from wordmill.tokenizer.train import train_on_corpus
from wordmill.train.budget import count_parameters, family_shape, model_config
from wordmill.train.distributed import World, world
from wordmill.train.log import Log
from wordmill.train.loop import Training, fit
from wordmill.train.objectives import OBJECTIVES
from wordmill.train.report import write_report


class PretrainConfig(Config):
    """What is asked of a pretraining run: also the layout of a recipe. What is not given is chosen by measuring."""

    sources: tuple[str, ...] = ()
    """Files, folders, or one corpus folder."""
    validation: tuple[str, ...] = ()
    """Files and folders to validate on; without any, a share of the sources is set aside."""
    objective: Literal["clm", "prefix", "mlm", "denoise", "infill"] | None = None
    """What the model learns. clm: each next token. prefix: the same after a beginning that is read from both sides. mlm: hidden words
    (encoders). denoise: hidden spans (T5), infill: the whole text from a damaged one (BART). None: what its kind usually learns."""
    corruption: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings of mlm (MaskConfig), denoise (DenoiseConfig) or infill (InfillConfig): rates, whole words, lengths of spans."""
    family: str = "qwen3"
    """lstm, gru, or a Transformer family: qwen3, llama, gpt2, bert, modernbert, t5, bart, …"""
    parent: str | None = None
    """A model folder or a hub name to go on from; shape and tokenizer are its own."""
    lora: LoraConfig | None = None
    """Learn an adapter beside the weights of `parent`, which stay as they are; None: all weights learn."""
    time: str | None = None
    """Time for everything, such as 10m, 90s or 2h; size, batch, learning rate and schedule follow from it."""
    size: str | None = None
    """Number of weights, such as 15m."""
    tokens: str | None = None
    """Targets to train on, such as 5m."""
    epochs: float | None = Field(default=None, allow_inf_nan=False)
    """How many times to go over the corpus."""
    steps: int | None = None
    """Optimiser steps."""
    tokenizer_folder: str | None = None
    """A trained tokenizer; without one, it is trained on the corpus."""
    corpus: CorpusConfig = CorpusConfig()
    """How the sources become documents."""
    tokenizer: TokenizerConfig = TokenizerConfig(vocab=None, allow_smaller=True)
    """How the tokenizer is trained."""
    model: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings of the model (TransformerConfig or RecurrentConfig) that are not to be chosen."""
    train: dict[str, Any] = {}  # noqa: RUF012
    """Settings of the training (TrainConfig) that are not to be chosen."""
    prompts: tuple[str, ...] = ()
    """Texts to continue at every evaluation; without any, the beginnings of three validation documents."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether each block is compiled by torch.compile: on or off; auto measures whether it pays on a GPU, and is off
    on a CPU, which has kernels that do as much (docs/log.md)."""
    dtype: str = "auto"
    """Numbers to compute with: auto, bf16 or fp32."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""

    _sized = field_validator("tokenizer", mode="before")(sized_by_text)
    _settled = field_validator("parent")(settled)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lora is not None and self.parent is None:
            raise ValueError("an adapter (lora) is trained beside a model that has learned something: name it with --from (parent)")
        return self


def pretrain(
    sources: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Run:
    """Train a language model on text and leave a model folder.

    `settings` are the fields of `PretrainConfig` (`time="10m"`, `family="lstm"`, `model={"layers": 6}`, …); without any
    of time, size, tokens, epochs and steps, ten minutes are taken. `resume` goes on with the run in `out`.
    Raises `WordmillError` for what can't be read or honoured; `Stopped` after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    started = time.monotonic()
    tune_memory()
    names = [str(s) for s in ([sources] if isinstance(sources, str | Path) else sources)]
    given = {**settings, **({"sources": names} if names else {})}
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
            with timed(timings, "reading and tokenizing"):
                data = first_does(group, lambda: prepare(config, folder, log))
            with timed(timings, "measuring the machine"):
                plan = _planned(config, folder, data, place, group, started, log)
        run = assemble(config, plan, data, folder, place, group, log)
        with log.task("training", total=1.0) as task, signals(run):
            watch = _callbacks(run, config, plan, data, task, tensorboard)
            take_up(run, watch, lambda facts: check_base(config, facts), resume=resume)
            before = run.seconds
            fit(run)
        timings |= {"training": run.seconds - before - watch.seconds, "validation and samples": watch.seconds}
        metrics = finish(run, config, plan, data, folder, timings, log) if group.first else {}
        group.wait()
    log.note(f"done in {human_time(time.monotonic() - started)}")
    return Run(folder, metrics)


@dataclass
class Data:
    """What the preparing stages hand on."""

    corpus: Corpus
    tokenizer: Tokenizer
    stores: dict[str, TokenStore]

    @property
    def train(self) -> TokenStore:
        """Tokens to train on."""
        return self.stores["train"]

    @property
    def validation(self) -> TokenStore | None:
        """Tokens to validate on, where there are any."""
        return self.stores.get("validation")


def prepare(config: PretrainConfig, folder: Path, reporter: Reporter) -> Data:
    """Corpus, tokenizer and tokens, each made once and found again on resuming."""
    if built(config.sources):
        corpus = Corpus.open(config.sources[0])
    elif (folder / "corpus" / "corpus.json").exists():
        corpus = Corpus.open(folder / "corpus")
    else:
        corpus = build_corpus(config.sources, folder / "corpus", config.corpus, validation=config.validation, reporter=reporter)
    if config.tokenizer_folder is not None or config.parent is not None:
        tokenizer = Tokenizer.load(config.tokenizer_folder or resolve_model(config.parent or ""))
    elif (folder / "tokenizer" / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(folder / "tokenizer")
    else:
        tokenizer = train_on_corpus(corpus, config.tokenizer, reporter=reporter)
        facts = {
            "corpus": corpus.hash,
            "settings": config.tokenizer.plain(),
            "report": tokenizer_report(tokenizer, corpus.documents("validation" if corpus.count("validation") else "train")),
        }
        tokenizer.save(folder / "tokenizer", lineage=facts)
    splits = ["train"] + (["validation"] if corpus.count("validation") else [])
    stores = encode_corpus(corpus, tokenizer, folder / "tokens", splits=splits, reporter=reporter)
    data = Data(corpus, tokenizer, stores)
    if data.train.n_tokens < 2:
        raise DataError(f"the training text has {plural(data.train.n_tokens, 'token')}, which is too few to learn "
                        f"from", fix="Give more text")
    reporter.note(
        f"{human_count(data.train.n_tokens)} training tokens from {human_bytes(corpus.bytes('train'))} "
        f"({corpus.bytes('train') / data.train.n_tokens:.2f} bytes a token), vocabulary {tokenizer.vocab_size:,}"
    )
    for split, store in stores.items():
        unknown = 0 if tokenizer.unk_id is None else store.count(tokenizer.unk_id)
        if unknown:
            reporter.warn(f"{unknown:,} of {plural(store.n_tokens, 'token')} of {split} {verb(unknown, 'are')} unknown to the tokenizer: "
                          f"their text is not learned, and bits per byte are too low")  # fmt: skip
    return data


def assemble(
    config: PretrainConfig, plan: Plan, data: Data, folder: Path, device: torch.device, group: World, reporter: Reporter
) -> Training:
    """The model and everything that trains it."""
    dtype = choose_dtype(plan.dtype, device)
    if dtype == torch.float32 and device.type == "cpu":
        tune_float32()
    if config.parent is None:
        model = build_model(plan.model)
        model.initialise(config.seed)
    else:
        model = load_model(resolve_model(config.parent)).requires_grad_(True)
        if isinstance(model, Transformer) and plan.model.dropout != model.config.dropout:
            model.set_dropout(plan.model.dropout)
        if config.lora is not None:
            add_lora(model, config.lora, config.seed)
    model.to(device, dtype)
    train = plan.train
    if train.compile:
        compile_blocks(model)
    rows = training_rows(config, plan.model, data.train, data.tokenizer, train.context, train.rows, limit=train.row_limit)
    resumed = {"model": plan.model.plain(), "train": train.plain(), **base_facts(config)}
    objective = OBJECTIVES[config.objective or "clm"]
    return Training(model, objective, rows, train, folder, device, group, reporter, resumed_config=resumed)


def finish(
    run: Training, config: PretrainConfig, plan: Plan, data: Data, folder: Path, timings: dict[str, float], reporter: Reporter
) -> dict[str, Any]:
    """Evaluate on all of the validation text, write the model folder with its lineage and card, and the report."""
    begun = time.monotonic()
    weights = run.weights()
    best = best_weights(folder, run.memory.get("best_step")) if run.memory.get("best_step") != run.step else None
    if best is not None:
        reporter.note(f"keeping the weights of step {run.memory['best_step']}, the best by validation")
        weights = best
    rows = run.rows
    seen = run.targets / data.train.n_tokens if config.objective == "clm" else run.step * plan.train.rows / rows.rows_per_epoch  # type: ignore[attr-defined]
    metrics: dict[str, Any] = {"objective": config.objective, "step": run.step, "tokens": run.tokens, "epochs": round(seen, 3),
                               "parameters": count_parameters(plan.model)}  # fmt: skip
    with weights_in(run, weights):
        metrics |= _final_numbers(run, config, plan, data, reporter)
    model_folder = folder / "model"
    if config.lora is None:
        save_model(run.model, model_folder, weights=weights)
    else:
        save_adapted(config, weights, model_folder, folder / "adapter", metrics)
        data.tokenizer.save(folder / "adapter")
    data.tokenizer.save(model_folder)
    timings["final evaluation and saving"] = round(time.monotonic() - begun, 3)  # but for the cards and the report, which tell it
    lineage = {"task": "pretrain", "objective": config.objective,
               "corpus": {"hash": data.corpus.hash, "sources": data.corpus.info.get("sources")},
               "tokenizer": data.tokenizer.hash, "parent": parent_facts(config.parent),
               "learned_by": learned_by(resolve_model(config.parent)) if config.parent else plan.train.optim.kind,
               "recipe": config.plain(), "model": plan.model.plain(),
               "train": plan.train.plain(), "metrics": metrics, "timings": timings}  # fmt: skip
    write_lineage(model_folder, **lineage)
    write_text(model_folder / "README.md", model_card(folder.name, plan.model, metrics, data.corpus, data.tokenizer, config))
    write_json(folder / "timings.json", timings)
    write_json(folder / FACTS, {**read_json(folder / FACTS), "metrics": metrics})
    write_report(folder)
    return metrics


def _final_numbers(run: Training, config: PretrainConfig, plan: Plan, data: Data, reporter: Reporter) -> dict[str, Any]:
    """How good the model is on all of the validation text: bits per byte, or, where there are none, loss and accuracy of its objective."""
    if data.validation is None:
        return {}
    if config.objective != "clm":
        told = evaluate_rows(run.model, _validation_rows(config, plan, data, data.validation, run.device))
        if not told.targets:
            return {}
        right = f"{100 * told.accuracy:.2f} % of {human_count(told.targets)} targets right"
        reporter.note(f"validation: {right}, loss {told.loss:.4f} nats a target")
        return {"validation_loss": told.loss, "validation_accuracy": told.accuracy, "validation_targets": told.targets}
    score = evaluate_store(run.model, data.validation, context=plan.train.context)
    loss = score.nats / score.tokens
    reporter.note(
        f"validation: {score.bits_per_byte:.4f} bits per byte, perplexity {math.exp(min(loss, 700.0)):.2f} per token "
        f"(all {human_count(score.tokens)} tokens, nothing cut)"
    )
    return {"validation_bits_per_byte": score.bits_per_byte, "validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700.0)),
            "validation_tokens": score.tokens, "validation_bytes": score.bytes, "tokens_cut": 0}  # fmt: skip


def _validation_rows(config: PretrainConfig, plan: Plan, data: Data, store: TokenStore, device: torch.device) -> PackedRows:
    """The validation text under the run's objective, corrupted in the same way every time."""
    context = plan.train.context
    rows = training_rows(config.replace(seed=0), plan.model, store, data.tokenizer, context, max(1, tokens_at_once(device) // context))
    assert isinstance(rows, PackedRows)
    return rows


def _callbacks(run: Training, config: PretrainConfig, plan: Plan, data: Data, task: Any, tensorboard: bool) -> Watch:
    folder = run.folder if run.world.first else None
    causal = config.objective == "clm"
    bytes_per_token = max(1e-9, data.corpus.bytes("train") / data.train.n_tokens) if causal else None
    log = Log(folder, task, flops_per_token=plan.flops_per_token, peak=plan.peak_flops, bytes_per_token=bytes_per_token,
              tensorboard=tensorboard)  # fmt: skip
    rows = None if causal or data.validation is None else _validation_rows(config, plan, data, data.validation, run.device)
    prompts = (config.prompts or _prompts(data)) if causal else ()
    watch = Watch(log, data.validation, data.tokenizer, prompts=prompts, max_targets=plan.validation_targets, keep_best=plan.keep_best,
                  rows=rows)  # fmt: skip
    run.callbacks += [log, watch] if run.world.first else [watch]
    return watch


def _prompts(data: Data) -> tuple[str, ...]:
    """The beginnings of three validation documents (training ones where there is no validation text), cut at a word."""
    found = []
    for text in data.corpus.texts("validation" if data.validation is not None else "train"):
        start = text.strip()[:24]
        found.append(start.rsplit(" ", 1)[0] if " " in start else start[:12])
        if len(found) == 3:
            break
    return tuple(found)


def _open(given: Mapping[str, Any], out: Path | None, resume: bool, group: World) -> tuple[PretrainConfig, Path]:
    """The settings and the run folder: new, or that of the run to resume, whose settings must not have changed."""
    if resume:
        return resumed(PretrainConfig, given, out)
    config = asked_for(given)
    return config, new_run(config, out, group)


def asked_for(given: Mapping[str, Any]) -> PretrainConfig:
    """What is asked for, with what follows from it alone. Raises `WordmillError` for what is known to be wrong before the text is read."""
    config = PretrainConfig.of(given)
    if not config.sources:
        raise UsageError("no text given", fix="Name files, folders or a corpus folder")
    chosen = [name for name in ("tokens", "epochs", "steps") if getattr(config, name) is not None]
    if len(chosen) > 1 or (chosen and config.time):
        raise UsageError(
            f"{' and '.join([*chosen, *(['time'] if config.time else [])])} both say how long to train",
            fix="Give one of --time, --tokens, --epochs, --steps",
        )
    if not chosen and config.time is None:
        config = config.replace(time="10m")
    if config.time is not None:
        parse_time(config.time)
    config = with_objective(config)
    check_settings(config)
    check_asked(config, given)
    check_lora(config)
    return config


PURPOSES = {"mlm": "masked", "denoise": "denoising", "infill": "denoising"}
"""Which special tokens an objective needs of a tokenizer."""


def with_objective(config: PretrainConfig) -> PretrainConfig:
    """The settings with the objective that the model's kind usually learns, where none was asked for, and a tokenizer that fits it."""
    if config.parent is not None:
        model = read_config(resolve_model(config.parent))
        kind: str = model.kind
        family = model.family if isinstance(model, TransformerConfig) else model.cell
        if config.family not in ("qwen3", family):
            raise UsageError(f"{config.parent} is a {family}, not a {config.family}", where="--model", fix="Leave --model away with --from")
        config = config.replace(family=family)
    else:
        shape = {**family_shape(config.family, 64, 1), **_parts(config.model)}
        if "cell" in shape and config.objective == "mlm":
            if not shape.setdefault("bidirectional", True):
                raise UsageError("what is hidden is learned from both sides of it", where="model.bidirectional",
                                 fix="Leave model.bidirectional=false away, or take --objective clm")  # fmt: skip
            config = config.replace(model={**config.model, "bidirectional": True})
        kind = model_config(config.family, shape).kind
    objective = config.objective or FITTING.get(kind, ("clm",))[0]
    check_objective(kind, objective)
    values: dict[str, Any] = {"objective": objective}
    purpose = PURPOSES.get(objective, "causal")
    if config.tokenizer.purpose != purpose:
        values["tokenizer"] = config.tokenizer.replace(purpose=purpose)
    return config.replace(**values)


def _parts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the model's settings those that decide what kind it is."""
    return {name: given[name] for name in ("causal", "encoder_layers", "bidirectional") if name in given}


def _planned(
    config: PretrainConfig, folder: Path, data: Data, device: torch.device, group: World, started: float, reporter: Reporter
) -> Plan:
    """The plan of this run: made once by the first process, then read from config.yaml by everybody, and on resuming."""

    def plan() -> Plan:
        saved = saved_config(folder)
        if "plan" in saved:
            return Plan.from_plain(saved["plan"])
        made = make_plan(config, data.train, data.validation, data.tokenizer, device, group.size, started, reporter)
        facts = run_facts(
            summary=made.summary,
            notes=made.notes,
            sources=config.sources,
            corpus=data.corpus,
            tokenizer=data.tokenizer,
            tokenizer_folder=Path(config.tokenizer_folder) if config.tokenizer_folder else folder / "tokenizer",
            stores=data.stores,
            model=made.model,
            context=made.train.context,
            device=str(device),
            dtype=made.dtype,
        )
        write_json(folder / FACTS, facts)
        # Last, since a resumed run that finds a plan takes all of this for done.
        write_config(folder, {**saved, "plan": made.plain()})
        return made

    made = first_does(group, plan)
    reporter.note(made.summary)
    for line in made.notes:
        reporter.note(f"  {line}")
    return made


__all__ = ["PretrainConfig", "Run", "pretrain"]
