"""A fine-tuned model, opened: predict, evaluate, compare."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordmill.batches.examples import Encoded
from wordmill.core.device import choose_device, choose_dtype
from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.files import read_json, standard_lines
from wordmill.core.lineage import read_lineage
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.evaluate.bootstrap import Comparison, Outcomes, paired
from wordmill.generate.loaded import Loaded, load_on
from wordmill.models.adapters import is_adapter, read_shape
from wordmill.models.config import ModelConfig
from wordmill.models.folder import head_kind
from wordmill.models.heads import Headed, load_base, load_headed
from wordmill.models.hub import resolve_model
from wordmill.models.lora import active_adapters, merge_lora, merged_state, use_adapters
from wordmill.tasks.adapted import open_tuned_adapter
from wordmill.tasks.aside import kept_of
from wordmill.tasks.examples import Record, lone_texts, looks_like_conll, read_text
from wordmill.tasks.finetune import FinetuneConfig, save
from wordmill.tasks.judge import Judged, judge
from wordmill.tasks.tag import Tag
from wordmill.tasks.task import Task, Tools, encode_all, restore
from wordmill.tasks.tune_plan import LONGEST, row_capacity
from wordmill.tokenizer import Tokenizer


class Tuned:
    """What `wordmill.load(folder)` returns for a fine-tuned model; of one that stays a language model, the verbs of `Loaded` too."""

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, task: Task, tools: Tools, folder: Path, loaded: Loaded | None = None
    ) -> None:
        self.model, self.tokenizer, self.task, self.tools, self.folder, self.loaded = model, tokenizer, task, tools, folder, loaded

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.tools.config

    def predict(self, inputs: Any, *, reporter: Reporter = SILENT) -> Any:
        """The task's answers: to one input (a text, or a mapping of columns) or to a list of them. Raises `UsageError` for other inputs."""
        one = isinstance(inputs, str | Mapping)
        if not one and not isinstance(inputs, Iterable):
            raise UsageError(f"an input is a text or a mapping of columns, or a list of them, not {inputs!r}")
        values = [inputs] if one else list(inputs)
        records = [self.task.as_record(value, f"input {n}") for n, value in enumerate(values, 1)]
        found = self.predict_records(records, reporter=reporter)
        return found[0] if one else found

    def predict_records(self, records: Sequence[Record], *, reporter: Reporter = SILENT) -> list[dict[str, Any]]:
        """The answers to records, JSON-ready; says how many were cut, and how many have nothing to read."""
        if not records:
            return []
        self.task.tell_lacking(records, None, reporter)
        encoded = [self.task.encode(record, self.tools, answer=False) for record in records]
        cut = [one.cut for one in encoded if one.cut]
        if cut:
            reporter.warn(
                f"{len(cut):,} of {plural(len(records), 'input')} {verb(len(cut), 'are')} too long for {self.tools.max_tokens} tokens; "
                f"{plural(sum(cut), 'token')} {verb(sum(cut), 'were')} cut"
            )
        answers = self.task.respond(self.model, self.tools, records, reporter=reporter, encoded=encoded)
        for line in self.task.remarks(records, answers):
            reporter.warn(line)
        return [{**self.task.say(record, answer), **({"cut": one.cut} if one.cut else {})}
                for record, answer, one in zip(records, answers, encoded, strict=True)]  # fmt: skip

    def read(self, paths: Sequence[str | Path], *, reporter: Reporter = SILENT) -> list[Record]:
        """Examples with their answers. Raises `UsageError` for no file, `DataError` for examples that don't fit the task."""
        if not any(map(str, paths or ())):
            raise UsageError("no examples given", fix="Name a file, or several")
        records = self.task.read(paths, reporter=reporter)
        self.task.check(records, reporter)
        return list(records.records)

    def evaluate(self, data: str | Path | Sequence[str | Path], *, reporter: Reporter = SILENT) -> Judged:
        """The task's metrics on files of examples, with intervals and what was cut; baselines, where the training files are still there."""
        records = self.read([data] if isinstance(data, str | Path) else data, reporter=reporter)
        return judge(self.task, self.model, self.tools, records, train=self._trained_on(), before=self._before, reporter=reporter)[0]

    def _before(self) -> nn.Module | None:
        """The model that this one was tuned from, where it is still there."""
        parent = (read_lineage(self.folder).get("parent") or {}).get("folder")
        if parent is None or not (Path(parent) / "config.json").exists():
            return None
        mine = next(self.model.parameters())
        return self.task.build(load_base(parent), 0).to(mine.device, mine.dtype)

    def _trained_on(self) -> Sequence[Record]:
        """What the model learned from, without what was set aside; nothing where the files are gone or other than they were."""
        facts = read_lineage(self.folder)
        train = (facts.get("data") or {}).get("train") or {}
        files, asked = train.get("files") or [], facts.get("recipe") or {}
        if not files or not all(Path(path).exists() for path in files):
            return ()
        unheard = Reporter(quiet=True, stream=io.StringIO())  # what is to be said of these files was said when it was trained
        records = self.task.read(files, learn=True, reporter=unheard)
        self.task.check(records, unheard)
        found = list(records.records)
        if asked.get("validation_share") and not asked.get("validation"):
            found = kept_of(self.task, found, FinetuneConfig.of(asked))
        return found if len(found) == train.get("examples") else ()

    @property
    def adapters(self) -> dict[str, float]:
        """As `Loaded.adapters`."""
        return active_adapters(self.model)

    def use_adapters(self, weights: Mapping[str, float]) -> None:
        """As `Loaded.use_adapters`; the head stays, which was learned whole."""
        use_adapters(self.model, weights)

    def merge_adapters(self) -> None:
        """As `Loaded.merge_adapters`."""
        merge_lora(self.model)

    def save(self, folder: str | Path) -> None:
        """Write a model folder, adapters that count merged into it."""
        from wordmill.core.files import write_json
        from wordmill.core.lineage import FILE

        save(self.model, self.task, Path(folder), merged_state(self.model))
        self.task.store(Path(folder), self.tokenizer)
        write_json(Path(folder) / FILE, read_lineage(self.folder))

    def __getattr__(self, name: str) -> Any:
        """What a language model can do, where this is one."""
        loaded = self.__dict__.get("loaded")
        if loaded is not None:
            return getattr(loaded, name)
        if name == "load_adapter":
            raise UsageError("a further adapter would bring a head of its own", where=self.folder, fix="Open it by itself: wordmill.load")
        if name in ("generate", "fill", "embed", "score", "logits", "stream"):
            raise UsageError(f"this model was fine-tuned for {self.task.name} and can't {name}", where=self.folder, fix="It can predict")
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


