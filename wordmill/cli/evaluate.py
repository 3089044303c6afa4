"""`wordmill evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmill.cli.common import DeviceOption, JsonOption, ModelArgument, QuietOption, emit, open_model, reporter
from wordmill.cli.training import split_words, task_settings
from wordmill.core.errors import UsageError


def evaluate(
    model: ModelArgument,
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA... [task.name=value...]",
            help="Files and folders of text, or a corpus folder; - is standard input. For a fine-tuned model: files of examples, then "
            "settings of its task for this once, such as task.beams=1.",
            show_default=False,
        ),
    ],
    context: Annotated[int | None, typer.Option("--context", help="Window in tokens. [default: the context of its training]")] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Tokens by which the window slides on. [default: half the context]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Tokens in one forward pass; changes the speed, not the result.")] = 8192,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Stop after so many tokens, and say how much was cut.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split of a corpus folder. [default: validation]")] = None,
    field: Annotated[str | None, typer.Option("--field", help="The JSON key, column or column number that holds the text.")] = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="The encoding of all files, where detecting it fails.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count broken records and files, and go on.")] = False,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16 or auto: the numbers to compute with.")] = "fp32",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """How good a model is: its task's metric, or bits per byte and perplexity on text.

    A fine-tuned model is judged on examples, with confidence intervals and baselines. Of a language model every token is scored once,
    long texts through a sliding window; what was cut or left out is counted. Bits per byte compare all models, perplexity per token only
    those with the same tokenizer. A corpus folder is scored on its validation split. Masked models (BERT and its kin) get
    pseudo-perplexities, named as such: each token hidden once, the rest of its stretch of text shown.

    Example: wordmill evaluate runs/x/model other.txt --json
    """
    from wordmill.evaluate import Texts
    from wordmill.evaluate import evaluate as run
    from wordmill.models.adapters import read_shape
    from wordmill.models.hub import resolve_model
    from wordmill.tasks.tuned import is_tuned, load_tuned

    report = reporter(quiet)
    names, pairs = split_words(data, (), "task")
    settings, files = task_settings(pairs), [Path(name) for name in names]
    if not files:
        raise UsageError("no data given", fix="Name a file to judge the model on")
    folder = resolve_model(model)
    if is_tuned(folder):
        only_text = {"--context": context, "--stride": stride, "--max-tokens": max_tokens, "--split": split, "--field": field,
                     "--encoding": encoding, "--skip-bad": skip_bad or None}  # fmt: skip
        wrong = [name for name, value in only_text.items() if value is not None]
        if wrong:
            raise UsageError(f"{', '.join(wrong)} can't be honoured: this model was fine-tuned for a task", where=model)
        judged = load_tuned(folder, device=device, dtype=dtype, settings=settings).evaluate(files, reporter=report)
        emit(json, {"model": str(model), "data": names, "dtype": dtype, **judged.plain()}, judged.text())
        return
    if settings:
        raise UsageError(f"{', '.join(pairs)} can't be honoured: this model was not fine-tuned for a task", where=model)
    read_shape(folder)
    # Errors of names and places come before the model is loaded.
    texts = Texts(files, split=split, field=field, encoding=encoding, skip_bad=skip_bad, reporter=report)
    loaded = open_model(str(folder), device, dtype)
    found = run(loaded, texts, context=context, stride=stride, batch_tokens=batch, max_tokens=max_tokens, reporter=report)
    emit(json, {"model": model, "data": names, "dtype": dtype, **found.plain()}, found.text())
