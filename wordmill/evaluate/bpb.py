"""Bits per byte, and perplexity beside it: what a model makes of text that it has not seen.

The definition, the same while training and here: a document's cost is −log p of every token of its text and of the end
token after it, given the start token before it. Bits per byte divides the cost of all documents by the UTF-8 bytes of
their texts (the end token adds cost and no bytes: an honest upper bound). It does not depend on how the text is cut
into tokens, so it compares any two models; perplexity per token compares models with the same tokenizer only.

`evaluate_text` scores each token once, through a sliding window with at least `context − stride` tokens before it.
`evaluate_store` (validation.py) is for validation while training: it reads packed rows from the token store, each row on its own
(window="block"), which is faster and gives a slightly higher number, since tokens at a row's start see little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import SILENT, Reporter, human_bytes, human_count, plural
from wordmill.generate.loaded import Loaded
from wordmill.generate.pseudo import masked_context, score_stretches
from wordmill.generate.score import Score, score_documents, window_sizes

SPACELESS = 30.0
"""Bytes from space to space beyond which these are no words: English has 6, German 7, Russian 13, Thai and Chinese far more."""
SPACELESS_SAID = "not told: this text puts no spaces between words"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and on how much."""

    nats: float
    """−log p of all scored tokens together."""
    tokens: int
    """Scored tokens, one end token a document included."""
    bytes: int
    """UTF-8 bytes of the texts scored."""
    words: int
    """Stretches of those texts between white space."""
    documents: int
    """Documents scored, the last one perhaps in part."""
    context: int | None
    """Window in tokens; None for a recurrent model, whose state carries on."""
    stride: int | None
    """Tokens by which the window slides on."""
    window: Literal["sliding", "block", "carried"]
    """How long texts were read."""
    tokenizer_hash: str
    """Which tokenizer the perplexity per token belongs to."""
    unknown: int = 0
    """Unknown tokens: text that the tokenizer can't spell, which makes every number too low."""
    cut_documents: int = 0
    """Documents that were left out or shortened because of max_tokens."""
    cut_bytes: int = 0
    """UTF-8 bytes of text that were left out with them."""
    dropped: int = 0
    """Inputs that were no text (empty, binary, undecodable), each reported."""
    pseudo: bool = False
    """Whether these are pseudo-log-likelihoods of a masked model (see generate/pseudo.py): no measure of a language model's."""

    @property
    def bits_per_byte(self) -> float:
        """The headline: comparable between all models."""
        return Score(self.nats, self.bytes, self.tokens).bits_per_byte

    @property
    def perplexity_per_token(self) -> float:
        """exp of the mean cost of a token."""
        return Score(self.nats, self.bytes, self.tokens).perplexity

    @property
    def perplexity_per_word(self) -> float:
        """exp of the mean cost of a word; nan for text without words, and for scripts that put no spaces between them (Chinese)."""
        if self.words and self.bytes / self.words > SPACELESS:
            return math.nan
        return Score(self.nats, self.bytes, self.words).perplexity

    def plain(self) -> dict[str, Any]:
        """JSON-ready; what is not finite is None."""
        numbers = {name: getattr(self, name) for name in ("bits_per_byte", "perplexity_per_token", "perplexity_per_word")}
        if self.pseudo:
            numbers = {f"pseudo_{name}": value for name, value in numbers.items()}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**numbers, **asdict(self)}.items()
        }

    def text(self) -> str:
        """For people: one line a fact."""
        how = {
            "sliding": f"window of {self.context} tokens, sliding by {self.stride}",
            "block": f"blocks of {self.context} tokens",
            "carried": "state carried on",
        }
        cut = f"{plural(self.cut_documents, 'document')}, {human_bytes(self.cut_bytes)}" if self.cut_documents else "nothing"
        word = self.perplexity_per_word
        pseudo, width = ("pseudo-", 29) if self.pseudo else ("", 22)
        lines = [
            f"{'pseudo bits per byte' if pseudo else 'bits per byte':{width}}{self.bits_per_byte:.4f}",
            f"{pseudo + 'perplexity per token':{width}}{self.perplexity_per_token:.3f}  (compare only "
            + ("with masked models of the same tokenizer)" if pseudo else "with the same tokenizer)"),
            f"{pseudo + 'perplexity per word':{width}}" + (f"{word:.2f}" if math.isfinite(word) else SPACELESS_SAID),
            f"{'scored':{width}}{self.tokens:,} tokens, {self.words:,} words, {self.bytes:,} bytes in "
            + f"{plural(self.documents, 'document')}; "
            + how[self.window],
            f"{'cut':{width}}{cut}" + (f"; {plural(self.dropped, 'input')} left out: no text" if self.dropped else ""),
        ]
        if self.unknown:
            lines.append(f"{'unknown':{width}}{self.unknown:,} tokens: the numbers are too low, do not compare them")
        return "\n".join(lines)


