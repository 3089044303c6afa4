"""Rows of conversations to learn from: whole ones, several in a row, only the assistant's words as targets.

    conversations ─ encode (tokenizer/chat.py) ─ examples, the too long cut and counted ─ rows of `context` tokens ─ batches

Which lengths share a row is settled once for the whole data set, by best fit, so that an epoch always has the same number of rows; which of
the conversations of a length stands where, and the order of the rows, are drawn for each epoch. Everything is a function of seed and step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from wordmill.batches.batch import IGNORE, Batch, single, tensor
from wordmill.batches.examples import places_of, side_by_side
from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.corpus.conversations import Conversation
from wordmill.tokenizer.chat import Chat, Turns

Ids = npt.NDArray[np.int64]
SHOWN = 5


@dataclass(frozen=True)
class Example:
    """One conversation, or a part of one, as the model sees it."""

    ids: Ids
    """(T,) tokens read."""
    targets: Ids
    """(T,) what is to be said at each place: the assistant's words and end tokens; `IGNORE` elsewhere."""
    where: str
    """FILE:LINE, for messages."""
    bytes: int
    """UTF-8 bytes of the words among the targets."""
    cut: int = 0
    """Tokens left out because the conversation was too long."""


@dataclass(frozen=True)
class Limits:
    """What becomes an example."""

    max_tokens: int
    """Tokens of an example at most; what is beyond is cut, and counted."""
    answers: Literal["all", "each"] = "all"
    """all: a conversation is one example, with all its answers. each: an example for every answer, with what stands before it; for
    templates that write earlier turns in another way than the last."""
    skip_bad: bool = False
    """Count conversations that can't be learned from, and go on, where otherwise the first is an error."""


@dataclass
class Examples:
    """Encoded conversations, and an account of what was lost."""

    examples: list[Example] = field(default_factory=list)
    cut: int = 0
    """Examples that were too long, and lost their end."""
    tokens_cut: int = 0
    answers: int = 0
    """Answers learned to their end token."""
    answers_cut: int = 0
    """Answers that lost their end, the end token with it."""
    answers_lost: int = 0
    """Answers of which nothing is left (others of their conversation are)."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Under skip_bad, conversations left out, by reason."""

    @property
    def n_targets(self) -> int:
        """Targets that count."""
        return sum(int((one.targets != IGNORE).sum()) for one in self.examples)

    def plain(self) -> dict[str, int | dict[str, int]]:
        """The account, JSON-ready."""
        return {"examples": len(self.examples), "targets": self.n_targets, "answers": self.answers, "cut": self.cut,
                "tokens_cut": self.tokens_cut, "answers_cut": self.answers_cut, "answers_lost": self.answers_lost,
                "dropped": dict(self.dropped)}  # fmt: skip


def encode_conversations(
    conversations: Sequence[Conversation], chat: Chat, limits: Limits, *, reporter: Reporter = SILENT
) -> Examples:
    """All conversations as examples, in order. Says how much was cut.

    Raises `DataError` for the first of which no answer is left, or which the template refuses (with its place); `skip_bad` counts those.
    """
    found = Examples()
    with reporter.task("encoding conversations", total=len(conversations)) as bar:
        for one in conversations:
            for number in _parts(one, limits):
                try:
                    _add(found, one, number, chat, limits)
                except DataError as error:
                    if not limits.skip_bad:
                        raise DataError(error.what, where=one.where, fix=error.fix) from error
                    reason = "answer_cut_away" if isinstance(error, NothingLeft) else "refused"
                    found.dropped[reason] = found.dropped.get(reason, 0) + 1
                    if found.dropped[reason] <= SHOWN:
                        reporter.warn(f"{one.where}: {error.what}; left out")
            bar.advance()
    if found.cut:
        reporter.warn(f"{found.cut:,} of {plural(len(found.examples), 'example')} {verb(found.cut, 'are')} longer than "
                      f"{limits.max_tokens:,} tokens and lost their end: "
                      f"{plural(found.tokens_cut, 'token')}, {plural(found.answers_cut, 'answer')} in part, {found.answers_lost:,} "
                      f"wholly")  # fmt: skip
    if found.dropped:
        reporter.warn("left out: " + ", ".join(f"{why} {n:,}" for why, n in sorted(found.dropped.items())))
    if not found.examples:
        raise DataError("no conversation is left to learn from", fix="Raise max_tokens")
    return found


class NothingLeft(DataError):
    """A conversation whose answers are all beyond `max_tokens`."""


def _parts(one: Conversation, limits: Limits) -> Iterable[int]:
    """How many messages each example of a conversation has."""
    if limits.answers == "all":
        return [len(one.messages)]
    return [n for n, turn in enumerate(one.messages, 1) if turn["role"] == "assistant" and turn.get("weight") != 0]


