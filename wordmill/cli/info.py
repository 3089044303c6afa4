"""`wordmill info`."""

from __future__ import annotations

from typing import Annotated

import typer

from wordmill.cli.common import JsonOption, QuietOption, emit


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A folder of a model or an adapter, a hub name, or a config.json.", show_default=False),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="FAMILY:NAME=VALUE,…", help="Describe this shape instead of a model.", show_default=False),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Context for which operations are counted. [default: the model's, at most 2,048]")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What a model is: its parts, size, memory, tokenizer and origin.

    Weights are not read, so that models of any size can be described; a config.json or --shape needs none at all.

    Example: wordmill info --shape bert:layers=12,width=768,vocab_size=30522
    """
    from wordmill.tasks.info import info as describe
    from wordmill.tasks.info import text

    facts = describe(model, shape=shape, context=context)
    emit(json, {"model": model, "shape": shape, **facts}, text(facts))
