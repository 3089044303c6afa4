"""`chat`: conversations, in which the model learns to say what the assistant says, and when to stop.

    records ─ conversations (corpus/conversations.py) ─ template and ids (tokenizer/chat.py) ─ examples (batches/conversations.py)

A conversation that ends with the assistant is scored (the cost of the assistant's words and end tokens, given all before them); one that
ends with somebody else is answered. Shapes: B rows, T tokens, N conversations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from wordmill.batches.batch import IGNORE, Batch
from wordmill.batches.conversations import NothingLeft, example_of
from wordmill.batches.examples import Encoded
from wordmill.core.config import Config
from wordmill.core.errors import DataError, ModelError, UsageError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.corpus.conversations import Unfit, conversation, look, question
from wordmill.generate.engine import run
from wordmill.generate.sampling import SamplingConfig
from wordmill.generate.score import counted_losses
from wordmill.models.folder import LanguageModel
from wordmill.models.grow import grow_vocabulary
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.task import LeftOut, Task, Tools
from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer.chat import Chat, save_chat
from wordmill.tokenizer.config import TURN_END, TURN_START
from wordmill.tokenizer.template import CHATML, PLAIN, Template
from wordmill.train.objectives import LossSum, counted, output_loss, read

BEFORE = "before fine-tuning"
ROWS = 16
"""Conversations that are answered side by side."""
FIX = "Mend it, or go on without such conversations: task.skip_bad=true"
SHOWN = 5


class ChatConfig(Config):
    """Settings of `chat`."""

    template: str | None = None
    """A file with a Jinja template; chatml or plain: wordmill's own, with marks of turns (added to the vocabulary where it lacks them) or
    with plain words. None: the model's own, or else the one of these that its tokenizer has the tokens for."""
    answers: Literal["all", "each"] = "all"
    """all: a conversation is one example, with all its answers. each: an example for every answer, with what stands before it, for
    templates that write earlier turns in another way than the last."""
    skip_bad: bool = False
    """Count conversations that can't be learned from, and go on, where otherwise the first is an error."""
    answer_tokens: int = Field(default=256, ge=1)
    """Tokens of an answer at most, in `predict` and in the samples of the report."""
    samples: int = Field(default=5, ge=0)
    """Held-out conversations whose last answer is written anew for the report."""


