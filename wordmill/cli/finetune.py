"""`wordmill finetune`."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import DeviceOption, JsonOption, QuietOption, emit, reporter
from wordmill.cli.training import over_recipe, split_words, to_the_end
from wordmill.core.errors import UsageError

if TYPE_CHECKING:
    from wordmill.tasks.run import Run

SECTIONS = {"task": "options", "model": "shape"}
"""What sections are called on the command line, and in FinetuneConfig."""
NumbersOption = Annotated[
    str, typer.Option("--dtype", help="auto, bf16, mixed (float32 but for the products) or fp32: the numbers to compute with.")
]


def finetune(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK DATA… [name=value…]",
            help="answer, chat, classify, summarize, tag or translate; files of examples; then settings such as task.label=stars.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model folder or hub name to start from, or a family's name: from scratch.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/DATE-TIME).")] = None,
    validation: Annotated[
        list[str] | None, typer.Option("--validation", help="Files to choose the best weights by; otherwise a tenth is set aside.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="Files to judge the finished model by, once.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Times to go over the examples.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="Time for everything, such as 10m.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Tokens read at a time: longer examples are cut; taggers read them in pieces.")
    ] = None,
    freeze: Annotated[str | None, typer.Option("--freeze", help="none, base (only the head learns) or gradual.")] = None,
    lora: Annotated[
        int | None,
        typer.Option("--lora", help="Rank of a LoRA adapter that learns beside the model, which stays as it is (and the head).", min=1),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take only shape and tokenizer of --model, with new weights: shows what pretraining brings.")
    ] = False,
    size: Annotated[str | None, typer.Option("--size", help="Number of weights of a model from scratch, such as 5m.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Folder of a tokenizer, from scratch; otherwise one is trained on the examples.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show three examples as the model will see them, and stop.")] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Train with so many seeds, each with the whole --time; mean and spread are told.", min=1)
    ] = 1,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file with settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out exactly where it was.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too (needs wordmill[track]).")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    device: DeviceOption = "auto",
    dtype: NumbersOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Fine-tune a model for a task, from a table of examples.

    Columns, labels and formats are found by looking, and said.

    Example: wordmill finetune classify reviews.csv --model runs/b/model -o runs/c
    """
    from wordmill.core.config import merge, parse_overrides

    names, pairs = split_words(words or [], PLAIN, "task")
    given: dict[str, Any] = {"task": names[0] if names else None, "data": names[1:], "parent": model, "validation": validation,
                             "test": test, "epochs": epochs, "steps": steps, "time": time, "lr": lr, "max_tokens": max_tokens,
                             "freeze": freeze, "fresh": fresh or None, "lora": None if lora is None else {"rank": lora}, "size": size,
                             "tokenizer_folder": tokenizer, "seed": seed,
                             "dtype": None if dtype == "auto" else dtype}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None and value != []}
    over = {SECTIONS.get(name, name): value for name, value in parse_overrides(pairs).items()}
    settings = over_recipe(recipe, merge(given, over), ("time", "epochs", "steps"))
    from wordmill.tasks.finetune import finetune as work
    from wordmill.tasks.preview import preview as look
    from wordmill.tasks.seeds import finetune_seeds, has_seeds

    show = reporter(quiet)
    if preview:
        found = look(settings.pop("task", ""), settings.pop("data", ()), model=settings.pop("parent", None) or _no_model(), reporter=show,
                     colour=sys.stdout.isatty(), **settings)  # fmt: skip
        text = found.pop("text")
        emit(json, found, text)
        return 0
    common: dict[str, Any] = {"out": out, "resume": resume, "device": device, "tensorboard": tensorboard, "reporter": show, **settings}
    several = seeds > 1 or (resume and out is not None and has_seeds(out))
    return to_the_end("finetune", lambda: finetune_seeds(seeds, **common) if several else work(**common), out, json=json, show=show,
                      following=_following)  # fmt: skip


def _following(run: Run) -> str:
    """The command to give next."""
    folder = quote(str(run.model_folder))
    return f"wordmill chat {folder}" if run.metrics.get("task") == "chat" else f"wordmill predict {folder} FILE (- for lines of text)"


def _no_model() -> str:
    raise UsageError("no model given", fix="Name a model folder: --model runs/x/model")


PLAIN = ("task", "epochs", "steps", "time", "lr", "max_tokens", "freeze", "patience", "seed", "validation_share", "size", "dtype")
