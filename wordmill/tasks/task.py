"""What a task is: its data, head, objective, metric and predictor, in one file. How to add one:

1. `tasks/NAME.py` with a `Config` of its settings (what `task.x=…` sets on the command line) and a subclass of `Task`.
2. A line in `TASKS` below.

That is all: `wordmill finetune NAME`, `evaluate`, `predict`, `compare`, `--preview`, splitting, the plan, the one training loop, resuming,
early stopping, the report and the model folder (tasks/finetune.py, tasks/tuned.py) work with what the methods below give. In the order
in which they are called:

    suited     the task in the form for a model of that kind, where there are several
    read       files → records, one an example (by default tables, JSON, Parquet and CoNLL: tasks/examples.py)
    look       find columns and labels in the records and keep them in `self.spec` (plain JSON: it is saved, and is all that is known when
               the model is used); say what was taken for what; raise `DataError` with `record.where` for what can't be trained on
    idle       settings that would change nothing with that: they are refused
    stratum, key   the split keeps shares of strata, and equal keys on one side
    weigh      what the training examples tell as a whole: weights of classes, which tag follows which
    equip      the tokenizer with what the task adds to it (before encoding; as a rule nothing)
    settle     what depends on the tokenizer and the model too (a task that writes: its prompt, its end token), into `self.spec`
    encode     a record → `Encoded`: ids with targets (`IGNORE` where nothing is learned), counting what was cut; a text in several
               windows → the first, with the `more` of them
    begin      what the model takes from all training examples before it learns: n-grams
    build      the model: `Headed` for answers about a text or its tokens; a generative task leaves the base as it is
    objective  `LossSum` of a batch, as in train/objectives.py: sums, never means
    end        what is settled on the validation examples once the model has learned: how much n-grams count
    respond    what the model says to records, one answer each, in any form (by default: `encode`, then `answers` batch by batch; a task
               that generates overrides `respond`; tasks/written.py is the base of these); `sketch` may be cheaper, while training
    outcomes   answers against the records' own: an `Outcomes` (evaluate/bootstrap.py), from which metrics, intervals and comparisons come
    remarks    what must be said beside the scores (answers that were stopped before their end)
    say        an answer as JSON, for `predict`
    baselines  what is had without a model
    pages      HTML for the report
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from wordmill.batches.batch import IGNORE, Batch
from wordmill.batches.examples import Encoded, batches_of
from wordmill.core.config import Config
from wordmill.core.errors import DataError, ModelError, UsageError, nearest
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.models.config import ModelConfig
from wordmill.models.folder import LanguageModel
from wordmill.models.heads import Headed, text_numbers
from wordmill.tasks.asked import without_effect
from wordmill.tasks.examples import Record, Records, read_examples
from wordmill.tokenizer import Tokenizer
from wordmill.train.objectives import LossSum

TASKS = {"answer": "answer:Answer", "chat": "chat:ChatTask", "classify": "classify:Classify", "summarize": "summarize:Summarize",
         "tag": "tag:Tag", "translate": "translate:Translate"}  # fmt: skip
"""Name → "module:class" below wordmill.tasks."""
BATCH_TOKENS = 8192
"""Tokens that are read at a time when nothing is learned."""


@dataclass(frozen=True)
class Tools:
    """What a record is encoded with."""

    tokenizer: Tokenizer
    config: ModelConfig
    """The model's shape."""
    max_tokens: int
    """Tokens of an example at most, special ones included; what is beyond is cut, and counted."""
    capacity: int = 0
    """Tokens in a row of several examples; 0: as many as the longest has."""
    costs: list[LossSum] | None = None
    """Receives the loss of each batch that is answered, where one reading gives both. None: nobody asks for it."""


