"""`classify`: which of some labels a text, or a pair of texts, has; or which several of them.

Shapes: N texts, L labels.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from wordmill.batches.batch import IGNORE, Batch
from wordmill.batches.examples import Encoded
from wordmill.core.config import Config
from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import Reporter, plural, verb
from wordmill.core.svg import line_plot, matrix_plot
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.models.config import RecurrentConfig
from wordmill.models.families._base import Head
from wordmill.models.folder import LanguageModel
from wordmill.models.heads import HeadConfig, Headed, head_layout, with_head
from wordmill.models.ngrams import LONGEST, NGrams, balance, fit
from wordmill.tasks.baselines import tfidf_classifier
from wordmill.tasks.columns import LABELS, PAIRS, find_columns, require_columns
from wordmill.tasks.doubts import tell_shared
from wordmill.tasks.examples import Record, Records, no_text, text_of
from wordmill.tasks.labels import LabelOutcomes, SetOutcomes
from wordmill.tasks.r_drop import check_dropped, twice
from wordmill.tasks.task import Task, Tools, cut_pair, cut_to, doc_rows, read_all, stand_in
from wordmill.tokenizer import Tokenizer
from wordmill.train.objectives import LossSum

SEPARATORS = ";|,"
"""What may stand between several labels of a text."""
SHOWN = 20
"""Examples that went most wrong, in the report."""


class ClassifyConfig(Config):
    """Settings of `classify`."""

    called_elsewhere: ClassVar[Mapping[str, str]] = {"text_column": "text", "label_column": "label"}

    text: str | None = None
    """The column with the text; None: found by looking."""
    pair: str | None = None
    """The column with a second text, to be judged together with the first; None: found by looking; "": there is none."""
    label: str | None = None
    """The column with the label; None: found by looking."""
    multi_label: bool | None = None
    """Whether a text may have several labels, or none; None: so when the labels are lists."""
    separator: str = Field(default=",", min_length=1)
    """What stands between several labels in a table."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however many examples it has."""
    sampling: Literal["plain", "balanced"] = "plain"
    """balanced: each class is drawn equally often in training."""
    max_labels: int = Field(default=200, ge=2)
    """More labels than this are taken for a mistake."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which one of several labels holds (multi_label)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the state dropped in training before each layer of the head."""
    pooling: Literal["usual", "mean"] = "usual"
    """What stands for a whole text: the token that classifiers of the family read, or the mean of all."""
    ngrams: bool | None = None
    """Whether a linear model over single tokens and runs of two and three speaks beside the network, which then learns what is left to be
    said: better for a model from new weights, of short texts above all. None: for LSTM and GRU. `transformers` has no class for it."""
    r_drop: float = Field(default=0.0, ge=0, le=100)
    """Weight of R-Drop (Liang et al. 2021, arXiv 2106.14448): each text is read twice, with other parts dropped, and how far apart the two
    answers are is added to the loss. A step takes twice the time; 1 is usual."""


