"""`--preview`: examples exactly as the model sees them, and what is in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import Encoded, in_pieces
from wordmill.core.device import choose_device
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.tasks.examples import Record
from wordmill.tasks.finetune import FinetuneConfig, as_given, prepare
from wordmill.tasks.task import Task, Tools
from wordmill.tasks.tune_asked import check_asked

SHOWN = 3
ON, OFF = "\x1b[1;32m", "\x1b[0m"


def preview(
    task: str, data: Any, *, model: str | Path, reporter: Reporter = SILENT, colour: bool = False, **settings: Any
) -> dict[str, Any]:
    """Three examples exactly as the model will see them, with lengths, cuts and label counts; nothing is written. Raises as `finetune`."""
    given = as_given(task, data, model, settings)
    config = FinetuneConfig.of(given)
    check_asked(config, given)
    with TemporaryDirectory(prefix="wordmill-") as scratch:
        ready = prepare(config, Path(scratch), choose_device("cpu"), reporter)
        return show(ready.task, ready.tools, {name: (ready.splits[name].records, ready.encoded[name]) for name in ready.splits}, colour,
                    ready.left_out)  # fmt: skip


def show(
    task: Task, tools: Tools, splits: Mapping[str, tuple[Sequence[Record], Sequence[Encoded]]], colour: bool, left_out: Mapping[str, int]
) -> dict[str, Any]:
    """Facts, JSON-ready, and `text` for people: three training examples token by token, those that count in the loss in green (without
    `colour` in ‹…›), then lengths, cuts and label counts of each split."""
    records, encoded = splits["train"]
    examples, lines = [], []
    for record, one in list(zip(records, encoded, strict=True))[:SHOWN]:
        rows = []
        if one.source is not None:
            rows.append(f"  reads: {' '.join(_plain(tools.tokenizer.token_text(int(i))) for i in one.source)}")
        parts = one.pieces or (one,)
        for part in parts:
            ids, targets = part.ids.tolist(), part.targets.tolist()
            if task.generative:  # targets stand one place before the tokens that are to be said
                ids, targets = [*ids, *targets[-1:]], [IGNORE, *targets]
            shown = [_token(task, tools, part, token, colour) for token in zip(ids, targets, strict=True) if token[0] != IGNORE]
            rows.append("  " + " ".join(shown))
        learned = sum(int((part.targets >= 0).sum()) for part in parts)
        cut = f", {plural(one.cut, 'token')} cut" if one.cut else ""
        cut += f", read in {len(one.pieces)} pieces that overlap" if one.pieces else ""
        lines += [f"{record.where}: {plural(len(one.ids), 'token')}, {learned} {verb(learned, 'count')} in the loss{cut}", *rows]
        examples.append({"where": record.where, "ids": one.ids.tolist(), "targets": one.targets.tolist(), "cut": one.cut,
                         "tokens": [tools.tokenizer.token_text(int(i)) for i in one.ids]})  # fmt: skip
    facts: dict[str, Any] = {}
    for name, (members, ones) in splits.items():
        lengths = sorted(one.length for one in in_pieces(ones)[0])
        cuts = [one.cut for one in ones if one.cut]
        facts[name] = {"examples": len(members), "windows": len(lengths), "shortest": lengths[0], "median": lengths[len(lengths) // 2],
                       "longest": lengths[-1], "cut": len(cuts), "tokens_cut": sum(cuts), "left_out": left_out[name],
                       "labels": task.counts(members)}  # fmt: skip
        f = facts[name]
        windows = f" in {f['windows']:,} windows" if f["windows"] > f["examples"] else ""
        lines.append(f"{name}: {plural(f['examples'], 'example')}{windows} of {f['shortest']} to {f['longest']} tokens (half of them up to "
                     f"{f['median']}); longer than {tools.max_tokens} and cut: {f['cut']:,}"
                     + (f"; left out: {f['left_out']:,}" if f["left_out"] else ""))  # fmt: skip
        if f["labels"]:
            lines.append("  " + ", ".join(f"{label} {count:,}" for label, count in list(f["labels"].items())[:20]))
    return {"examples": examples, "splits": facts, "max_tokens": tools.max_tokens, "text": "\n".join(lines)}


def _token(task: Task, tools: Tools, example: Encoded, token: tuple[int, int], colour: bool) -> str:
    index, target = token
    text = _plain(tools.tokenizer.token_text(index))
    if target < 0:
        return text
    said = task.target_text(target, example)
    text = text if said is None else f"{text}→{said}"
    return f"{ON}{text}{OFF}" if colour else f"‹{text}›"


def _plain(token: str) -> str:
    """A token with its spaces and line ends made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