class Task:
    """The base of all tasks."""

    name: ClassVar[str]
    Settings: ClassVar[type[Config]]
    generative: ClassVar[bool] = False
    """Whether the model stays a language model (saved as one, and able to generate)."""
    keyed: ClassVar[str] = "text"
    """What `key` tells apart, in a word."""
    scarce: ClassVar[int] = 5
    """Examples of one kind from which one at least is set aside to validate on."""
    shared: ClassVar[str] = "each label"
    """What a split keeps the share of (`stratum`), in words."""
    lack: ClassVar[str] = "no text"
    """What an input has in which there is nothing to read (`lacks`)."""
    writes: ClassVar[bool] = False
    """Whether answers are written token by token, which takes far longer than reading: then few are, while training."""
    by_shape: ClassVar[bool] = False
    """Whether a new model begins with how tokens are written (models/shapes.py)."""
    before: ClassVar[str | None] = None
    """Where the model can do the task before it is tuned for it, what that baseline is called."""
    longest: ClassVar[int] = 512
    """Tokens of an example at most, unless asked otherwise."""
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder", "encoder-decoder", "recurrent")
    """Which models can learn it."""
    at_use: ClassVar[tuple[str, ...]] = ()
    """Settings that may be others in use than they were in training."""
    when_judged: ClassVar[tuple[str, ...]] = ()
    """Those of them that change only how `evaluate` judges."""

    def __init__(self, settings: Mapping[str, Any] | None = None, spec: dict[str, Any] | None = None) -> None:
        self.settings = self.Settings.of(settings, where="task")
        self.spec: dict[str, Any] = spec or {}

    @classmethod
    def suited(cls, kind: str, settings: Mapping[str, Any] | None) -> Task:
        """The task in the form for a model of that kind (one of `kinds`): this one, or a subclass of the same name."""
        return cls(settings)

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Task:
        """The task that `plain` wrote down, in the form that it had."""
        return cls(facts["settings"], dict(facts["spec"]))

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, paths: Sequence[str | Path], *, learn: bool = False, reporter: Reporter = SILENT) -> Records:
        """The records of some files, which are one split; `learn`: they are to be trained on. Raises `DataError` for what can't be read."""
        return read_examples(paths, reporter=reporter)

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Find out what is what in the splits given (train, and perhaps validation and test), and keep it in `self.spec`."""
        raise NotImplementedError

    def check(self, records: Records, reporter: Reporter) -> None:
        """See that records that came later (to be evaluated on) fit `self.spec`. Raises `DataError`."""
        raise NotImplementedError

    def inputs(self, records: Records) -> list[Record]:
        """Records without answers, to predict on. Raises `DataError` for a missing column."""
        return records.records

    @property
    def alone(self) -> str | None:
        """The field in which a text stands that is an input by itself; None where one text is none."""
        return None

    def lacks(self, record: Record) -> bool:
        """Whether there is nothing to read in an input: it gets an answer all the same, but not without a word."""
        return False

    def tell_lacking(self, records: Sequence[Record], name: str | None, reporter: Reporter) -> None:
        """Say how many examples of the split `name` (None: inputs to be answered) have nothing to read."""
        empty = [record for record in records if self.lacks(record)]
        if empty:
            counted = plural(len(empty), "input") if name is None else f"{plural(len(empty), 'example')} of {name}"
            reporter.warn(f"{counted} {verb(len(empty), 'have')} {self.lack} (first: {empty[0].where})")

    def is_answer(self, name: str) -> bool:
        """Whether a field of this name holds what the task answers, so that it can't be an input."""
        return False

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """An input from Python or a line of text. Raises `UsageError` for one that the task can't read."""
        raise NotImplementedError

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """Settings that change nothing with what `look` found, and why; `records` are the training examples, in training."""
        return {}

    def stratum(self, record: Record) -> str:
        """What a split keeps the shares of."""
        return ""

    def key(self, record: Record) -> str:
        """What makes two records the same example."""
        raise NotImplementedError

    def texts(self, record: Record) -> list[str]:
        """The record's texts: what a tokenizer is trained on where there is none."""
        raise NotImplementedError

    def settle(self, tools: Tools, records: Sequence[Record], reporter: Reporter) -> None:
        """Keep in `self.spec` what depends on the tokenizer, the model's shape and the training examples. Raises `UsageError`."""

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """The record as the model sees it; without `answer` the targets only say where an answer is wanted."""
        raise NotImplementedError

    def equip(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with what the task needs of it: a template, further special tokens. Raises `ModelError` where that can't be."""
        return tokenizer

    def target_text(self, target: int, example: Encoded) -> str | None:
        """A target of an example as people read it, for `--preview`; None: targets are tokens."""
        return None

    def counts(self, records: Sequence[Record]) -> dict[str, int]:
        """How many records have which label; empty where there are no labels."""
        return {}

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> nn.Module:
        """The model that learns the task."""
        return base

    def objective(self, model: Any, batch: Batch, state: Any = None) -> LossSum:
        """The loss of a batch in nats, summed over its targets."""
        raise NotImplementedError

    def weigh(self, records: Sequence[Record]) -> None:
        """Take from the training examples as a whole what the loss or a new model starts from (as a rule nothing)."""

    def begin(self, examples: Sequence[Encoded], records: Sequence[Record], reporter: Reporter) -> None:
        """Take from the encoded training examples, and their records, what a model has before it learns from them (as a rule nothing)."""

    def end(self, model: Any, tools: Tools, examples: Sequence[Encoded], records: Sequence[Record], reporter: Reporter) -> None:
        """Settle on the validation examples, and their records, what is settled once the model has learned (as a rule nothing)."""

    def shares(self, records: Sequence[Record]) -> Any:
        """How often each record is drawn in training, in proportion (n,); None: each once an epoch."""
        return None

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answers(self, model: Any, batch: Batch) -> list[Any]:
        """The model's answers to a batch, in the order of its examples."""
        raise NotImplementedError

    def respond(
        self, model: nn.Module, tools: Tools, records: Sequence[Record], *, reporter: Reporter = SILENT, encoded: Sequence[Encoded] = ()
    ) -> list[Any]:
        """The model's answer to each record. `encoded` saves encoding them again. The model's mode is put back."""
        examples = encoded or [self.encode(record, tools, answer=False) for record in records]

        def read(batch: Batch) -> list[Any]:
            if tools.costs is None or not isinstance(model, Headed):
                return self.answers(model, batch)
            with model.reading_once():
                tools.costs.append(self.objective(model, batch))
                return self.answers(model, batch)

        return read_all(model, tools, examples, read, reporter)

    def sketch(self, model: nn.Module, tools: Tools, records: Sequence[Record], encoded: Sequence[Encoded]) -> list[Any]:
        """The answers while training: those of `respond`, or what is had in less time."""
        return self.respond(model, tools, records, encoded=encoded)

    def samples(self, model: nn.Module, tools: Tools, records: Sequence[Record]) -> list[dict[str, Any]]:
        """What a generative model says to a few of the records, for people to read: asked, expected, said, finished."""
        return []

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """Answers against what the records say."""
        raise NotImplementedError

    def remarks(self, records: Sequence[Record], answers: Sequence[Any]) -> list[str]:
        """What has to be said beside the scores, in a sentence each."""
        return []

    def say(self, record: Record, answer: Any) -> dict[str, Any]:
        """An answer, JSON-ready."""
        raise NotImplementedError

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """What is had without a model, by name."""
        return {}

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """HTML for the report: tables and pictures of how good the answers are."""
        return ""

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """Further numbers beside the metrics (a table by class, a confusion matrix), JSON-ready."""
        return {}

    def describe(self) -> list[str]:
        """Lines for the model card: how the model wants to be asked."""
        return []

    def store(self, folder: Path, tokenizer: Tokenizer) -> None:
        """Write the tokenizer, and what else of the task belongs into the model folder beside the weights."""
        tokenizer.save(folder)

    def plain(self) -> dict[str, Any]:
        """What is saved in wordmill.json, JSON-ready; `restore` takes it back."""
        return {"name": self.name, "settings": self.settings.plain(), "spec": self.spec}


class LeftOut(DataError):
    """A record that is left out and counted; what is said is the reason."""


def encode_all(
    task: Task, records: Sequence[Record], tools: Tools, *, answer: bool, name: str = "", reporter: Reporter = SILENT
) -> tuple[list[Record], list[Encoded]]:
    """The records that can be encoded, and what they become; says how many others were left out, by reason. Raises `DataError` where none
    is left."""
    kept: list[Record] = []
    encoded: list[Encoded] = []
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    with reporter.task(f"encoding {name}".strip(), total=len(records)) as bar:
        for record in records:
            try:
                encoded.append(task.encode(record, tools, answer=answer))
                kept.append(record)
            except LeftOut as reason:
                dropped[reason.what] += 1
                first.setdefault(reason.what, record.where)
            bar.advance()
    told = ", ".join(f"{why}{f' {n:,}' if len(dropped) > 1 else ''} (first: {first[why]})" for why, n in sorted(dropped.items()))
    if dropped and kept:
        number = f"{dropped.total():,} of {plural(len(records), 'example')}{f' of {name}' if name else ''}"
        reporter.warn(f"{number} {verb(dropped.total(), 'are')} left out: {told}")
    if not kept:
        raise DataError(f"no example{f' of {name}' if name else ''} is left: {told}", fix="Raise --max-tokens")
    return kept, encoded


def task_class(name: str) -> type[Task]:
    """A task by name. Raises `UsageError` with the nearest for one that there is not."""
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}", fix=nearest(name, TASKS))
    module, kind = TASKS[name].split(":")
    return cast(type[Task], getattr(import_module(f"wordmill.tasks.{module}"), kind))


