"""Texts to vectors: the model's last hidden states, pooled over the tokens of each text.

Several texts are packed into one row, told apart by their document numbers: next to nothing of what is computed is padding. A text's
vector does not depend on the texts beside it, and the order is that of the input.

Shapes: N texts, B rows, T tokens, D width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.files import read_json
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.generate.score import evaluating
from wordmill.models.folder import LanguageModel
from wordmill.models.ops import picked
from wordmill.models.transformer import Transformer
from wordmill.tokenizer import Tokenizer

Pooling = Literal["mean", "cls", "last", "max"]
"""Over a text's tokens, special ones included: their mean, the first, the last, or the largest of each entry."""
ROW = 64
"""Tokens of a row into which short texts are packed: longer ones cost attention between texts that don't see each other, shorter ones are
many small products."""
BATCH_TOKENS = 4096
"""Tokens in one forward pass: few enough for the activations to stay near the processor."""
_POOLINGS: dict[str, Pooling | None] = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max", "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": None, "pooling_mode_weightedmean_tokens": None,
}  # fmt: skip


@dataclass(frozen=True)
class EmbedSettings:
    """How a folder's vectors are meant to be made."""

    pooling: Pooling
    """How the tokens become one vector."""
    normalize: bool = False
    """Whether vectors get the length 1."""
    max_tokens: int | None = None
    """Most tokens of a text, special ones included; None: the model's positions."""
    lower_case: bool = False
    """Whether texts are made lower-case first."""
    prompt: str = ""
    """What is put before every text."""


def read_settings(folder: Path | None, kind: str) -> EmbedSettings:
    """What the files of sentence-transformers say; without them the mean for encoders, the last token for models that read one way.

    Raises `ModelError` for a step or a pooling that is not supported: other vectors than the model's makers meant would be no help.
    """
    plain = EmbedSettings("last" if kind == "decoder" else "mean")
    if folder is None or not (folder / "modules.json").exists():
        return plain
    pooling, normalize, place = plain.pooling, False, folder / "modules.json"
    for module in _modules(place):
        name = str(module.get("type", "")).rpartition(".")[2]
        if name == "Pooling":
            pooling = _pooling(folder / str(module.get("path", "")) / "config.json")
        elif name == "Normalize":
            normalize = True
        elif name != "Transformer":
            raise ModelError(f"the step {name!r} after the model is not supported", where=place, fix="Supported: Pooling, Normalize")
    limits = _optional(folder / "sentence_bert_config.json")
    shown = _optional(folder / "config_sentence_transformers.json")
    prompt = (shown.get("prompts") or {}).get(shown.get("default_prompt_name") or "", "")
    limit = limits.get("max_seq_length")
    return EmbedSettings(pooling, normalize, int(limit) if limit else None, bool(limits.get("do_lower_case")), str(prompt))