class _Counts:
    """What is counted while texts pass on their way to the model."""

    def __init__(self, loaded: Loaded, max_tokens: int | None) -> None:
        self.loaded, self.left = loaded, max_tokens
        self.bytes = self.words = self.documents = self.unknown = self.cut_documents = self.cut_bytes = 0

    def documents_of(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Ids of the documents that are scored; stops where max_tokens is reached, but goes on counting."""
        waiting: list[str] = []

        def noted() -> Iterator[str]:
            for text in texts:
                if self.left is not None and self.left <= 0:
                    self._cut(text, 0)
                    continue
                waiting.append(text)
                yield text

        # With a limit each document is encoded on its own: whether the next one is scored depends on it.
        groups = ([text] for text in noted()) if self.left is not None else [noted()]
        for group in groups:
            for ids in self.loaded.encode_documents(group):
                text = waiting.pop(0)
                if self.left is not None and len(ids) - 1 > self.left:
                    ids, text = self._shorten(ids, text)
                self._count(ids, text)
                yield ids

    def _count(self, ids: Sequence[int], text: str) -> None:
        self.documents += 1
        self.bytes += len(text.encode())
        self.words += len(text.split())
        unknown = self.loaded.tokenizer.unk_id
        if unknown is not None:
            self.unknown += ids.count(unknown)
        if self.left is not None:
            self.left -= len(ids) - 1

    def _shorten(self, ids: list[int], text: str) -> tuple[list[int], str]:
        """The first `left` tokens (the end token, which does not follow there, is not scored) and the text that they spell."""
        assert self.left is not None
        for count in range(self.left, max(0, self.left - 8), -1):  # a token may end inside a character
            part = self.loaded.tokenizer.decode(ids[1 : count + 1])
            if text.startswith(part):
                self._cut(text, len(part))
                self.left = count
                return ids[: count + 1], part
        raise UsageError(
            "max_tokens can't cut a document for this tokenizer, which doesn't give back the text as it was", fix="Leave max_tokens out"
        )

    def _cut(self, text: str, kept: int) -> None:
        self.cut_documents += 1
        self.cut_bytes += len(text[kept:].encode())


def evaluate_text(
    loaded: Loaded,
    texts: Iterable[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8192,
    max_tokens: int | None = None,
    total_bytes: int | None = None,
    dropped: int = 0,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Score every token of every text exactly once; each text is a document.

    `context` and `stride` in tokens (by default the context that the model was trained with, else its positions, at most 2,048; and half
    of that), `batch_tokens` in one forward pass: the result does not depend on it. `max_tokens` stops after so many, and the result
    says how much was cut. `total_bytes` is for the progress bar;
    `dropped` inputs that the caller could not read are passed on to the result.

    Raises `DataError` when there is nothing to score, `UsageError` for sizes that the model can't honour.
    """
    recurrent = loaded.kind == "recurrent"
    if batch_tokens < 1 or (max_tokens is not None and max_tokens < 1):
        raise UsageError("batch_tokens and max_tokens must be at least 1")
    if loaded.kind == "encoder-decoder":
        raise UsageError("an encoder–decoder gives likelihoods of targets given sources, none of a text on its own", where=loaded.folder)
    pseudo = loaded.kind == "encoder"
    if pseudo and stride is not None:
        raise UsageError("a masked model scores stretches of text side by side, without a sliding window", fix="Leave out the stride")
    sizes: tuple[int | None, int | None] = (None, None)
    if pseudo:
        sizes = (masked_context(loaded.model, context), None)
    elif not recurrent:
        sizes = window_sizes(loaded.model, context if context is not None else loaded.trained_context, stride)
    counts = _Counts(loaded, max_tokens)
    asked = (context, stride) if recurrent else sizes
    nats, tokens = 0.0, 0
    documents = counts.documents_of(texts)
    if pseudo:
        assert sizes[0] is not None
        scores = score_stretches(loaded.model, documents, loaded.vocabulary, context=sizes[0], batch_tokens=batch_tokens)
    else:
        scores = score_documents(loaded.model, documents, context=asked[0], stride=asked[1], batch_tokens=batch_tokens)
    with reporter.task("scoring", total=total_bytes, unit="B") as task:
        for score in scores:
            nats, tokens = nats + score.nats, tokens + score.tokens
            task.set(counts.bytes, tokens=human_count(tokens), nats_per_token=f"{nats / max(1, tokens):.3f}")
    if not counts.bytes:
        raise DataError("there is no text to evaluate")
    if counts.unknown:
        reporter.warn(f"{counts.unknown:,} of {tokens:,} tokens are unknown to the tokenizer: their text costs the model too little")
    return Evaluation(
        nats=nats,
        tokens=tokens,
        bytes=counts.bytes,
        words=counts.words,
        documents=counts.documents,
        context=sizes[0],
        stride=sizes[1],
        window="carried" if recurrent else "block" if pseudo else "sliding",
        pseudo=pseudo,
        tokenizer_hash=loaded.tokenizer.hash,
        unknown=counts.unknown,
        cut_documents=counts.cut_documents,
        cut_bytes=counts.cut_bytes,
        dropped=dropped,
    )


def compare(
    evaluations: dict[str, Evaluation], *, by: Literal["bits_per_byte", "perplexity_per_token", "perplexity_per_word"] = "bits_per_byte"
) -> list[tuple[str, float]]:
    """Names and numbers of several evaluations, best first.

    Raises `UsageError` when they were not made on the same text, and for a perplexity per token across tokenizers:
    a tokenizer with longer tokens has fewer and costlier ones, so the numbers say nothing about the models. Pseudo-likelihoods of masked
    models are compared among themselves and with one tokenizer only.
    """
    if len({e.pseudo for e in evaluations.values()}) > 1:
        raise UsageError("pseudo-likelihoods of masked models can't be compared with likelihoods: they see what comes after a token")
    if len({(e.bytes, e.words, e.documents) for e in evaluations.values()}) > 1:
        raise UsageError("these evaluations were not made on the same text", fix="Evaluate every model on the same files")
    several = len({e.tokenizer_hash for e in evaluations.values()}) > 1
    if several and any(e.pseudo for e in evaluations.values()):
        raise UsageError("pseudo-likelihoods of different tokenizers can't be compared: what is hidden at a time is not the same")
    if by == "perplexity_per_token" and several:
        raise UsageError(
            "perplexities per token of different tokenizers can't be compared: their tokens are not of the same length",
            fix="Compare bits_per_byte, which does not depend on the tokenizer",
        )
    return sorted(((name, getattr(e, by)) for name, e in evaluations.items()), key=lambda pair: pair[1])
