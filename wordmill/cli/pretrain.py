"""`wordmill pretrain`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import DeviceOption, DtypeOption, JsonOption, QuietOption, emit, reporter
from wordmill.cli.training import over_recipe, split_words, to_the_end

if TYPE_CHECKING:
    from wordmill.tasks.run import Run

NEXT = {"mlm": "fill", "denoise": "fill"}
"""What one does with a model that learned this, where it isn't generating."""
PLAIN = ("time", "size", "tokens", "epochs", "steps", "family", "seed")
"""Settings that belong to no section."""


def pretrain(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SRC… [name=value…]", help="Files, folders or a corpus folder; then settings such as model.layers=6."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/DATE-TIME).")] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="Time for everything, such as 10m: model size, batch, rate and schedule follow. Default: 10m."),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="Number of weights, such as 15m.")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Tokens to train on, such as 5m.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Times to go over the corpus.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Family: qwen3 (default), llama, gpt2, bert, t5, bart, lstm, gru, …")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="clm, prefix, mlm, denoise or infill; default: by family.")] = None,
    parent: Annotated[str | None, typer.Option("--from", help="Model folder or hub name to go on from; its shape stays.")] = None,
    lora: Annotated[int | None, typer.Option("--lora", help="With --from: train an adapter of this rank, such as 16.", min=1)] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Folder of a tokenizer; otherwise one is trained.")] = None,
    validation: Annotated[list[str] | None, typer.Option("--validation", help="Files to validate on; otherwise a share is kept.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="Field of JSON and tables that holds the text.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file with settings.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out exactly where it was.")] = False,
    find_learning_rate: Annotated[
        bool, typer.Option("--find-learning-rate", help="Try rising learning rates for some steps, plot the loss, suggest one, and stop.")
    ] = False,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Text to continue at every evaluation (repeatable).")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count broken records and go on, instead of stopping at the first.")] = False,
    compile: Annotated[str | None, typer.Option("--compile", help="auto, on or off: compile the model.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too (needs wordmill[track]).")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Train a language model on text, in the time you have.

    Example: wordmill pretrain my_texts/ -o runs/mine --time 10m
    """
    from wordmill.core.config import merge, parse_overrides

    texts, pairs = split_words(sources or [], PLAIN, "model")
    given: dict[str, Any] = {"time": time, "size": size, "tokens": tokens, "epochs": epochs, "steps": steps, "family": model,
                             "objective": objective, "parent": parent, "lora": None if lora is None else {"rank": lora},
                             "tokenizer_folder": tokenizer, "validation": validation, "prompts": prompt, "compile": compile, "seed": seed,
                             "dtype": None if dtype == "auto" else dtype}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None and value != []}
    corpus = {**({"field": field} if field else {}), **({"skip_bad": True} if skip_bad else {})}
    over = merge(merge(given, {"corpus": corpus} if corpus else {}), parse_overrides(pairs))
    settings = over_recipe(recipe, over, ("time", "tokens", "epochs", "steps"))
    recipe_sources = settings.pop("sources", ())
    from wordmill.tasks.pretrain import pretrain as work
    from wordmill.tasks.range_test import find_learning_rate as find

    show = reporter(quiet)
    if find_learning_rate:
        from wordmill.tasks.asked import without_effect

        given_too = [name for name, on in (("--resume", resume), ("--tensorboard", tensorboard)) if on]
        without_effect(given_too, "the test of learning rates trains a model of its own for some steps and keeps none of it")
        found = find(texts or recipe_sources, out=out, device=device, reporter=show, **settings)
        emit(json, found.plain(), found.text())
        return 0
    settings |= {"out": out, "resume": resume, "device": device, "tensorboard": tensorboard, "reporter": show}
    return to_the_end("pretrain", lambda: work(texts or recipe_sources, **settings), out, json=json, show=show, following=_following)


def _following(run: Run) -> str:
    """The command to give next."""
    return f'wordmill {NEXT.get(run.metrics["objective"], "generate")} {quote(str(run.model_folder))} "…"'