class Classify(Task):
    """One label, or several, for each text."""

    name: ClassVar[str] = "classify"
    Settings: ClassVar[type[Config]] = ClassifyConfig
    at_use: ClassVar[tuple[str, ...]] = ("threshold",)
    settings: ClassifyConfig
    _grams: NGrams | None = None
    """The n-grams of the training examples, once they are fitted."""
    _tfidf: tuple[Sequence[Record], Callable[[Sequence[str]], Any] | None] | None = None
    """The training examples that the regression on TF-IDF was fitted to, and what it says to texts."""

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Columns and labels; see task.py."""
        train, s = splits["train"], self.settings
        columns = find_columns(train, {"text": s.text, "pair": s.pair, "label": s.label}, reporter)
        self.spec = {"columns": columns, "multi_label": self._several(train, columns["label"])}
        for records in splits.values():
            require_columns(records, columns.values())
        labels = self._labels(train)
        self.spec["labels"] = labels
        shown = ", ".join(f"{label} {count}" for label, count in list(self.counts(train.records).items())[:12])
        more = f" … ({len(labels)} labels)" if len(labels) > 12 else ""
        reporter.note(f"labels: {shown}{more}{'; several may hold at once' if self.spec['multi_label'] else ''}")
        for name, records in splits.items():
            self._check_labels(records, name)
        self._suspicious(splits, reporter)

    def check(self, records: Records, reporter: Reporter) -> None:
        """See task.py."""
        require_columns(records, self.spec["columns"].values())
        self._check_labels(records, "these")

    def inputs(self, records: Records) -> list[Record]:
        """See task.py."""
        require_columns(records, [c for role, c in self.spec["columns"].items() if role != "label"])
        return records.records

    @property
    def alone(self) -> str | None:
        """See task.py."""
        return None if "pair" in self.spec["columns"] else str(self.spec["columns"]["text"])

    def is_answer(self, name: str) -> bool:
        """See task.py."""
        return bool(name == self.spec["columns"]["label"])

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """A text, a mapping with the columns, or a pair of texts."""
        columns = self.spec["columns"]
        if isinstance(value, str):
            if "pair" in columns:
                raise UsageError("this model judges pairs of texts", where=where, fix=f"Give both: {columns['text']} and {columns['pair']}")
            return Record({columns["text"]: value}, where)
        if isinstance(value, list | tuple) and len(value) == 2 and "pair" in columns:
            return Record({columns["text"]: value[0], columns["pair"]: value[1]}, where)
        wanted = [column for role, column in columns.items() if role != "label"]
        if not isinstance(value, Mapping) or any(column not in value for column in wanted):
            raise UsageError(f"an input is a text, or a mapping with {' and '.join(map(repr, wanted))}", where=where)
        return Record(dict(value), where)

    def _several(self, train: Records, column: str) -> bool:
        if self.settings.multi_label is not None:
            return self.settings.multi_label
        labels = [(isinstance(value, list), record) for record in train.records if (value := record.values.get(column)) is not None]
        lists = sum(held for held, _ in labels)
        if 0 < lists < len(labels):
            few = 2 * lists <= len(labels)
            odd = next(record for held, record in labels if held == few)
            raise DataError(f"the label {odd.values[column]!r} is {'a list' if few else 'no list'}, unlike most others", where=odd.where,
                            fix="Write all labels as lists, if several may hold at once, or none")  # fmt: skip
        return lists > 0

    def _labels(self, train: Records) -> list[str]:
        """The labels in their order, settled here once and kept with the model. Raises `DataError` for what are no labels."""
        counts = Counter(label for record in train.records for label in self.labels_of(record))
        column, n = self.spec["columns"]["label"], len(train)
        if len(counts) > self.settings.max_labels or (len(counts) > 20 and len(counts) > 0.5 * n):
            numbers = all(_NUMBER.fullmatch(label) for label in counts)
            guess = "is this a regression" if numbers else "is this a column of texts or ids"
            raise DataError(f"{len(counts):,} distinct labels in {n:,} examples: {guess}?", where=f"{train.files[0]}, column {column!r}",
                            fix="Name the right column (task.label=…), or raise task.max_labels")  # fmt: skip
        if any(_NUMBER.fullmatch(label) and not _WHOLE.fullmatch(label) for label in counts) and all(map(_NUMBER.fullmatch, counts)):
            raise DataError(f"the labels are numbers with a fraction ({', '.join(sorted(counts)[:4])}, …): is this a regression?",
                            where=f"{train.files[0]}, column {column!r}", fix="Turn them into classes first")  # fmt: skip
        if len(counts) < 2 and not self.spec["multi_label"]:
            raise DataError(f"all {n:,} examples have the same label ({next(iter(counts))!r}): there is nothing to tell apart",
                            where=train.files[0])  # fmt: skip
        return sorted(counts, key=lambda label: (0, int(label), "") if _WHOLE.fullmatch(label) else (1, 0, label))

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """See task.py."""
        if not self.spec["multi_label"]:
            return dict.fromkeys(("threshold", "separator"), "each text has one label (task.multi_label=true: any number)")
        column = self.spec["columns"]["label"]
        return {"separator": "the labels stand in lists"} if any(isinstance(r.values[column], list) for r in records) else {}

    def labels_of(self, record: Record) -> list[str]:
        """The record's labels as texts: one, or with `multi_label` any number. Raises `DataError` where there is none to be had."""
        value = record.values[self.spec["columns"]["label"]]
        if self.spec["multi_label"]:
            if value is None:
                raise DataError("this row has no label", where=record.where, fix="Write an empty list where no label holds")
            parts = value if isinstance(value, list) else [value]
            if any(part is None or no_text(part) for part in parts):
                raise DataError(f"labels are words or numbers in a list, not {value!r}", where=record.where)
            several = value if isinstance(value, list) else str(value).split(self.settings.separator)
            return sorted({_label(part) for part in several} - {""})
        if value is None or not _label(value):
            raise DataError("this row has no label", where=record.where, fix="Label it, or take it out")
        if no_text(value):
            raise DataError(f"a label is a word or a number, not {value!r}", where=record.where, fix="Label it so, or take it out")
        return [_label(value)]

    def _check_labels(self, records: Records, name: str) -> None:
        known = set(self.spec["labels"])
        for record in records.records:
            for label in self.labels_of(record):
                if label not in known:
                    among = ", ".join(self.spec["labels"][:12]) + (" …" if len(known) > 12 else "")
                    raise DataError(
                        f"the label {label!r} is not among the labels trained on ({among})",
                        where=record.where,
                        fix=f"The model could never say it: add training examples of it, or take it out of {name}",
                    )

    def _suspicious(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Name what may be wrong, with counts."""
        seen: dict[str, str] = {}
        for name, records in splits.items():
            self.tell_lacking(records.records, name, reporter)
            own: dict[str, list[str]] = {}
            for record in records.records:
                own.setdefault(self.key(record), []).append(" ".join(self.labels_of(record)))
            torn = [key for key, labels in own.items() if len(set(labels)) > 1]
            if torn:
                reporter.warn(f"{plural(len(torn), 'text')} of {name} {verb(len(torn), 'stand')} there with different labels, for "
                              f"example {torn[0][:60]!r}")
            twice = sum(len(labels) for labels in own.values()) - len(own)
            if twice > 0.01 * len(records):
                reporter.warn(f"{twice:,} of {plural(len(records), 'example')} of {name} {verb(twice, 'repeat')} the text of another")
            tell_shared(own, seen, name, self.keyed, reporter)
        rare = {label: count for label, count in self.counts(splits["train"].records).items() if count < 5}
        if rare:
            reporter.warn(f"labels with fewer than 5 training examples: {', '.join(f'{k} ({v})' for k, v in list(rare.items())[:8])}")
        self._odd_labels(splits["train"].records, reporter)

    def _odd_labels(self, train: Sequence[Record], reporter: Reporter) -> None:
        """Name labels that are read otherwise than they are written, and such as look like several in one."""
        values = [record.values[self.spec["columns"]["label"]] for record in train]
        floats = [value for value in values if isinstance(value, float | str) and _label(value) != str(value).strip()]
        if floats:
            reporter.warn(f"labels written with a fraction are taken for whole numbers, and answered so: {plural(len(floats), 'example')}, "
                          f"such as {str(floats[0])!r} for {_label(floats[0])!r}")  # fmt: skip
        if self.spec["multi_label"]:
            return
        for separator in SEPARATORS:
            parts = [[part.strip() for part in label.split(separator)] for label in self.spec["labels"]]
            joined, each = [one for one in parts if len(one) > 1], Counter(part for one in parts for part in set(one))
            if len(joined) > 1 and all(all(one) and any(each[part] > 1 for part in one) for one in joined):
                reporter.warn(f"labels such as {separator.join(joined[0])!r} look like several in one: if they are, task.multi_label=true "
                              f"task.separator={separator!r}")  # fmt: skip
                break

    def equip(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer; where it has no padding token, with its end token as that too, unless texts end with it: `transformers` finds the
        token that a decoder's head reads by the padding behind it."""
        end = tokenizer.eos_id
        if tokenizer.pad_id is not None or end is None or end in tokenizer.wrap([]).ids:
            return tokenizer
        self.spec["pad"] = end
        return tokenizer.padded_with(end)

    def settle(self, tools: Tools, records: Sequence[Record], reporter: Reporter) -> None:
        """Says what can't be done with what comes out. Raises `UsageError` for R-Drop where nothing is dropped."""
        check_dropped(self.settings.r_drop, self.settings.dropout, tools.config)
        ngrams = self.settings.ngrams
        self.spec["ngrams"] = isinstance(tools.config, RecurrentConfig) if ngrams is None else ngrams
        layout = self._layout(tools)
        if tools.tokenizer.pad_id is None and layout.reads == "last" and not layout.architecture.startswith("Wordmill"):
            reporter.warn("this tokenizer has no pad token, nor another that could be one: transformers will read texts one at a "
                          "time only. To change that, name one as pad_token in tokenizer_config.json")  # fmt: skip

    def stratum(self, record: Record) -> str:
        """The label."""
        return " ".join(self.labels_of(record)) if not self.spec["multi_label"] else ""

    def key(self, record: Record) -> str:
        """The texts."""
        return "\t".join(" ".join(text.split()) for text in self.texts(record))

    def texts(self, record: Record) -> list[str]:
        """One text, or two. Raises `DataError` for what is none."""
        columns = self.spec["columns"]
        return [self._text(record, role, columns[role]) for role in ("text", "pair") if role in columns]

    def lacks(self, record: Record) -> bool:
        """See task.py."""
        return not any(text.strip() for text in self.texts(record))

    def _text(self, record: Record, role: str, column: str) -> str:
        others = [name for name in record.values if name not in self.spec["columns"].values()]
        fix = f"Write a text, or train on another column (task.{role}=NAME): {', '.join(others[:8])}" if others else "Write a text"
        return text_of(record.values[column], f"the {'second text' if role == 'pair' else 'text'} in column {column!r}", record.where, fix)

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """`[CLS] text [SEP]`, or what the family puts around a text; the target stands where the head reads."""
        texts, tokenizer = self.texts(record), tools.tokenizer
        ids = [tokenizer.encode(text) for text in texts]
        room = tools.max_tokens - tokenizer.wrap_size(pair=len(ids) == 2)
        if len(ids) == 2:
            first, second, cut = cut_pair(ids[0], ids[1], room)
            wrapped = tokenizer.wrap(first, second)
        else:
            first, cut = cut_to(ids[0], room)
            wrapped = tokenizer.wrap(first)
        whole = wrapped.ids or [stand_in(tokenizer, record.where)]  # a text of no tokens still gets an answer
        layout = self._layout(tools)
        targets = np.full(len(whole), IGNORE, np.int64)
        place = len(whole) - 1 if layout.reads == "last" else 0
        labels, extra = self.spec["labels"], {}
        targets[place] = 0
        if self.spec["multi_label"]:
            holds = np.zeros(len(labels), np.float32)
            if answer:
                holds[[labels.index(label) for label in self.labels_of(record)]] = 1.0
            extra = {"labels": holds}
        elif answer:
            targets[place] = labels.index(self.labels_of(record)[0])
        types = np.array(wrapped.types, np.int64) if len(ids) == 2 and any(wrapped.types) else None
        return Encoded(np.array(whole, np.int64), targets, types, extra=extra, cut=cut)

    @property
    def has_ngrams(self) -> bool:
        """Whether the head has n-grams; a model that was tuned before there were any has none."""
        return bool(self.spec.get("ngrams"))

    def _layout(self, tools: Tools) -> Head:
        return head_layout(tools.config, "sequence", self.settings.pooling, ngrams=self.has_ngrams)

    def target_text(self, target: int, example: Encoded) -> str | None:
        """The label, or the labels that hold."""
        labels: list[str] = self.spec["labels"]
        if not self.spec["multi_label"]:
            return labels[target]
        return ", ".join(labels[n] for n in np.flatnonzero(example.extra["labels"])) or "no label"

    def counts(self, records: Sequence[Record]) -> dict[str, int]:
        """By label, the most frequent first."""
        return dict(Counter(label for record in records for label in self.labels_of(record)).most_common())

    def shares(self, records: Sequence[Record]) -> Any:
        """See task.py."""
        if self.settings.sampling == "plain":
            return None
        counts = self.counts(records)
        return np.array([max((1 / counts[label] for label in self.labels_of(record)), default=1 / len(records)) for record in records])

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> Headed:
        """The base with a head for whole texts."""
        head = HeadConfig(kind="sequence", labels=tuple(self.spec["labels"]), multi_label=self.spec["multi_label"],
                          pooling=self.settings.pooling, ngrams=self.has_ngrams, dropout=self.settings.dropout)  # fmt: skip
        if "pad" in self.spec:
            base.config = base.config.replace(pad_id=self.spec["pad"])  # type: ignore[assignment]
        model = with_head(base, head, seed=seed)
        model.grams = copy.deepcopy(self._grams)
        return model

    def begin(self, examples: Sequence[Encoded], records: Sequence[Record], reporter: Reporter) -> None:
        """Fits the n-grams, where the head has them; says how often they are right by themselves."""
        if not self.has_ngrams:
            return
        answers, weights = self._learned(examples, records)
        lengths = torch.tensor([len(one.ids) for one in examples])
        texts = torch.repeat_interleave(torch.arange(len(examples)), lengths)
        with reporter.task("n-grams", total=None):
            self._grams, said = fit(torch.from_numpy(np.concatenate([one.ids for one in examples])), texts, answers, weights,
                                    len(self.spec["labels"]))  # fmt: skip
        right = ((said > 0) == (answers > 0)).all(-1) if self.spec["multi_label"] else said.argmax(-1) == answers
        self.spec["grams"] = {"n": len(self._grams.keys), "right": right.float().mean().item()}
        reporter.note(f"n-grams: {self.spec['grams']['n']:,} of up to {LONGEST} tokens; by themselves right on "
                      f"{self.spec['grams']['right']:.1%} of training texts that their fit hadn't seen; the network learns what they don't "
                      "say")  # fmt: skip

    def end(self, model: Headed, tools: Tools, examples: Sequence[Encoded], records: Sequence[Record], reporter: Reporter) -> None:
        """How much the network and the n-grams count, where the head has these."""
        if model.grams is None:
            return

        def both(batch: Batch) -> list[tuple[Tensor, ...]]:
            return list(zip(*(part.float().cpu() for part in model.parts(batch) if part is not None), strict=True))

        network, said = (torch.stack(part) for part in zip(*read_all(model, tools, examples, both), strict=True))
        counts = balance(network, said, *self._learned(examples, records))
        model.grams.shares = counts.to(model.grams.shares.device)
        self.spec["grams"]["counts"] = counts.tolist()
        reporter.note(f"the validation examples are likeliest where the network's word counts {counts[0]:.2f} and that of the n-grams "
                      f"{counts[1]:.2f}: so they are added; scores may be other ones than while training")  # fmt: skip

    def _learned(self, examples: Sequence[Encoded], records: Sequence[Record]) -> tuple[Tensor, Tensor]:
        """The label of each (N,), or which of several hold (N, L); and how much each counts (N,), 1 on average, by the settings."""
        several, shares = self.spec["multi_label"], self.shares(records)
        found = [one.extra["labels"] if several else one.targets[one.targets != IGNORE][0] for one in examples]
        answers = torch.from_numpy(np.stack(found))
        weights = torch.ones(len(examples)) if shares is None else torch.from_numpy(shares / shares.mean()).float()
        if "weights" in self.spec and not several:
            weights = weights * torch.tensor(self.spec["weights"])[answers]
        return answers, weights

    def describe(self) -> list[str]:
        """What the n-grams are, where there are any."""
        grams = self.spec.get("grams")
        if grams is None:
            return []
        counts = " and ".join(f"{count:.2f}" for count in grams.get("counts", ()))
        return [f"{grams['n']:,} n-grams of tokens (tensors `grams.*`) speak beside the network; by themselves they were right on "
                f"{grams['right']:.1%} of training texts that their fit hadn't seen. The logits of both are added"
                f"{f', weighed by {counts} as the validation examples are likeliest' if counts else ''}."]  # fmt: skip

    def weigh(self, records: Sequence[Record]) -> None:
        """Settle the classes' weights in the loss; their mean over the training examples is 1."""
        if self.settings.class_weights == "balanced":
            counts = self.counts(records)
            total = sum(counts.values())
            self.spec["weights"] = [total / len(counts) / counts[label] if label in counts else 0.0 for label in self.spec["labels"]]

    def objective(self, model: Headed, batch: Batch, state: Any = None) -> LossSum:
        """−Σ w log p(label), or, where several may hold, the mean over the labels of −w log p(holds or not), summed over texts. With R-Drop
        the mean of two readings, and how far these are from one another."""
        logits, n = model(batch).float(), batch.n_targets
        if not n:  # a process without texts still takes part in the exchange of gradients
            return LossSum(logits.sum() * 0.0, 0)
        weight = self.settings.r_drop if model.training else 0.0
        loss = twice(logits, lambda: model(batch).float(), weight, lambda x: self._loss(x, batch), several=self.spec["multi_label"])
        return LossSum(loss, n)

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of logits (N, L) of the texts, in nats, summed over them."""
        places = batch.places
        weights = torch.tensor(self.spec["weights"], device=logits.device) if "weights" in self.spec else None
        if self.spec["multi_label"]:
            holds = batch.extra["labels"][doc_rows(batch, places)]
            return F.binary_cross_entropy_with_logits(logits, holds, weights, reduction="sum") / logits.shape[1]
        return F.cross_entropy(logits, batch.targets.flatten()[places], weights, reduction="sum")

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answers(self, model: Headed, batch: Batch) -> list[Any]:
        """Probabilities (L,) of each text."""
        logits = model(batch).float()
        found = logits.sigmoid() if model.head.multi_label else logits.softmax(-1)
        return list(found.cpu().numpy())

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """See task.py."""
        labels = self.spec["labels"]
        probabilities = np.stack(answers)
        if self.spec["multi_label"]:
            return SetOutcomes(labels, self._holds(records), probabilities >= self.settings.threshold)
        return LabelOutcomes(labels, self._truth(records), probabilities.argmax(-1), probabilities)

    def _holds(self, records: Sequence[Record]) -> Any:
        """Which labels hold (N, L) bool."""
        place = {label: n for n, label in enumerate(self.spec["labels"])}
        truth = np.zeros((len(records), len(place)), bool)
        for n, record in enumerate(records):
            truth[n, [place[label] for label in self.labels_of(record)]] = True
        return truth

    def _truth(self, records: Sequence[Record]) -> Any:
        place = {label: n for n, label in enumerate(self.spec["labels"])}
        return np.array([place[self.labels_of(record)[0]] for record in records])

    def say(self, record: Record, answer: Any) -> dict[str, Any]:
        """The label with its probability, and those of all labels."""
        every = {label: round(float(p), 6) for label, p in zip(self.spec["labels"], answer, strict=True)}
        if self.spec["multi_label"]:
            return {"labels": [label for label, p in every.items() if p >= self.settings.threshold], "probabilities": every}
        best = self.spec["labels"][int(np.argmax(answer))]
        return {"label": best, "probability": every[best], "probabilities": every}

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """The most frequent label (each label's more frequent case, where several may hold), and logistic regression on TF-IDF."""
        labels, several = self.spec["labels"], self.spec["multi_label"]
        truth, known = ((self._holds if several else self._truth)(records) for records in (test, train))
        if several:
            simplest = np.broadcast_to(known.mean(0) > 0.5, truth.shape)
        else:
            simplest = np.full(len(test), int(np.bincount(known, minlength=len(labels)).argmax()))
        outcomes = SetOutcomes if several else LabelOutcomes
        found: dict[str, Outcomes] = {"majority of each label" if several else "majority class": outcomes(labels, truth, simplest)}
        if self._tfidf is None or self._tfidf[0] is not train:  # once for the validation and the test examples
            self._tfidf = train, tfidf_classifier([self.key(r) for r in train], known, reporter)
        if (linear := self._tfidf[1]) is not None:
            found["TF-IDF + logistic regression"] = outcomes(labels, truth, linear([self.key(r) for r in test]))
        return found

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """By class; the confusion matrix; calibration."""
        outcomes = self.outcomes(records, answers)
        assert isinstance(outcomes, LabelOutcomes | SetOutcomes)
        return outcomes.details()

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """A table by class, the confusion matrix, calibration, and the examples that went most wrong."""
        outcomes = self.outcomes(records, answers)
        assert isinstance(outcomes, LabelOutcomes | SetOutcomes)
        parts = [*(f"<p>{escape(line)}</p>" for line in self.describe()), "<h2>By class</h2>", outcomes.table()]
        if isinstance(outcomes, LabelOutcomes):
            labels = self.spec["labels"]
            if len(labels) <= 40:
                parts.append(f'<div class="card">{matrix_plot(labels, outcomes.confusion().tolist(), title="Confusion matrix")}</div>')
            assert outcomes.probabilities is not None
            parts.append(_calibration(outcomes))
            wrong = np.flatnonzero(outcomes.predicted != outcomes.truth)
            worst = sorted(wrong, key=lambda n: outcomes.probabilities[n, outcomes.truth[n]])[:SHOWN]
            rows = [
                f"<tr><td>{escape(labels[outcomes.truth[n]])}</td><td>{escape(labels[outcomes.predicted[n]])}</td>"
                f'<td class="number">{outcomes.probabilities[n].max():.3f}</td><td>{escape(self.key(records[int(n)])[:300])}</td></tr>'
                for n in worst
            ]
            if rows:
                parts.append("<h2>Most wrong</h2><p class=sub>What the model was surest of, and wrong.</p>")
                parts.append(
                    f'<div class="card"><table><tr><th>label</th><th>said</th><th>sure</th><th>text</th></tr>{"".join(rows)}</table></div>'
                )
        return "".join(parts)


def _calibration(outcomes: LabelOutcomes) -> str:
    """How often the model is right beside how sure it was, as a picture."""
    points = [(row["sure"], row["right"]) for row in outcomes.calibration()]
    plot = line_plot({"this model": points, "as sure as right": [(0.0, 0.0), (1.0, 1.0)]}, title="Calibration", marks=True,
                     x_label="how sure the model was (mean of the bin)", y_label="share that is right", y_from_zero=True)  # fmt: skip
    told = f"Below the line it is surer than it should be. Expected calibration error: {outcomes.calibration_error():.3f}."
    return f'<h2>Calibration</h2><p class=sub>{told}</p><div class="card"><div style="max-width:600px">{plot}</div></div>'


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,18}")


def _label(value: Any) -> str:
    """A label as text: true and false in small letters, whole numbers without a fraction."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


__all__ = ["LABELS", "PAIRS", "Classify", "ClassifyConfig"]
