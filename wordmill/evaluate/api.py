"""`wordmill.evaluate`: a model folder and data in, an `Evaluation` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter
from wordmill.evaluate.bpb import Evaluation, evaluate_text
from wordmill.evaluate.data import Texts
from wordmill.generate.loaded import Loaded, load


def evaluate(
    model: str | Path | Loaded,
    data: str | Path | Sequence[str | Path] | Texts,
    *,
    split: str | None = None,
    field: str | None = None,
    encoding: str | None = None,
    skip_bad: bool = False,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8192,
    max_tokens: int | None = None,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Bits per byte and perplexity of a model (a folder, or one that is open) on files, folders or a corpus folder.

    `split` of a corpus folder ("validation" by default); `field` of JSON and tables; `encoding` of all files, where detecting it fails;
    `skip_bad` counts broken records and goes on; the rest as in `evaluate_text`. `data` may be `Texts`, which say all that themselves.
    Raises `WordmillError` for what can't be read or honoured, and when nothing is left to score.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    given = [data] if isinstance(data, str | Path) else data
    reading = {"split": split, "field": field, "encoding": encoding, "skip_bad": skip_bad}
    texts = given if isinstance(given, Texts) else Texts(given, **reading, reporter=reporter)  # type: ignore[arg-type]
    try:
        found = evaluate_text(
            loaded,
            texts,
            context=context,
            stride=stride,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
            total_bytes=texts.total_bytes,
            reporter=reporter,
        )
    except DataError as error:
        if texts.dropped and error.where is None:
            raise DataError(f"{error.what} (left out: {texts.why()})", fix="Give files with text in them") from error
        raise
    return replace(found, dropped=texts.dropped)
