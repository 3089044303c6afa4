"""`wordmill fill`."""

from __future__ import annotations

from typing import Annotated

import typer

from wordmill.cli.common import DeviceOption, JsonOption, ModelArgument, QuietOption, emit, open_model


def fill(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text with [MASK] for each missing word.", show_default=False)],
    top: Annotated[int, typer.Option("--top", help="Words to show for each gap.")] = 5,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16 or auto: the numbers to compute with.")] = "fp32",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fill the gaps of a text with likely words.

    For encoders (BERT and its kin), which judge each gap by the whole text, and T5-like models, which write what stands in it. A gap is
    [MASK] for every model; the model's own mask token or sentinels do as well. Several gaps get a list each.

    Example: wordmill fill runs/b/model "The capital of France is [MASK]." --top 3
    """
    loaded = open_model(model, device, dtype)
    found = loaded.fill(text, top=top)
    blocks = []
    for number, gap in enumerate(found.masks, 1):
        head = [f"gap {number}"] if len(found.masks) > 1 else []
        blocks.append("\n".join([*head, *(f"{_share(candidate.probability)}  {candidate.word!r}" for candidate in gap)]))
    emit(json, {"model": model, **found.plain()}, "\n\n".join(blocks))


def _share(probability: float) -> str:
    """Seven signs; what four decimals don't show, as a power of ten."""
    return f"{probability:7.4f}" if probability >= 5e-5 or probability == 0 else f"{probability:7.0e}"