def is_tuned(place: str | Path) -> bool:
    """Whether it is a model that was fine-tuned for a task, of a folder or the hub."""
    folder = resolve_model(place)
    if is_adapter(folder):
        return "tuned" in read_lineage(folder)
    return (folder / "config.json").exists() and ("tuned" in read_lineage(folder) or head_kind(folder) is not None)


def load_tuned(
    place: str | Path, *, device: str = "auto", dtype: str | None = None, settings: Mapping[str, Any] | None = None
) -> Tuned:
    """Open a fine-tuned model, of a folder or the hub, with some settings of its task changed (`{"beams": 1}`); the rest as in
    `wordmill.load`. Raises `ModelError` for another folder; as `restore` for settings that can't be changed."""
    folder = resolve_model(place)
    config = read_shape(folder)
    facts = read_lineage(folder).get("tuned") or _foreign(folder)
    task, tokenizer = restore(facts, settings), Tokenizer.load(folder)
    chosen = choose_device(device)
    kind: torch.dtype | None = None if dtype is None else choose_dtype(dtype, chosen)
    loaded = load_on(folder, chosen, kind) if task.generative else None
    model: Any = loaded.model if loaded is not None else None
    if model is None:
        opener = open_tuned_adapter if is_adapter(folder) else load_headed
        model = opener(folder, device=chosen, dtype=kind)
    if isinstance(model, Headed) and task.spec.get("labels") and list(model.head.labels) != list(task.spec["labels"]):
        raise ModelError(
            "the labels in config.json are not those in wordmill.json", where=folder, fix="Restore the two files as they were written"
        )
    tools = Tools(tokenizer, config, int(facts.get("max_tokens") or min(LONGEST, config.max_positions)), row_capacity(config, chosen))
    return Tuned(model, tokenizer, task, tools, folder, loaded)


def _foreign(folder: Path) -> dict[str, Any]:
    """The task of a model from elsewhere: of a classifier or a tagger, whose labels are in config.json, or of one that answers with spans.
    Raises `ModelError` for what is none of these, and for one that gives numbers and not labels."""
    kind = head_kind(folder)
    if kind == "span":
        return {"name": "answer", "settings": {}, "spec": {}}
    if kind is None:
        raise ModelError(
            "this model was not fine-tuned for a task", where=folder, fix="Fine-tune it: wordmill finetune TASK DATA --model …"
        )
    head = load_headed(folder).head
    if kind == "token":
        return {"name": "tag", "settings": {}, "spec": Tag.of_labels(head.labels)}
    alone = len(head.labels) == 1 and not head.multi_label  # transformers trains such a head as a regression too
    if read_json(folder / "config.json").get("problem_type") == "regression" or alone:
        raise ModelError(f"this model is a regression: its head gives {plural(len(head.labels), 'number')} for a text, and wordmill "
                         f"predicts labels", where=folder,
                         fix="Fine-tune it with labels: wordmill finetune classify DATA --model …")  # fmt: skip
    spec = {"columns": {"text": "text", "label": "label"}, "labels": list(head.labels), "multi_label": head.multi_label}
    return {"name": "classify", "settings": {}, "spec": spec}


