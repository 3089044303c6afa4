"""`wordmill demo`: the whole way, each step a command that the user could have typed."""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
import time as clock
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wordmill.cli.common import JsonOption, QuietOption, SeedOption, emit, reporter
from wordmill.cli.docstrings import EPOCHS, Gain, finetune_words, gain_page, gain_plot, gain_text, read_gain, write_examples
from wordmill.core.errors import DataError, WordmillError
from wordmill.core.files import write_text
from wordmill.core.progress import Reporter, human_bytes, human_time, plural

PROMPTS = ("def read_file(", "class Queue:", "import ")

MOST_BYTES = 60_000_000
"""Enough for any --time that suits a demonstration."""


def demo(
    time: Annotated[str, typer.Option("--time", help="How long to pretrain: 90s, 3m, 1h.")] = "3m",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make; runs/demo-2 and so on where it exists.")] = Path(
        "runs/demo"
    ),
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """The whole way on this machine's own Python library, offline.

    Copies the library's .py files, then builds a corpus, trains a tokenizer, trains a model, evaluates it, lets it write, and fine-tunes it
    to tell which package a docstring comes from, beside the same network without pretraining. Each step is shown as the command that does
    it.
    """
    from wordmill.tasks.plan import parse_time

    started = clock.monotonic()
    notes = reporter(quiet)
    parse_time(time)
    folder = free_name(out)
    texts, corpus, tokenizer, run = (folder / name for name in ("texts", "corpus", "tokenizer", "run"))
    model = run / "model"
    files, size = copy_library(texts)
    notes.note(f"Copied {plural(files, 'file')} ({human_bytes(size)}) of this machine's Python library to {texts}")
    samples = [word for prompt in PROMPTS[:2] for word in ("--prompt", prompt)]
    steps = [
        ("text → corpus", ["corpus", "build", texts, "-o", corpus, "--validation", "0.01"]),
        ("corpus → tokenizer", ["tokenizer", "train", corpus, "-o", tokenizer, "--vocab", "8192"]),
        ("corpus → model", ["pretrain", corpus, "--tokenizer", tokenizer, "-o", run, "--time", time, "--seed", seed, *samples]),
        ("model → evaluation", ["evaluate", model, corpus]),
        ("model → text", ["generate", model, *PROMPTS, "--max-tokens", "80", "--temperature", "0.7", "--seed", seed]),
    ]
    counts = write_examples(texts, folder / "docstrings", seed)
    for share in EPOCHS:
        for fresh in (False, True):
            title = f"{share} % of the labels → classifier, {'from scratch' if fresh else 'from the pretrained model'}"
            steps.append((title, [*finetune_words(share, fresh, folder, model, seed)]))
    # With --json, standard output holds the result alone.
    with redirect_stdout(sys.stderr) if json or quiet else nullcontext():
        for number, (title, words) in enumerate(steps, start=1):
            _do(f"{number}/{len(steps)} {title}", [str(word) for word in words], notes, quiet)
    gains = [read_gain(share, counts[f"train-{share}"], folder) for share in EPOCHS]
    write_text(folder / "pretraining.svg", gain_plot(gains) + "\n")
    report_gains(run, gains)
    seconds = clock.monotonic() - started
    notes.note(f"\nWhich package is this docstring from? Right on {counts['test']:,} held-out docstrings:\n{gain_text(gains)}")
    result = {"folder": str(folder), "model": str(model), "report": str(run / "report.html"), "seconds": round(seconds, 1),
              "gains": [asdict(gain) for gain in gains]}  # fmt: skip
    emit(json, result, _closing(folder, model, run, time, seconds))
    return 0


def free_name(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, … : the first that does not exist yet."""
    number, path = 2, wanted
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def copy_library(target: Path, source: Path | None = None) -> tuple[int, int]:
    """Copy the .py files of the running Python's library (or of `source`), without installed packages.

    Returns the number of files and of bytes. Raises `DataError` where the library is not there as text.
    """
    source = source or Path(sysconfig.get_path("stdlib"))
    files = size = 0
    for path in sorted(source.rglob("*.py")):
        inner = path.relative_to(source)
        # Some of the library's own tests are files that are broken on purpose.
        if {"site-packages", "dist-packages", "__pycache__"} & set(inner.parts) or "bad" in path.stem or "data" in inner.parts:
            continue
        if size > MOST_BYTES:
            break
        copy = target / inner
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        files, size = files + 1, size + copy.stat().st_size
    if size < 1_000_000:
        raise DataError(
            "this Python comes without its library as text", where=source, fix="Try your own: wordmill pretrain my_texts/ -o runs/mine"
        )
    return files, size


def report_gains(run: Path, gains: Sequence[Gain]) -> None:
    """Put what pretraining bought at the head of the run's report."""
    from wordmill.train.report import PAGES, write_report

    write_text(run / PAGES, gain_page(gains))
    write_report(run)


def _do(title: str, words: list[str], notes: Reporter, quiet: bool) -> None:
    """Show a command as the user would type it, and run it."""
    from wordmill.cli.app import call

    command = f"wordmill {shlex.join(words)}"
    notes.note(f"\n── {title} ──\n$ {command}")
    code = call([*words, "--quiet"] if quiet else words)
    if isinstance(code, int) and code:
        raise WordmillError(f"this step ended with exit code {code}", where=command)


def _closing(folder: Path, model: Path, run: Path, time: str, seconds: float) -> str:
    lstm = [
        "pretrain",
        str(folder / "corpus"),
        "--tokenizer",
        str(folder / "tokenizer"),
        "--model",
        "lstm",
        "--time",
        time,
        "-o",
        "runs/lstm",
    ]
    return f"""
Done in {human_time(seconds)}. Everything is in {folder}; the report (curves, samples, settings) is a page for your browser:
  {(run / "report.html").resolve()}

Now with your own text:
  wordmill pretrain my_texts/ -o runs/mine --time 10m
And with what was made here:
  wordmill generate {shlex.quote(str(model))} "class Stack:" --max-tokens 200 --temperature 0.8
  wordmill evaluate {shlex.quote(str(model))} some_file.py
  echo "Return the number of seconds since the epoch." | wordmill predict {shlex.quote(str(folder / "tuned-100" / "model"))} -
  wordmill {shlex.join(lstm)}"""