def _modules(path: Path) -> list[dict[str, Any]]:
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise ModelError("expected a list of modules", where=path)
    return found


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _pooling(path: Path) -> Pooling:
    values = read_json(path)
    named = [values["pooling_mode"]] if isinstance(values.get("pooling_mode"), str) else []
    named += [_POOLINGS.get(name, name) for name, on in values.items() if name.startswith("pooling_mode_") and on is True]
    if len(named) != 1 or named[0] not in get_args(Pooling):
        raise ModelError(
            f"this pooling is not supported: {', '.join(str(name) for name in named) or 'none named'}",
            where=path,
            fix=f"Supported: one of {', '.join(get_args(Pooling))}",
        )
    return named[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Embeddings:
    """The vectors of some texts, and how they were made."""

    vectors: npt.NDArray[np.float32]
    """(N, D), in the order of the texts."""
    pooling: Pooling
    """How tokens became one vector."""
    normalize: bool
    """Whether their length is 1."""
    tokens: int
    """Tokens read, special ones included."""
    padding: int
    """Places computed that held no token."""
    cut: int
    """Texts that were cut because they were too long."""
    cut_tokens: int
    """Tokens that they lost."""


def embed(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    settings: EmbedSettings,
    *,
    truncate: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    reporter: Reporter = SILENT,
) -> Embeddings:
    """Vectors of texts, float32 whatever the model computes in.

    `batch_tokens` in one forward pass: it changes the speed and nothing else. Raises `DataError` for texts that are empty, and for those
    longer than the model reads unless they may be cut (`truncate`; how many is in the result); `UsageError` for a pooling that isn't known.
    """
    if settings.pooling not in get_args(Pooling):
        raise UsageError(f"unknown pooling {settings.pooling!r}", where="--pooling", fix=f"Use one of {', '.join(get_args(Pooling))}")
    if batch_tokens < 1:
        raise UsageError("batch_tokens must be at least 1", where="--batch-tokens")
    documents, cut, lost = _documents(model, tokenizer, texts, settings, truncate)
    vectors = torch.empty(0)
    lengths = [len(document) for document in documents]
    padding, total = 0, sum(lengths)
    with reporter.task("embedding", total=total, unit="tok") as task, evaluating(model):
        done = 0
        for width, rows in _batches(lengths, batch_tokens):
            found, wasted = _embed_rows(model, rows, width, documents, settings.pooling)
            places = [i for row in rows for i in row]
            if not len(vectors):
                vectors = torch.empty(len(texts), found.shape[1])
            vectors[places] = F.normalize(found, dim=-1) if settings.normalize else found
            padding, done = padding + wasted, done + sum(lengths[i] for i in places)
            task.set(done)
    return Embeddings(vectors.numpy(), settings.pooling, settings.normalize, total, padding, cut, lost)


def _documents(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], settings: EmbedSettings, truncate: bool
) -> tuple[list[list[int]], int, int]:
    """Ids as the model reads them, special tokens around them; how many texts were cut, and how many tokens they lost."""
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise DataError(f"text {number} is empty: there is nothing to embed", where=f"line {number}", fix="Leave it out")
    prepared = [settings.prompt + (text.lower() if settings.lower_case else text) for text in texts]
    encoded = tokenizer.encode_batch(prepared)
    limit = min(settings.max_tokens or model.config.max_positions, model.config.max_positions)
    room = limit - tokenizer.wrap_size()
    too_long = [number for number, ids in enumerate(encoded, 1) if len(ids) > room]
    if too_long and not truncate:
        longest = max(len(encoded[number - 1]) for number in too_long) + tokenizer.wrap_size()
        raise DataError(
            f"{len(too_long):,} of {plural(len(texts), 'text')} {verb(len(too_long), 'are')} longer than the {limit:,} tokens that the "
            f"model reads "
            f"(the longest has {longest:,})",
            where=f"line {too_long[0]}",
            fix="Split them, or cut their ends with --truncate (truncate=True)",
        )
    lost = sum(len(encoded[number - 1]) - room for number in too_long)
    documents = [tokenizer.wrap(ids[:room]).ids for ids in encoded]
    for number, ids in enumerate(documents, 1):
        if not ids:
            raise DataError(f"text {number} has no token in this vocabulary", where=f"line {number}", fix="Leave it out")
    return documents, len(too_long), lost


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Batches of rows of texts, by their numbers, and how wide and how many the rows are when computed.

    The longest text left opens a row, and the longest that still fit fill it. Few different shapes: a product compiles itself for each
    new one, which takes as long as a hundred texts.
    """
    waiting: dict[int, list[int]] = {}
    for i in reversed(range(len(lengths))):
        waiting.setdefault(lengths[i], []).append(i)
    found = sorted(waiting)  # lengths

    def longest(most: int) -> int | None:
        place = bisect_right(found, most) - 1
        if place < 0:
            return None
        alike = waiting[found[place]]
        text = alike.pop()
        if not alike:
            found.pop(place)
        return text

    unit = min(ROW, _coarse(sum(lengths)))
    while found:
        width = -(-found[-1] // unit) * unit
        at_once = max(1, batch_tokens // width)
        rows: list[list[int]] = []
        while found and len(rows) < at_once:
            rows.append([])
            space = width
            while (text := longest(space)) is not None:
                rows[-1].append(text)
                space -= lengths[text]
        yield width, rows + [[]] * (min(_coarse(len(rows)), at_once) - len(rows))


def _coarse(n: int) -> int:
    """The next of 1 … 16, 18, 20, …, 32, 36, …: one of eight up to the double."""
    unit = 1 << max(0, n.bit_length() - 4)
    return -(-n // unit) * unit


def _embed_rows(
    model: LanguageModel, rows: Sequence[Sequence[int]], width: int, documents: Sequence[Sequence[int]], pooling: Pooling
) -> tuple[Tensor, int]:
    """The pooled states (N, D) of the texts of a batch, row by row, and how many places were padding."""
    shape = (len(rows), width)
    ids, positions, numbers = np.zeros(shape, np.int64), np.full(shape, -1, np.int64), np.full(shape, -1, np.int32)
    starts, ends = [], []
    for r, row in enumerate(rows):
        at = 0
        for number, i in enumerate(row):
            end = at + len(documents[i])
            ids[r, at:end], positions[r, at:end], numbers[r, at:end] = documents[i], np.arange(end - at), number
            starts.append(r * width + at)
            ends.append(r * width + end)
            at = end
    device = next(model.parameters()).device
    alone = all(len(row) == 1 for row in rows) and bool((positions >= 0).all())
    read, places = torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device)
    told_apart = None if alone else torch.from_numpy(numbers).to(device)
    only = None
    if pooling in ("cls", "last"):
        only = torch.tensor(starts if pooling == "cls" else [end - 1 for end in ends], device=device)
    if isinstance(model, Transformer) and model.encoder is not None:
        hidden = picked(model.encode(read, places, told_apart).hidden, only)
    else:
        hidden, _ = model(read, places, told_apart, only=only)
    hidden = hidden.float().cpu()
    return hidden if only is not None else _pool(hidden.flatten(0, 1), starts, ends, pooling), int((positions < 0).sum())


def _pool(hidden: Tensor, starts: Sequence[int], ends: Sequence[int], pooling: Pooling) -> Tensor:
    """States (B·T, D) of texts at `starts` to `ends`, the mean or the largest of each → (N, D)."""
    lengths = torch.tensor([end - start for start, end in zip(starts, ends, strict=True)])
    # Texts side by side without what is between them: one call for all of them.
    real = torch.cat([torch.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    return torch.segment_reduce(hidden[real], pooling, lengths=lengths)