def load(place: str | Path, *, device: str = "auto", dtype: str | None = None, settings: Mapping[str, Any] | None = None) -> Any:
    """Open a model folder: a language model (`Loaded`), or a fine-tuned one (`Tuned`), with some `settings` of its task changed. The rest
    as in `wordmill.generate.load`."""
    from wordmill.generate.loaded import load as load_language_model

    if is_tuned(place):
        return load_tuned(place, device=device, dtype=dtype, settings=settings)
    if settings:
        raise UsageError("this model was not fine-tuned for a task that could have settings", where=place)
    return load_language_model(place, device=device, dtype=dtype)


def read_inputs(source: str, tuned: Tuned, *, reporter: Reporter = SILENT) -> list[Record]:
    """What `predict` reads: a file of records, a text file with an input a line (a tagger's may hold words with their tags), or `-`, lines
    of text or JSON from standard input."""
    if source == "-":
        return _lines(standard_lines(), "standard input", tuned, reporter)
    path = Path(source)
    if not path.exists():
        raise DataError("no such file", where=source, fix="A text itself goes through a pipe: echo … | wordmill predict MODEL -")
    if path.suffix.lower() == ".txt" and path.is_file():
        text = read_text(path)
        if "fields" not in tuned.task.spec or not looks_like_conll(text):  # a tagger reads words with their tags as `evaluate` does
            return _lines(text.splitlines(), source, tuned, reporter)
    task, records = tuned.task, tuned.task.read([path], reporter=reporter)
    return task.inputs(records if task.alone is None else lone_texts(records, task.alone, task.is_answer, reporter))


def _lines(lines: Iterable[str], name: str, tuned: Tuned, reporter: Reporter) -> list[Record]:
    import json

    found, last, alone = [], 0, tuned.task.alone
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        value: Any = text
        if text.lstrip().startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        if isinstance(value, dict) and len(value) == 1 and alone is not None:
            field, content = next(iter(value.items()))
            if isinstance(content, str) and not tuned.task.is_answer(field):
                value = {alone: content}  # a lone column holds the texts, whatever it is called, as in a file
        found.append(tuned.task.as_record(value, f"{name}:{number}"))
        last = number
    if not found:
        raise DataError("there is nothing to predict on", where=name)
    empty = last - len(found)  # those at the end put no answer out of step
    if empty:
        reporter.warn(f"{name}: {plural(empty, 'empty line')} before the last input {verb(empty, 'have')} no answer: answers and "
                      "lines don't go in step")  # fmt: skip
    return found


def compare(
    a: str | Path, b: str | Path, data: str | Path | Sequence[str | Path], *, device: str = "auto", reporter: Reporter = SILENT
) -> Comparison:
    """Two fine-tuned models on the same examples: the difference of their headline metric with its interval, and McNemar's test where an
    answer is right or wrong. Raises `UsageError` when they were not fine-tuned for the same task."""
    sides: list[tuple[Tuned, dict[int, tuple[Record, Encoded]]]] = []
    paths = [data] if isinstance(data, str | Path) else list(data)
    for place in (a, b):
        tuned = load_tuned(place, device=device)
        if sides and sides[0][0].task.name != tuned.task.name:
            raise UsageError(f"{a} was fine-tuned for {sides[0][0].task.name}, {b} for {tuned.task.name}: there is no score that both have")
        try:
            records = tuned.read(paths, reporter=reporter)
        except DataError as error:
            raise DataError(f"{error.what} (as {place} reads it)", where=error.where, fix=error.fix) from error
        number = {id(record): n for n, record in enumerate(records)}
        kept = zip(*encode_all(tuned.task, records, tuned.tools, answer=False, reporter=reporter), strict=True)
        sides.append((tuned, {number[id(record)]: (record, encoded) for record, encoded in kept}))
    both = [n for n in sides[0][1] if n in sides[1][1]]
    if not both:
        raise DataError("no example is short enough for both models", where=paths[0])
    found: list[Outcomes] = []
    for tuned, fitting in sides:
        records, encoded = [fitting[n][0] for n in both], [fitting[n][1] for n in both]
        answers = tuned.task.respond(tuned.model, tuned.tools, records, reporter=reporter, encoded=encoded)
        found.append(tuned.task.outcomes(records, answers))
    if len({tuple(getattr(outcomes, "references", ())) for outcomes in found}) > 1:
        raise UsageError(f"{a} and {b} write different columns of these examples: there is no score that both have")
    return paired(*found)
