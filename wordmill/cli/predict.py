"""`wordmill predict` and `wordmill compare`."""

from __future__ import annotations

import csv
import io
import json as json_module
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wordmill.cli.common import DeviceOption, JsonOption, ModelArgument, QuietOption, emit, reporter
from wordmill.cli.training import split_words, task_settings
from wordmill.core.errors import UsageError
from wordmill.core.progress import plural


def predict(
    model: ModelArgument,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A file of examples, a .txt with an input a line, or - for standard input.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[task.name=value...]", help="Settings of the model's task for this once, such as task.beams=1.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write: a table if its name ends in .csv or .tsv, else a "
                                                 "JSON object a line (default: standard output).")] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16 or auto: the numbers to compute with.")] = "fp32",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer inputs with a fine-tuned model, one JSON object each.

    Each object holds the input's columns and the task's answer; --json makes one object of all. In a table the answer's columns are
    called predicted_label and the like, beside those of the input.

    Example: wordmill predict runs/c/model new.csv -o out.jsonl
    """
    from wordmill.core.files import write_text
    from wordmill.tasks.asked import without_effect
    from wordmill.tasks.tuned import load_tuned, read_inputs

    show = reporter(quiet)
    names, pairs = split_words(settings or [], (), "task")
    if names:
        raise UsageError(f"one input at a time, not {names[0]!r} too", fix="Settings are written as task.name=value")
    changed = task_settings(pairs)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "this is a folder" if out.is_dir() else "there is no folder to write this file into"
        raise UsageError(what, where=out, fix="Name a file with -o")
    if out is not None and out.exists() and os.path.exists(source) and out.samefile(source):
        raise UsageError("the answers would take the place of their inputs", where=out, fix="Name another file with -o")
    tuned = load_tuned(model, device=device, dtype=dtype, settings=changed)
    idle = [f"task.{name}" for name in tuned.task.when_judged if name in changed]
    without_effect(idle, "it is for judging answers by known ones", fix="Leave that away, or say it to `wordmill evaluate`")
    records = read_inputs(source, tuned, reporter=show)
    found = tuned.predict_records(records, reporter=show)
    rows = [
        {"input": {name: value for name, value in record.values.items() if name != "lines"},
         **{name: value for name, value in answer.items() if name != "text" or record.values.get("text") != value}}
        for record, answer in zip(records, found, strict=True)
    ]
    text = "".join(f"{json_module.dumps(row, ensure_ascii=False, default=str)}\n" for row in rows)
    facts = {"model": model, "input": source, "inputs": len(rows), "cut": sum("cut" in row for row in rows)}
    if out is not None:
        separator = {".csv": ",", ".tsv": "\t"}.get(out.suffix.lower())
        write_text(out, text if separator is None else _table(rows, separator))
        show.note(f"{plural(len(rows), 'answer')}: {out}")
        if json:
            emit(True, {**facts, "out": str(out)}, "")
    elif json:
        emit(True, {**facts, "answers": rows}, "")
    else:
        print(text, end="", flush=True)


def _table(rows: Sequence[dict[str, Any]], separator: str) -> str:
    """Inputs and answers as a table: what is named within an answer has a column of its own, a list stands as JSON in its cell. Columns of
    the input keep their names: where one begins as those of the answer do, these get a number."""
    taken, stem, number = {name for row in rows for name in row["input"]}, "predicted", 1
    while any(name.startswith(f"{stem}_") for name in taken):
        number += 1
        stem = f"predicted{number}"
    flat = [{**row["input"], **_named(stem, {name: value for name, value in row.items() if name != "input"}, "_")} for row in rows]
    held = io.StringIO()
    writer = csv.DictWriter(held, list(dict.fromkeys(name for row in flat for name in row)), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    for row in flat:
        writer.writerow({name: value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False, default=str)
                         for name, value in row.items() if value is not None})  # fmt: skip
    return held.getvalue()


def _named(name: str, value: Any, joint: str = ".") -> dict[str, Any]:
    """A value by its column's name, or all that a mapping holds."""
    if not isinstance(value, dict):
        return {name: value}
    return {column: part for key, inner in value.items() for column, part in _named(f"{name}{joint}{key}", inner).items()}


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A fine-tuned model's folder, or hub name.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, of the same task.", show_default=False)],
    data: Annotated[list[Path], typer.Option("--data", help="Files of examples with their answers (repeatable).")],
    device: DeviceOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two fine-tuned models on the same examples, with a confidence interval.

    The examples are resampled in pairs; where an answer is right or wrong, McNemar's test stands beside.

    Example: wordmill compare runs/a runs/b --data test.csv
    """
    from wordmill.tasks.tuned import compare as work

    found = work(a, b, data, device=device, reporter=reporter(quiet))
    emit(json, {"models": [a, b], **found.plain()}, found.text())
