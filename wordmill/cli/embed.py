"""`wordmill embed`."""

from __future__ import annotations

import json as json_module
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import DeviceOption, JsonOption, ModelArgument, QuietOption, emit, open_model, reporter
from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import plural

if TYPE_CHECKING:
    from wordmill.generate import Embeddings


def embed(
    model: ModelArgument,
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="A file with one text a line; - is standard input.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the vectors go: .npy, or .jsonl with the texts beside them.", show_default=False)
    ],
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="mean, cls, last or max over the tokens. [default: as the folder says]")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Whether vectors get the length 1. [default: as the folder says]")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long, and say how many.")] = False,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", help="Tokens in one forward pass; changes the speed, not the result.")
    ] = 2048,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16 or auto: the numbers to compute with; vectors are float32.")] = "fp32",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn texts into vectors.

    One vector a line, in the order of the lines. Settings of sentence-transformers in the folder (pooling, normalisation, longest text) are
    used; without them encoders take the mean over the tokens, and models that read one way the last one.

    Example: wordmill embed path/to/model sentences.txt -o vectors.npy --pooling mean --normalize
    """
    if output.suffix not in (".npy", ".jsonl"):
        raise UsageError("the output must end with .npy or .jsonl", where=output)
    if output.exists():
        raise UsageError("this output already exists", where=output, fix="Name another file with -o")
    if not output.absolute().parent.is_dir():
        raise UsageError("no such folder", where=output.absolute().parent, fix="Make it first, or name another file with -o")
    lines = _lines(texts)
    report = reporter(quiet)
    loaded = open_model(model, device, dtype, fast=True)
    start = time.perf_counter()
    settings: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "truncate": truncate, "batch_tokens": batch_tokens}
    try:
        found = loaded.embeddings(lines, **settings, reporter=report)
    except DataError as error:
        raise DataError(error.what, where=f"{texts}, {error.where}" if error.where else texts, fix=error.fix) from error
    seconds = time.perf_counter() - start
    _write(output, lines, found)
    facts = {
        "model": model, "output": str(output), "texts": len(lines), "width": found.vectors.shape[1], "pooling": found.pooling,
        "normalized": found.normalize, "tokens": found.tokens, "cut": found.cut, "cut_tokens": found.cut_tokens, "dtype": dtype,
        "seconds": round(seconds, 3),
    }  # fmt: skip
    cut = f"; {plural(found.cut, 'text')} cut by {plural(found.cut_tokens, 'token')}" if found.cut else ""
    emit(
        json,
        facts,
        f"{plural(len(lines), 'text')} → {output}: {found.vectors.shape[1]} numbers each, {found.pooling} pooling"
        + (", normalised" if found.normalize else "")
        + f"; {plural(found.tokens, 'token')}, {len(lines) / seconds:,.0f} texts a second{cut}",
    )


def _lines(place: str) -> list[str]:
    """The texts, one a line. Raises `DataError` for what can't be read, for an empty line, and where there is none."""
    try:
        data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("no such file", where=place) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError("not UTF-8 text", where=f"{place}, line {line}", fix="Convert it first") from error
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", where=place) from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError("there is no text in it", where=place, fix="Give one text a line")
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError("this line is empty: there is nothing to embed", where=f"{place}, line {number}", fix="Leave it out")
    return lines


def _write(output: Path, lines: list[str], found: Embeddings) -> None:
    """The vectors, whole or not at all."""
    import numpy as np

    from wordmill.core.files import write_atomic

    def write(part: Path) -> None:
        with part.open("wb") as file:
            if output.suffix == ".npy":
                np.save(file, found.vectors)
                return
            for text, vector in zip(lines, found.vectors, strict=True):
                file.write((json_module.dumps({"text": text, "embedding": vector.tolist()}, ensure_ascii=False) + "\n").encode())

    write_atomic(output, write)