def _add(found: Examples, one: Conversation, number: int, chat: Chat, limits: Limits) -> None:
    turns = chat.encode(one.messages[:number], one.tools, only_last=limits.answers == "each")
    example, whole = example_of(turns, limits.max_tokens, one.where, chat)
    kept = sum(answer.start < len(example.ids) + 1 for answer in turns.answers)
    found.examples.append(example)
    found.cut += example.cut > 0
    found.tokens_cut += example.cut
    found.answers += whole
    found.answers_cut += kept - whole
    found.answers_lost += len(turns.answers) - kept


def example_of(turns: Turns, most: int, where: str, chat: Chat) -> tuple[Example, int]:
    """A conversation as an example of at most `most` tokens, and how many of its answers are whole in it.

    What stands behind the last target is left out: nobody learns from it. Raises `NothingLeft` where no target is left.
    """
    ids = np.asarray(turns.ids, np.int64)
    counts = np.zeros(len(ids), bool)
    for answer in turns.answers:
        counts[answer.start : answer.stop] = True
    end = max((answer.stop for answer in turns.answers), default=0)
    stop = min(end, most + 1)
    counts[0] = False  # nothing stands before it
    if not counts[:stop].any():
        first = turns.answers[0].start if turns.answers else 0
        raise NothingLeft(
            f"the answer begins at token {first + 1:,} and at most {most:,} are read: nothing would be left to learn",
            where=where,
            fix="Raise max_tokens, shorten the conversation, or leave such out: skip_bad",
        )
    # With the end cut off, the last target kept may well stand before it.
    stop = int(np.flatnonzero(counts[:stop])[-1]) + 1
    targets = np.where(counts[1:stop], ids[1:stop], IGNORE)
    whole = sum(answer.stop <= stop for answer in turns.answers)
    size = sum(answer.bytes for answer in turns.answers if answer.stop <= stop)
    size += sum(_bytes(ids[answer.start : stop], chat) for answer in turns.answers if answer.start < stop < answer.stop)
    return Example(ids[: stop - 1], targets, where, size, cut=end - stop), whole


def _bytes(ids: Ids, chat: Chat) -> int:
    return len(chat.tokenizer.decode(ids.tolist()).encode())


class ConversationRows:
    """Batches of packed conversations for the training loop: `rows` rows a step, of `context` tokens each, positions from 0 in each
    example, `documents` keeping them apart. No state: any step's batch can be made without those before it."""

    def __init__(self, examples: Sequence[Example], context: int, rows: int, seed: int, *, shuffle: bool = True) -> None:
        """Raises `DataError` for an example longer than `context`."""
        assert examples and context > 0 and rows > 0
        self.examples, self.context, self.rows, self.seed, self.shuffle = examples, context, rows, seed, shuffle
        self.lengths = np.array([len(one.ids) for one in examples])
        longest = int(self.lengths.argmax())
        if self.lengths[longest] > context:
            raise DataError(
                f"this conversation has {self.lengths[longest]:,} tokens, and a row {context:,}", where=examples[longest].where,
                fix="Take a smaller max_tokens or a longer context",
            )  # fmt: skip
        self._by_length = np.argsort(-self.lengths, kind="stable")
        self._bins = best_fit(self.lengths[self._by_length].tolist(), context)
        self._epoch = lru_cache(maxsize=2)(self._draw)

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every example once."""
        return len(self._bins)

    @property
    def targets_per_epoch(self) -> int:
        """Targets that count."""
        return sum(int((one.targets != IGNORE).sum()) for one in self.examples)

    def _draw(self, epoch: int) -> tuple[Ids, Ids]:
        """Which example stands at each place of the order by length, and the order of the rows."""
        if not self.shuffle:
            return self._by_length, np.arange(len(self._bins))
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        ties = generator.random(len(self.lengths))
        return np.lexsort((ties, -self.lengths)), generator.permutation(len(self._bins))

    def members(self, row: int) -> list[int]:
        """The numbers of the examples in a row (counted through all epochs)."""
        epoch, number = divmod(row, len(self._bins))
        order, rows = self._epoch(epoch)
        return [int(order[place]) for place in self._bins[int(rows[number])]]

    def batch(self, step: int, first: int = 0, last: int | None = None) -> Batch:
        """Rows `first`…`last` (all, by default) of the batch of a step: its row numbers are step · rows + i."""
        numbers = range(first, self.rows if last is None else last)
        rows = [[self.examples[index] for index in self.members(step * self.rows + i)] for i in numbers] or [[]]
        ids = [[one.ids for one in row] for row in rows]
        positions, documents = places_of(ids, width=self.context)
        targets = side_by_side([[one.targets for one in row] for row in rows], IGNORE, width=self.context)
        return Batch(tensor(side_by_side(ids, width=self.context)), tensor(targets), positions, None if single(documents) else documents)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of the items, whose lengths are given falling, in bins of `capacity`: each into the fullest bin that still has room."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # room left and number of each bin, rising
    for index, length in enumerate(lengths):
        place = bisect_left(spaces, (length, -1))
        if place == len(spaces):
            bins.append([])
            room, number = capacity, len(bins) - 1
        else:
            room, number = spaces.pop(place)
        bins[number].append(index)
        if room > length:
            insort(spaces, (room - length, number))
    return bins