class ChatOutcomes:
    """The cost of the assistant's words in each of N conversations."""

    headline = "bits_per_byte"
    counted = "the assistant's words"
    lower_is_better = True

    def __init__(self, nats: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> None:
        """`nats`, `tokens` (end tokens with them) and UTF-8 bytes of the assistant's words, each (N,)."""
        self.nats, self.tokens, self.size = nats, tokens, size

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def loss(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.tokens.sum())

    def metrics(self, index: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """Bits per byte of the answers; loss (nats) and perplexity for each of their tokens."""
        chosen = slice(None) if index is None else index
        nats, tokens, size = (float(x[chosen].sum()) for x in (self.nats, self.tokens, self.size))
        loss = nats / tokens
        return {"bits_per_byte": nats / math.log(2) / size if size else math.nan, "loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def correct(self) -> None:
        """An answer is not right or wrong."""


class ChatTask(Task):
    """Say what the assistant says."""

    name: ClassVar[str] = "chat"
    keyed: ClassVar[str] = "question"
    Settings: ClassVar[type[Config]] = ChatConfig
    settings: ChatConfig
    generative: ClassVar[bool] = True
    before: ClassVar[str | None] = BEFORE
    at_use: ClassVar[tuple[str, ...]] = ("answer_tokens", "samples", "skip_bad")
    when_judged: ClassVar[tuple[str, ...]] = ("samples", "skip_bad")
    longest: ClassVar[int] = 1024
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "recurrent")

    def __init__(self, settings: Mapping[str, Any] | None = None, spec: dict[str, Any] | None = None) -> None:
        super().__init__(settings, spec)
        self._chat: Chat | None = None

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Turn the records of every split into conversations; see task.py."""
        self.spec = {}
        seen: dict[str, str] = {}
        for name, records in splits.items():
            self._take(records, reporter)
            turns = Counter(len([m for m in r.values["messages"] if m["role"] == "assistant"]) for r in records.records)
            several = sum(count for answers, count in turns.items() if answers > 1)
            reporter.note(f"{name}: {plural(len(records), 'conversation')}, {several:,} of them with several answers")
            keys = map(self.key, records.records)
            own = Counter(keys if self.settings.answers == "all" else set(keys))
            twice = own.total() - len(own)
            if twice > 0.01 * len(records):
                reporter.warn(f"{twice:,} of {plural(len(records), 'conversation')} of {name} {verb(twice, 'ask')} the same as another")
            shared = [key for key in own if key in seen]
            if shared:
                reporter.warn(f"{plural(len(shared), 'conversation')} of {name} {verb(len(shared), 'ask')} the same as one of "
                              f"{seen[shared[0]]}, for example "
                              f"{shared[0][:60]!r}: scores on them say little")  # fmt: skip
            seen |= dict.fromkeys(own, name)

    def check(self, records: Records, reporter: Reporter) -> None:
        """See task.py."""
        self._take(records, reporter)

    def _take(self, records: Records, reporter: Reporter) -> None:
        """Conversations in place of the records; says which formats were found and what was left out. Raises `DataError`."""
        forms: dict[tuple[str, ...], Any] = {}
        found: list[Record] = []
        dropped: Counter[str] = Counter()
        trailing = 0
        for record in records.records:
            fields = tuple(record.values)
            try:
                if fields not in forms:
                    forms[fields] = look(record)
                one, behind = conversation(record, forms[fields])
            except Unfit as error:
                if not self.settings.skip_bad:
                    raise DataError(error.what, where=record.where, fix=FIX) from None
                dropped[error.reason] += 1
                if dropped[error.reason] <= SHOWN:
                    reporter.warn(f"{record.where}: {error.what}; left out")
                continue
            trailing += behind
            tools = {"tools": one.tools} if one.tools else {}
            found += self._examples(Record({"messages": one.messages, **tools}, record.where))
        for said in dict.fromkeys(form.said for form in forms.values()):
            reporter.note(f"format: {said}")
        if dropped:
            reporter.warn(f"{plural(dropped.total(), 'conversation')} left out: "
                          f"{', '.join(f'{why} {n:,}' for why, n in sorted(dropped.items()))}")
        if trailing:
            reporter.note(f"{plural(trailing, 'turn')} after the assistant's last word {verb(trailing, 'are')} left out: nothing would "
                          f"be learned")
        if not found:
            raise DataError("there is no conversation to learn from in these files", where=", ".join(records.files))
        records.records, records.fields, records.kind = found, ["messages", "tools"], "json"

    def _examples(self, record: Record) -> list[Record]:
        """The conversation, or with answers=each its beginnings up to each answer that is learned."""
        if self.settings.answers == "all":
            return [record]
        messages, key = record.values["messages"], self.key(record)
        ends = [n for n, turn in enumerate(messages, 1) if turn["role"] == "assistant" and turn.get("weight") != 0]
        return [Record({**record.values, "messages": messages[:n], "conversation": key}, record.where) for n in ends]

    def inputs(self, records: Records) -> list[Record]:
        """What is asked in each record; an answer that stands behind it is not looked at."""
        return [self._asked(record) for record in records.records]

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """A text is what the user says; a mapping any record of a conversation."""
        if isinstance(value, str):
            return Record({"messages": [{"role": "user", "content": value}]}, where)
        return self._asked(Record(dict(value), where))

    def _asked(self, record: Record) -> Record:
        try:
            asked = question(record)
        except Unfit as error:
            raise DataError(error.what, where=record.where) from None
        tools = {"tools": asked.tools} if asked.tools else {}
        return Record({**asked.rest, "messages": asked.messages, **tools}, record.where)

    def key(self, record: Record) -> str:
        """What is said to the assistant."""
        if "conversation" in record.values:
            return str(record.values["conversation"])
        said = [turn["content"] for turn in record.values["messages"] if turn["role"] != "assistant"]
        return "\n".join(" ".join(text.split()) for text in said)

    def texts(self, record: Record) -> list[str]:
        """What everybody says."""
        return [turn["content"] for turn in record.values["messages"] if turn["content"]]

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────

    def equip(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with a template, and where `template=chatml` asks for marks that it lacks, with these. Raises `ModelError` for a
        template with which a model would never learn to stop."""
        source = self._source(tokenizer)
        if source == CHATML and self.settings.template == "chatml":
            grown = tokenizer.with_special((TURN_START, TURN_END))
            if grown.vocab_size > tokenizer.vocab_size:
                self.spec["vocabulary"] = [tokenizer.vocab_size, grown.vocab_size]
            tokenizer = grown
        try:
            chat = Chat(tokenizer, source)
            assert chat.end_ids
        except ModelError as error:
            if tokenizer.eos_id is None and source is None:
                raise ModelError(error.what, fix=f"{error.fix}, or add marks of turns to it: task.template=chatml") from error
            raise
        except DataError as error:
            if tokenizer.eos_id is None and "'eos_token'" in error.what:
                fix = "Name one as eos_token in tokenizer_config.json, or add marks of turns: task.template=chatml"
                raise ModelError("this tokenizer has no eos token, with which its chat template ends an answer", fix=fix) from error
            raise
        tokenizer.templates["default"] = chat.template.source
        return tokenizer

    def _source(self, tokenizer: Tokenizer) -> str | None:
        """The template's text; None: wordmill's, whichever fits."""
        asked = self.settings.template
        if asked is None:
            return tokenizer.chat_template
        if asked in ("chatml", "plain"):
            return CHATML if asked == "chatml" else PLAIN
        if not Path(asked).is_file():
            raise UsageError("no such file, and none of chatml and plain", where=f"task.template={asked}")
        source = Path(asked).read_text(encoding="utf-8")
        try:
            Template(source, {}).check()
        except ModelError as error:
            raise ModelError(error.what, where=asked, fix="Mend this file") from error
        return source

    def store(self, folder: Path, tokenizer: Tokenizer) -> None:
        """The tokenizer with its template, and the end of a turn among the end tokens."""
        save_chat(Chat(tokenizer), folder)

    def chat(self, tokenizer: Tokenizer) -> Chat:
        """The one way from conversations to ids."""
        if self._chat is None or self._chat.tokenizer is not tokenizer:
            self._chat = Chat(tokenizer)
        return self._chat

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """A conversation with its answers, the assistant's words and end tokens as targets; or, where it ends with somebody else, the ids
        that are asked, without targets.

        One that is too long loses its end, and raises `LeftOut` where no answer is left of it; `DataError` where the template refuses it. A
        question that is too long loses its oldest turns.
        """
        chat, messages, means = self.chat(tools.tokenizer), record.values["messages"], record.values.get("tools")
        if messages[-1]["role"] != "assistant":
            return self._prompt(record, chat, tools)
        try:
            turns = chat.encode(messages, means, only_last=self.settings.answers == "each")
            one, _ = example_of(turns, tools.max_tokens, record.where, chat)
        except ModelError as error:
            raise ModelError(error.what, where=record.where, fix=(error.fix or "").replace("answers=", "task.answers=") or None) from error
        except NothingLeft as error:
            raise LeftOut(f"too long, so that no answer begins within {tools.max_tokens:,} tokens") from error
        except DataError as error:
            if self.settings.skip_bad:
                raise LeftOut("refused by the template") from error
            raise DataError(error.what, where=record.where, fix=error.fix or FIX) from error
        return Encoded(one.ids, one.targets, extra={"bytes": np.array(one.bytes, np.float32)}, cut=one.cut)

    def _prompt(self, record: Record, chat: Chat, tools: Tools) -> Encoded:
        """What is asked, without the oldest turns where it would leave no room for an answer. Raises `DataError` for a last turn that alone
        is too long."""
        messages, means = record.values["messages"], record.values.get("tools")
        room = tools.max_tokens - min(self.settings.answer_tokens, tools.max_tokens // 2)
        head = [turn for turn in messages[:1] if turn["role"] == "system"]
        rest, whole = messages[len(head) :], None
        for start in [i for i, turn in enumerate(rest) if turn["role"] == "user"]:
            ids = chat.encode([*head, *rest[start:]], means, prompt=True).ids
            whole = len(ids) if whole is None else whole
            if len(ids) <= room:
                return Encoded(np.array(ids, np.int64), np.full(len(ids), IGNORE, np.int64), cut=whole - len(ids))
        raise DataError(f"what is asked has {len(ids):,} tokens, and {room:,} fit with room for an answer", where=record.where,
                        fix="Shorten it, or fine-tune with more --max-tokens")  # fmt: skip

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> nn.Module:
        """The language model itself, with rows for new tokens."""
        if "vocabulary" not in self.spec:
            return base
        return grow_vocabulary(base, *self.spec["vocabulary"], seed=seed)

    def objective(self, model: Any, batch: Batch, state: Any = None) -> LossSum:
        """−Σ log p(token | all before it in its conversation) over the assistant's words and end tokens."""
        return LossSum(output_loss(model, *counted(model, batch)), batch.n_targets)

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def answers(self, model: Any, batch: Batch) -> list[Any]:
        """Nats, tokens and bytes of each conversation's answers."""
        places = batch.places
        hidden, _ = read(model, batch, only=places)
        losses, counts = counted_losses(model, hidden, batch.targets, places), batch.targets != IGNORE
        found = []
        for row in range(len(batch.targets)):
            numbers = torch.zeros_like(batch.targets[row]) if batch.documents is None else batch.documents[row]
            for number in range(int(numbers.max()) + 1):
                here = numbers == number
                size = float(batch.extra["bytes"][row, number])
                found.append((float(losses[row, here].sum()), float(counts[row, here].sum()), size))
        return found

    def respond(
        self, model: nn.Module, tools: Tools, records: Sequence[Record], *, reporter: Reporter = SILENT, encoded: Sequence[Encoded] = ()
    ) -> list[Any]:
        """The cost of each conversation, or, of those that end with a question, an answer: its text and whether it came to its end."""
        if records[0].values["messages"][-1]["role"] == "assistant":
            return super().respond(model, tools, records, reporter=reporter, encoded=encoded)
        prompts = [one.ids.tolist() for one in encoded or [self.encode(record, tools, answer=False) for record in records]]
        chat, language = self.chat(tools.tokenizer), model
        ends = chat.end_ids | ({tools.tokenizer.eos_id} - {None})
        config = SamplingConfig.of({"max_tokens": self.settings.answer_tokens, "temperature": 0.0}, where="task")
        found: list[Any] = []
        with reporter.task("answering", total=len(prompts)) as bar:
            for first in range(0, len(prompts), ROWS):
                part = prompts[first : first + ROWS]
                made: list[list[int]] = [[] for _ in part]
                ended = [False] * len(part)
                for step in run(language, part, config, eos=sorted(ends)):  # type: ignore[arg-type]
                    for row, token, reason in step:
                        if reason == "eos":
                            ended[row] = True
                        else:
                            made[row].append(token)
                texts = [tools.tokenizer.decode(ids).removeprefix(chat.lead) for ids in made]
                found += list(zip(texts, ended, strict=True))
                bar.advance(len(part))
        return found

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> ChatOutcomes:
        """See task.py."""
        nats, tokens, size = np.array(answers, np.float64).T
        return ChatOutcomes(nats, tokens, size)

    def say(self, record: Record, answer: Any) -> dict[str, Any]:
        """The assistant's words; `finished` false: they were cut at `answer_tokens`."""
        return {"answer": answer[0], "finished": answer[1]}

    def samples(self, model: nn.Module, tools: Tools, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The last answer of some conversations, written by the model: of those in which the assistant doesn't go on from itself there."""
        last = ((record, record.values["messages"][-2:]) for record in records)
        chosen = [record for record, two in last if len(two) > 1 and two[0]["role"] != "assistant"][: self.settings.samples]
        asked = [Record({**record.values, "messages": record.values["messages"][:-1]}, record.where) for record in chosen]
        fitting = []
        for record, short in zip(chosen, asked, strict=True):
            with suppress(DataError):  # a question that leaves no room for an answer
                fitting.append((record, short, self.encode(short, tools, answer=False)))
        if not fitting:
            return []
        said = self.respond(model, tools, [short for _, short, _ in fitting], encoded=[one for _, _, one in fitting])
        turns = [record.values["messages"][-2:] for record, _, _ in fitting]
        return [{"asked": question["content"], "expected": answer["content"], "said": text, "finished": ended}
                for (question, answer), (text, ended) in zip(turns, said, strict=True)]  # fmt: skip

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """The conversations that the model finds hardest to follow."""
        outcomes = self.outcomes(records, answers)
        order = np.argsort(-outcomes.nats / np.maximum(1.0, outcomes.tokens))[:SHOWN]
        rows = [
            f'<tr><td class="number">{outcomes.nats[n] / outcomes.tokens[n]:.2f}</td><td>{escape(self.key(records[int(n)])[:200])}</td>'
            f"<td>{escape(records[int(n)].values['messages'][-1]['content'][:200])}</td></tr>"
            for n in order
        ]
        return (
            "<h2>Most surprising</h2><p class=sub>Where the assistant's words cost the most nats a token.</p>"
            f'<div class="card"><table><tr><th>loss</th><th>asked</th><th>expected</th></tr>{"".join(rows)}</table></div>'
        )

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """What was counted."""
        found = self.outcomes(records, answers)
        return {"answer_tokens": int(found.tokens.sum()), "answer_bytes": int(found.size.sum())}


__all__ = ["ChatConfig", "ChatOutcomes", "ChatTask"]