def restore(facts: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Task:
    """The task that `Task.plain` wrote down, with some `settings` changed. Raises `ConfigError` for one that is unknown or can't be so,
    `UsageError` for one that was settled in training, or would change nothing."""
    task = task_class(facts["name"]).restored(facts)
    if settings:
        task.settings = task.Settings.of({**task.settings.plain(), **settings}, where="task")
        settled = [f"task.{name}" for name in settings if name not in task.at_use]
        if settled:
            known = ", ".join(f"task.{name}" for name in task.at_use)
            raise UsageError(f"{', '.join(settled)} can't be changed any more: that was settled when the model was trained",
                             fix=f"What can be: {known}" if known else None)  # fmt: skip
        check_used(task, settings)
    return task


def check_used(task: Task, settings: Mapping[str, Any], records: Sequence[Record] = ()) -> None:
    """Raises `UsageError` for settings that are given and would change nothing; `records` are the training examples, in training."""
    reasons: dict[str, list[str]] = {}
    for name, why in task.idle(records).items():
        if settings.get(name) is not None:
            reasons.setdefault(why, []).append(f"task.{name}")
    for why, names in reasons.items():
        without_effect(names, why)


def read_all(
    model: nn.Module, tools: Tools, examples: Sequence[Encoded], read: Callable[[Batch], Sequence[Any]], reporter: Reporter = SILENT
) -> list[Any]:  # fmt: skip
    """What `read` gives for each example, batch by batch and without gradients. The model's mode is put back."""
    found: list[Any] = [None] * len(examples)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad(), reporter.task("predicting", total=len(examples)) as task:
            for numbers, batch in batches_of(examples, BATCH_TOKENS, capacity=tools.capacity):
                for number, answer in zip(numbers, read(batch.to(device)), strict=True):
                    found[number] = answer
                task.advance(len(numbers))
    finally:
        model.train(training)
    return found


def doc_rows(batch: Batch, places: Tensor) -> tuple[Tensor, Tensor]:
    """For places (N,) in the flattened batch: the row, and which example of the row (for `Batch.extra`)."""
    rows = places // batch.targets.shape[1]
    numbers = torch.zeros_like(rows) if batch.documents is None else batch.documents.flatten()[places].long()
    return rows, numbers


def target_counts(batch: Batch) -> list[int]:
    """How many places with targets each example of the batch has, in its order."""
    real = batch.positions.flatten() >= 0
    _, example = torch.unique_consecutive(text_numbers(batch)[real], return_inverse=True)  # padding is no example
    return torch.bincount(example[batch.targets.flatten()[real] != IGNORE], minlength=int(example[-1]) + 1).tolist()


def padded(rows: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows (M, …) of examples one after the other → (N, W, …) with zeros behind, and which are real (N, W)."""
    whole = torch.nn.utils.rnn.pad_sequence(list(rows.split(list(counts))), batch_first=True)
    sizes = torch.tensor(list(counts), device=rows.device)
    return whole, torch.arange(whole.shape[1], device=rows.device) < sizes[:, None]


def stand_in(tokenizer: Tokenizer, where: str) -> int:
    """What is read in the place of a text, or a word, that has no tokens. Raises `ModelError` for a tokenizer without such a token."""
    found = next((index for index in (tokenizer.unk_id, tokenizer.eos_id, tokenizer.pad_id) if index is not None), None)
    if found is None:
        raise ModelError("there is no token in this, and the tokenizer has none that could stand in (unk, eos or pad)", where=where,
                         fix="Take it out, or name one as eos_token in the model's tokenizer_config.json")  # fmt: skip
    return found


def cut_to(ids: Sequence[int], room: int) -> tuple[list[int], int]:
    """The first `room` ids, and how many are left out."""
    return list(ids[:room]), max(0, len(ids) - room)


def cut_pair(first: Sequence[int], second: Sequence[int], room: int) -> tuple[list[int], list[int], int]:
    """Two texts cut to `room` ids together, always the longer one, and how many ids are left out."""
    a, b = len(first), len(second)
    over = max(0, a + b - room)
    for _ in range(over):
        if a > b:
            a -= 1
        else:
            b -= 1
    return list(first[:a]), list(second[:b]), over
