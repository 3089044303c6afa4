"""`wordmill generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import DeviceOption, DtypeOption, JsonOption, QuietOption, SeedOption, emit, reporter
from wordmill.core.errors import UsageError

if TYPE_CHECKING:
    from wordmill.generate import Loaded


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, for example runs/x/model.", show_default=False)],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="Texts to continue; - reads one from each line of standard input.", show_default=False),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Below 1 safer, above 1 wilder; 0 always takes the likeliest token.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Keep only so many of the likeliest tokens (0: all).")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens that together have this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Drop tokens below this share of the likeliest one's probability.")] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1 makes tokens that were there before less likely.")
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text (may be repeated; \\n is a line end).")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a text.

    One prompt is streamed as it comes; several are answered side by side. The same seed gives the same text.

    Example: wordmill generate runs/x/model "Once upon a time" --max-tokens 100 --temperature 0.8 --top-p 0.95 --seed 1
    """
    from wordmill.generate import SamplingConfig

    texts = _prompts(prompts or [""])
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
    }
    settings |= {"repetition_penalty": repetition_penalty, "stop": tuple(text.replace("\\n", "\n") for text in stop or ())}
    config = SamplingConfig.of(settings, where="generate")
    loaded = _load(model, device, dtype)
    report = reporter(quiet)
    if len(texts) == 1 and not json:
        pieces = loaded.stream(texts[0], config, reporter=report)
        first = next(pieces, "")  # what is wrong with the prompt is said before anything is printed
        print(texts[0] + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
        return
    answers = loaded.generations(texts, config, reporter=report)
    value = {"model": str(model), "settings": config.plain(), "answers": [answer.plain() for answer in answers]}
    emit(json, value, "\n\n".join(answer.prompt + answer.text for answer in answers))


def _prompts(given: list[str]) -> list[str]:
    """The prompts, with - replaced by the lines of standard input."""
    if given != ["-"]:
        return given
    lines = [line.rstrip("\r\n") for line in sys.stdin]
    if not lines:
        raise UsageError("standard input holds no line", where="-", fix="Give a prompt as an argument, or one prompt a line")
    return lines


def _load(model: Path, device: str, dtype: str) -> Loaded:
    from wordmill.core.device import choose_device, choose_dtype
    from wordmill.generate.loaded import load_on
    from wordmill.models.folder import read_config

    read_config(model)  # what is wrong with the folder is said before a second goes by
    chosen = choose_device(device)
    return load_on(model, chosen, choose_dtype(dtype, chosen, reading=True))
