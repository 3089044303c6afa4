"""`--preview`: examples exactly as the model sees them, and what is in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import Encoded
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Task, Tools

SHOWN = 3
ON, OFF = "\x1b[1;32m", "\x1b[0m"


def show(task: Task, tools: Tools, splits: Mapping[str, tuple[Sequence[Record], Sequence[Encoded]]], colour: bool) -> dict[str, Any]:
    """Facts, JSON-ready, and `text` for people: three training examples token by token, those that count in the loss in green (without
    `colour` in ‹…›), then lengths, cuts and label counts of each split."""
    records, encoded = splits["train"]
    examples, lines = [], []
    for record, one in list(zip(records, encoded, strict=True))[:SHOWN]:
        rows = []
        if one.source is not None:
            rows.append(f"  reads: {' '.join(_plain(tools.tokenizer.token_text(int(i))) for i in one.source)}")
        for part in one.pieces or (one,):
            shown = [_token(task, tools, int(index), int(target), colour) for index, target in zip(part.ids, part.targets, strict=True)]
            rows.append("  " + " ".join(shown))
        learned = int((one.targets != IGNORE).sum())
        cut = (f", {one.cut} tokens cut" if one.cut else "") + (f", read in {len(one.pieces)} pieces that overlap" if one.pieces else "")
        lines += [f"{record.where}: {len(one.ids)} tokens, {learned} count in the loss{cut}", *rows]
        examples.append({"where": record.where, "ids": one.ids.tolist(), "targets": one.targets.tolist(), "cut": one.cut,
                         "tokens": [tools.tokenizer.token_text(int(i)) for i in one.ids]})  # fmt: skip
    facts: dict[str, Any] = {}
    for name, (members, ones) in splits.items():
        lengths = sorted(one.length for one in ones)
        cuts = [one.cut for one in ones if one.cut]
        facts[name] = {"examples": len(members), "shortest": lengths[0], "median": lengths[len(lengths) // 2], "longest": lengths[-1],
                       "cut": len(cuts), "tokens_cut": sum(cuts), "labels": task.counts(members)}  # fmt: skip
        f = facts[name]
        lines.append(f"{name}: {f['examples']:,} examples of {f['shortest']} to {f['longest']} tokens (half of them up to {f['median']}); "
                     f"longer than {tools.max_tokens} and cut: {f['cut']:,}")  # fmt: skip
        if f["labels"]:
            lines.append("  " + ", ".join(f"{label} {count:,}" for label, count in list(f["labels"].items())[:20]))
    return {"examples": examples, "splits": facts, "max_tokens": tools.max_tokens, "text": "\n".join(lines)}


def _token(task: Task, tools: Tools, index: int, target: int, colour: bool) -> str:
    text = _plain(tools.tokenizer.token_text(index))
    if target == IGNORE:
        return text
    said = task.target_text(target)
    text = text if said is None else f"{text}→{said}"
    return f"{ON}{text}{OFF}" if colour else f"‹{text}›"


def _plain(token: str) -> str:
    """A token with its spaces and line ends made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
