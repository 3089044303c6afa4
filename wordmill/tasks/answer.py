"""`answer`: the answer to a question, as a span of its context.

    [CLS] question [SEP] a window of the context [SEP]
    no answer ┘                  start ┘    └ end           one of the window's tokens each, or both the token for "no answer"

A context that is too long stands in several windows that overlap; windows without the answer learn "no answer". What is said is the best
span over all of them (windows.py), with offsets into the very text that was given.

Shapes: N windows, P places of a window that may be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from wordmill.batches.batch import ASKED, IGNORE, Batch
from wordmill.batches.examples import Encoded, in_pieces
from wordmill.core.config import Config
from wordmill.core.errors import ConfigError
from wordmill.core.progress import SILENT, Reporter, plural
from wordmill.models.folder import LanguageModel
from wordmill.models.heads import HeadConfig, Headed, with_head
from wordmill.tasks.answer_written import WrittenAnswer
from wordmill.tasks.examples import Record
from wordmill.tasks.questions import QuestionConfig, Questions
from wordmill.tasks.spans import whole_words
from wordmill.tasks.task import Task, Tools, cut_to, padded, target_counts
from wordmill.tasks.windows import NOWHERE, Found, Frame, best_span, covering, frame, trimmed, windows
from wordmill.tokenizer import Tokenizer
from wordmill.train.objectives import LossSum

KEPT = 2000
"""Contexts whose tokens are kept, since several questions ask about each."""
NO_ANSWER = 1 << 20
"""The target of the token for "no answer", where that is right."""
LONGEST = 500
"""Characters of an answer at most, for a model whose training examples are not known."""


class AnswerConfig(QuestionConfig):
    """Settings of answering with a span."""

    stride: int | None = Field(default=None, ge=1)
    """Tokens by which a window of a long context slides on; None: half of what a window holds of it."""
    max_answer: int | None = Field(default=None, ge=1)
    """Characters of an answer at most; None: as many as the longest in the training examples has."""
    threshold: float = 0.0
    """Where questions may have no answer: how much likelier than no answer a span must be to be given, in nats (log of the ratio)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the state dropped in training before the output layer."""


class Answer(Questions):
    """A span of the context, or no answer."""

    Settings: ClassVar[type[Config]] = AnswerConfig
    settings: AnswerConfig
    way: ClassVar[str] = "span"
    at_use: ClassVar[tuple[str, ...]] = ("threshold", "max_answer", "stride")

    def __init__(self, settings: Any = None, spec: dict[str, Any] | None = None) -> None:
        super().__init__(settings, spec)
        self._contexts: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        self._frames: dict[tuple[str, bool], Frame] = {}

    @classmethod
    def suited(cls, kind: str, settings: Mapping[str, Any] | None) -> Task:
        """An encoder gives spans; other models write, unless `task.way=span`."""
        way = (settings or {}).get("way", "auto")
        return WrittenAnswer(settings) if way == "write" or (way == "auto" and kind != "encoder") else cls(settings)

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Task:
        """See task.py."""
        kind = WrittenAnswer if facts["spec"].get("way") == "write" else cls
        return kind(facts["settings"], dict(facts["spec"]))

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """See task.py."""
        if self.spec.get("unanswerable"):
            return {}
        known = "every question that it learned from has an answer" if self.spec else "a model from elsewhere doesn't say what it learned"
        return {"threshold": f"{known}, so one is always given"}

    # ── examples ─────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """The windows of the context, the question before each. A question longer than half of the room is cut, and counted; of a context
        nothing is. An answer that is longer than the windows overlap may lie whole in none: then nothing is learned from them."""
        tokenizer, texts = tools.tokenizer, record.values
        causal = tools.config.kind in ("decoder", "recurrent")  # of an encoder–decoder the encoder is read
        around = self._frame(tokenizer, causal)
        room = tools.max_tokens - (len(around.ids) - 2)
        if room < 2 or (self.settings.stride or 0) > room - room // 2:
            raise ConfigError(f"a step of {plural(self.settings.stride or 1, 'token')} is more than a window of {tools.max_tokens} "
                              f"tokens is sure to "
                              f"hold of a context ({room - room // 2})", where="task.stride", fix="Lower it, or raise --max-tokens")
        question, cut = cut_to(tokenizer.encode(texts["question"]), room // 2)
        room -= len(question)
        ids, places = self._context(texts["context"], tokenizer)
        wanted = next(((a["answer_start"], a["answer_start"] + len(a["text"])) for a in texts.get("answers") or ()
                       if a["answer_start"] is not None), None) if answer else None  # fmt: skip
        tokens = None if wanted is None else covering(places, *wanted)
        cuts = list(windows(len(ids), room, self.settings.stride or max(1, room // 2)))
        held = [tokens is not None and first <= tokens[0] and tokens[1] < last for first, last in cuts]
        learn = answer and (any(held) if texts.get("answers") else True)
        made = []
        for (first, last), here in zip(cuts, held, strict=True):
            whole, types, begin = around.fill(question, ids[first:last])
            targets = np.full(len(whole), IGNORE, np.int64)
            null = len(whole) - 1 if causal else 0
            targets[null] = ASKED
            real = [n for n in range(first, last) if places[n][0] < places[n][1]]
            targets[[begin + n - first for n in real]] = ASKED
            if learn:
                # One target a window, at the answer's first token: how many of the places that may be chosen further on its last one is.
                place, more = null, NO_ANSWER
                if here and tokens:
                    place, more = begin + tokens[0] - first, real.index(tokens[1]) - real.index(tokens[0])
                targets[place] = more
            spots = [places[n] for n in real]
            spots = [*spots, NOWHERE] if causal else [NOWHERE, *spots]
            made.append(Encoded(np.array(whole, np.int64), targets, np.array(types, np.int64) if any(types) else None,
                                places=np.array(spots, np.int64)))  # fmt: skip
        same = made[0].types is None  # where one window has types, all do
        assert all((one.types is None) == same for one in made)
        return replace(made[0], cut=cut, pieces=tuple(made) if len(made) > 1 else ())

    def _frame(self, tokenizer: Tokenizer, causal: bool) -> Frame:
        key = (tokenizer.hash, causal)
        if key not in self._frames:
            self._frames[key] = frame(tokenizer, causal=causal)
        return self._frames[key]

    def _context(self, text: str, tokenizer: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a context, and the characters that each stands for."""
        key = f"{tokenizer.hash} {text}"
        found = self._contexts.get(key)
        if found is None:
            ids, places = tokenizer.encode_places(text)
            found = ids, [trimmed(text, a, b) for a, b in places]
            if len(self._contexts) >= KEPT:
                self._contexts.clear()
            self._contexts[key] = found
        return found

    def target_text(self, target: int, example: Encoded) -> str | None:
        """How long the answer that begins here is."""
        return "no answer" if target == NO_ANSWER else f"answer, {plural(target + 1, 'token')}"

    def describe(self) -> list[str]:
        """For the model card."""
        none = ", or none where the token that stands for the whole text is likelier as both" if self.spec["unanswerable"] else ""
        return [f"It reads a question and a context, and gives the start and the end of the answer in the context{none}. "
                "Long contexts stand in overlapping windows."]

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> Headed:
        """The base with a head that tells start and end."""
        return with_head(base, HeadConfig(kind="span", labels=("start", "end"), dropout=self.settings.dropout), seed=seed)

    def objective(self, model: Headed, batch: Batch, state: Any = None) -> LossSum:
        """(−log p(start) − log p(end)) / 2 over the places of each window, summed over windows."""
        logits, n = model(batch).float(), batch.n_targets
        if not n:  # a process without windows to learn from still takes part in the exchange of gradients
            return LossSum(logits.sum() * 0.0, 0)
        targets = batch.targets.flatten()
        targets = targets[targets != IGNORE]
        counts = target_counts(batch)
        scores, real = padded(logits, counts)
        wanted, _ = padded(targets[:, None], counts)
        wanted = torch.where(real, wanted[..., 0], ASKED)
        learned = (wanted >= 0).any(1)
        starts = (wanted >= 0).int().argmax(1)[learned]
        ends = starts + wanted[learned].gather(1, starts[:, None])[:, 0] % NO_ANSWER
        scores = scores.masked_fill(~real[..., None], float("-inf"))[learned]
        loss = F.cross_entropy(scores[..., 0], starts, reduction="sum") + F.cross_entropy(scores[..., 1], ends, reduction="sum")
        return LossSum(loss / 2, n)

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answers(self, model: Headed, batch: Batch) -> list[Any]:
        """Logits of start and end (P, 2) of each window."""
        return [one.numpy() for one in model(batch).float().cpu().split(target_counts(batch))]

    def respond(
        self, model: nn.Module, tools: Tools, records: Sequence[Record], *, reporter: Reporter = SILENT, encoded: Sequence[Encoded] = ()
    ) -> list[Any]:
        """A `Found` for each record, the best over its windows. Where the training answers were whole words, a token stands for
        all of the word that it is in."""
        whole = encoded or [self.encode(record, tools, answer=False) for record in records]
        logits = super().respond(model, tools, records, reporter=reporter, encoded=in_pieces(whole)[0])
        longest = self.settings.max_answer or self.spec.get("longest") or LONGEST
        found, at = [], 0
        for record, one in zip(records, whole, strict=True):
            parts = one.pieces or (one,)
            places = [part.places for part in parts if part.places is not None]
            if self.spec.get("whole_words"):
                places = [_grown(record.values["context"], part) for part in places]
            found.append(best_span(places, logits[at : at + len(parts)], longest, none=bool(self.spec.get("unanswerable"))))
            at += len(parts)
        return found

    def _span(self, answer: Found) -> tuple[int, int] | None:
        """The span that is given, if one is."""
        refused = self.spec.get("unanswerable") and answer.margin <= self.settings.threshold
        return None if refused or answer.start < 0 else (answer.start, answer.end)

    def answer_text(self, record: Record, answer: Found) -> str:
        """The text of the span."""
        span = self._span(answer)
        return "" if span is None else record.values["context"][span[0] : span[1]]

    def say(self, record: Record, answer: Found) -> dict[str, Any]:
        """The answer, its place, and how sure it is; where questions may have none, also the probability of that."""
        span = self._span(answer)
        start, end = span or (None, None)
        told = {"answer": self.answer_text(record, answer), "start": start, "end": end,
                "probability": round(answer.probability if span else answer.none, 6)}  # fmt: skip
        return {**told, **({"no_answer_probability": round(answer.none, 6)} if self.spec.get("unanswerable") else {})}

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """As all ways of answering; and how many windows were read."""
        several = sum(answer.windows > 1 for answer in answers)
        return {**super().details(records, answers), "windows": sum(answer.windows for answer in answers), "in_several_windows": several}


def _grown(context: str, places: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The places (P, 2) of tokens in a context, each grown to whole words."""
    return np.array([place if place == NOWHERE else whole_words(context, *place) for place in map(tuple, places.tolist())], np.int64)
