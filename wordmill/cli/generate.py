"""`wordmill generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import (
    TEMPERATURE,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    QuietOption,
    SeedOption,
    TopKOption,
    TopPOption,
    emit,
    open_model,
    reporter,
)
from wordmill.core.errors import UsageError
from wordmill.core.files import standard_lines

if TYPE_CHECKING:
    from wordmill.generate import Loaded


def generate(
    model: ModelArgument,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...", help="Texts to continue, or sources; - reads one from each line of standard input.", show_default=False
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")] = 128,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", help=f"{TEMPERATURE} [default: 0.8; 0 with beams and for encoder–decoders]"),
    ] = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text (may be repeated; \\n is a line end).")] = None,
    beams: Annotated[int, typer.Option("--beams", help="Search for the likeliest whole answer with so many beams.")] = 1,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help="In a beam search: above 1 for longer answers, below for shorter ones.")
    ] = 1.0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Continue a text, or write the target of a source.

    One prompt is streamed as it comes; several are answered side by side. The same seed gives the same text. An encoder–decoder (T5, BART)
    reads the prompt as its source and prints what it makes of it.

    Example: wordmill generate runs/x/model "Once upon a time" --max-tokens 100 --temperature 0.8 --top-p 0.95 --seed 1
    """
    from wordmill.generate import SamplingConfig

    texts = _prompts(prompts or [""])
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "beams": beams,
        "length_penalty": length_penalty,
    }
    settings |= {"repetition_penalty": repetition_penalty, "stop": tuple(text.replace("\\n", "\n") for text in stop or ())}
    settings |= {"temperature": 0.0} if temperature is None and beams != 1 else {} if temperature is None else {"temperature": temperature}
    SamplingConfig.of(settings, where="generate")  # what is wrong with them is said before a model is opened
    loaded = open_model(model, device, dtype, reading=True)
    config, report = loaded.sampling(settings), reporter(quiet)
    if len(texts) == 1 and not json and beams == 1:
        pieces = loaded.stream(texts[0], config, reporter=report)
        first = next(pieces, "")  # what is wrong with the prompt is said before anything is printed
        print(shown_before(loaded, texts[0]) + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
        return
    answers = loaded.generations(texts, config, reporter=report)
    value = {"model": model, "settings": config.plain(), "answers": [answer.plain() for answer in answers]}
    emit(json, value, "\n\n".join(shown_before(loaded, answer.prompt) + answer.text for answer in answers))


def shown_before(loaded: Loaded, prompt: str) -> str:
    """The prompt, where the answer goes on with it; nothing where it is a text of its own."""
    return "" if loaded.kind == "encoder-decoder" else prompt


def _prompts(given: list[str]) -> list[str]:
    """The prompts, with - replaced by the lines of standard input."""
    if given != ["-"]:
        return given
    lines = [line.rstrip("\r\n") for line in standard_lines()]
    if not lines:
        raise UsageError("standard input holds no line", where="-", fix="Give a prompt as an argument, or one prompt a line")
    return lines
