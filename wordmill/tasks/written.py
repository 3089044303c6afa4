"""Tasks whose answer is a text that the model writes: what summarising, translating and generative answering share.

    encoder–decoder       the encoder reads the prompt (as the tokenizer wraps a text), the decoder writes: start │ answer, end
    decoder, LSTM, GRU    one row: start, prompt, answer, end; only the answer and its end token count in the loss

The prompt is a text with the record's source in it (`asked`); its template is settled when the model is trained and kept in `spec`, so that
use equals training, and `wordmill generate` on the folder answers the same prompt. What is too long is cut by two rules, and counted: the
source keeps its beginning, and always leaves room for the longest answer, so that a prompt is the same with and without its answer; an
answer that still doesn't fit is cut at its end, and then has no end token, which would teach the model to stop in the middle.

A task is a subclass that says `source`, `target` and, where a template of one field isn't enough, `asked`; see summarize.py.
Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from wordmill.batches.batch import IGNORE, Batch
from wordmill.batches.examples import Encoded
from wordmill.core.config import Config
from wordmill.core.errors import ModelError, UsageError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.generate.beam import BeamConfig, beam_search
from wordmill.generate.engine import run
from wordmill.generate.sampling import SamplingConfig
from wordmill.models.config import ModelConfig
from wordmill.models.folder import LanguageModel
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Task, Tools
from wordmill.tokenizer import Tokenizer
from wordmill.train.objectives import LossSum, counted, output_loss

ROWS, TOKENS = 64, 16_384
"""Most answers, and most tokens of them with their prompts, that are written side by side (beams count)."""
FIELD = "{source}"
"""What stands for the source in a template."""


class WrittenConfig(Config):
    """Settings of every task whose answer is a text."""

    prompt: str | None = None
    """What the model reads, with {source} where the source stands; None: the task's own for this kind of model."""
    beams: int = Field(default=4, ge=1)
    """Beams of the search for the likeliest answer; 1: the likeliest token each time (greedy). While training it is always 1."""
    length_penalty: float = 1.0
    """Power of its length by which an answer's log-probability is divided in a beam search: above 0 for longer answers."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of an answer, its end token included; None: a quarter more than the longest in the training examples has."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.prompt is not None and self.prompt.count(FIELD) != 1:
            raise ValueError(f"a prompt holds {FIELD} once, where the source stands")
        return self


class Asked(NamedTuple):
    """A prompt in three parts, of which the middle one may be cut."""

    before: str
    source: str
    after: str


@dataclass(frozen=True)
class Answer:
    """What the model wrote."""

    text: str
    tokens: int
    """Drawn, the end token included."""
    ended: bool
    """Whether the model ended it; otherwise it was stopped at the most tokens, or the model's last position."""
    score: float | None = None
    """Of a beam search: Σ log p in nats, divided by the length ** length_penalty."""


class Written(Task):
    """The base of tasks whose answer is a text. Beside what `Task` says, `spec` holds "prompt" (the template), "end" (the id of the token
    that ends an answer) and "most" (tokens of an answer at most)."""

    generative: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "recurrent")
    prompts: ClassVar[Mapping[bool, str]] = {True: FIELD, False: f"{FIELD}\n\n"}
    """The templates: of a model with an encoder of its own, and of one that reads and writes in one row."""
    at_use: ClassVar[tuple[str, ...]] = ("beams", "length_penalty")
    said: ClassVar[str] = "answer"
    """What `predict` calls an answer."""
    settings: WrittenConfig

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """See task.py."""
        return {"length_penalty": "it is for a beam search, and task.beams is 1"} if self.settings.beams == 1 else {}

    def source(self, record: Record) -> str:
        """The text that is answered."""
        raise NotImplementedError

    def target(self, record: Record) -> str:
        """The answer that the record gives. Raises `DataError` for a record without one."""
        raise NotImplementedError

    def asked(self, record: Record) -> Asked:
        """The prompt for a record."""
        before, _, after = str(self.spec["prompt"]).partition(FIELD)
        return Asked(before, self.source(record), after)

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, tools: Tools, records: Sequence[Record], reporter: Reporter) -> None:
        """Template, end token and room for the answers, from the model and the training examples.

        Raises `ModelError` for a tokenizer without an end token, `UsageError` for a model that can't write or when nothing of a prompt
        would be left.
        """
        config, tokenizer = tools.config, tools.tokenizer
        if not config.causal:
            raise UsageError("a model that reads in both directions can't write a text", where="--model",
                             fix="Take one with model.bidirectional=false")  # fmt: skip
        if two_sided(config) and config.decoder_start_id is None:  # type: ignore[union-attr]
            raise ModelError("config.json names no decoder_start_token_id, which the decoder starts from", where="--model")
        self.spec["end"] = tokenizer.required("eos", f"with which {self.name} ends its answers")
        self.spec["prompt"] = self.settings.prompt or self.prompts[two_sided(config)]
        lengths = [len(tokenizer.encode(self.target(record))) + len(_front(tokenizer, tools.config, self.spec["end"])) + 1
                   for record in records]  # fmt: skip
        limit = tools.max_tokens if two_sided(config) else tools.max_tokens // 2
        longest = max(lengths)
        most = self.settings.max_tokens or min(limit, longest + longest // 4)
        if most > tools.max_tokens - (0 if two_sided(config) else 2):
            raise UsageError(f"answers of {most} tokens leave no room for a prompt in {tools.max_tokens} tokens", where="task.max_tokens",
                             fix="Lower it, or raise --max-tokens")  # fmt: skip
        self.spec["most"] = most
        reporter.note(f"prompt: {self.spec['prompt']!r}; answers of up to {plural(longest, 'token')}; at most {most} are written")
        room = tools.max_tokens if two_sided(config) else most
        over = sum(length > room for length in lengths)
        if over == len(lengths) and not self.settings.max_tokens:  # else it was asked for in as many words
            raise UsageError(f"no training answer fits: the shortest has {plural(min(lengths), 'token')}, and there is room for "
                             f"{room:,}", where="--max-tokens", fix="Raise it")  # fmt: skip
        if over:
            setting = "task.max_tokens" if self.settings.max_tokens else "--max-tokens"
            reporter.warn(f"{over:,} of {plural(len(lengths), 'training answer')} {verb(over, 'are')} longer than the room that is kept "
                          f"for them; what doesn't fit "
                          f"is cut, and a cut answer teaches no end: raise {setting}")  # fmt: skip

    def encode(self, record: Record, tools: Tools, *, answer: bool) -> Encoded:
        """See the head of the file. Without `answer` the only target stands where the answer begins."""
        config, tokenizer, end = tools.config, tools.tokenizer, int(self.spec["end"])
        two = two_sided(config)
        start = config.decoder_start_id if two else tokenizer.start_id  # type: ignore[union-attr]
        front = [] if start is None else [start]
        room = tools.max_tokens - (tokenizer.wrap_size() if two else len(front) + self.spec["most"])
        prompt, cut = fitted(self.asked(record), tokenizer, room)
        source = np.array(tokenizer.wrap(prompt).ids or [end], np.int64) if two else None
        head = front if two else [*front, *prompt] or [end]
        target = [0]
        if answer:
            target = [*_front(tokenizer, config, end), *tokenizer.encode(self.target(record)), end]
            over = max(0, len(target) - (tools.max_tokens - len(head) + 1))
            target, cut = target[: len(target) - over], cut + over
        ids = np.array([*head, *target[:-1]], np.int64)
        targets = np.array([*[IGNORE] * (len(head) - 1), *target], np.int64)
        return Encoded(ids, targets, source=source, cut=cut)

    # ── model ────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, base: LanguageModel, seed: int) -> LanguageModel:
        """The model as it is, its end token the one that answers end with. Raises `UsageError` for one that has lost its output layer."""
        if not base.config.lm_head:
            raise UsageError("this model has no output layer over its vocabulary: it was fine-tuned to label texts, and can't write any",
                             where="--model", fix="Take the model that it was fine-tuned from")  # fmt: skip
        base.config = base.config.replace(eos_id=int(self.spec["end"]))  # type: ignore[assignment]
        return base

    def objective(self, model: LanguageModel, batch: Batch, state: Any = None) -> LossSum:
        """−Σ log p(token of the answer | prompt, answer before it), the end token included."""
        return LossSum(output_loss(model, *counted(model, batch)), batch.n_targets)

    # ── use ──────────────────────────────────────────────────────────────────────────────────────────────────

    def respond(
        self, model: Any, tools: Tools, records: Sequence[Record], *, reporter: Reporter = SILENT, encoded: Sequence[Encoded] = ()
    ) -> list[Any]:
        """An `Answer` to each record, by the engine of generate/: prompts of like length side by side, by beam search or greedily."""
        return self._write(model, tools, records, encoded, self.settings.beams, reporter)

    def sketch(self, model: Any, tools: Tools, records: Sequence[Record], encoded: Sequence[Encoded]) -> list[Any]:
        """As `respond`, greedily."""
        return self._write(model, tools, records, encoded, 1, SILENT)

    def _write(
        self, model: LanguageModel, tools: Tools, records: Sequence[Record], encoded: Sequence[Encoded], beams: int, reporter: Reporter
    ) -> list[Answer]:
        examples = encoded or [self.encode(record, tools, answer=False) for record in records]
        # Up to the place of the first target an example is the same with and without its answer.
        prompts = [one.ids[: int((one.targets != IGNORE).argmax()) + 1].tolist() for one in examples]
        sources = None if examples and examples[0].source is None else [one.source.tolist() for one in examples if one.source is not None]
        found: list[Any] = [None] * len(examples)
        most = min(int(self.spec["most"]), tools.config.max_positions)
        with reporter.task("writing", total=len(examples)) as bar:
            for numbers in groups([len(x) for x in sources or prompts], most, beams):
                some = None if sources is None else [sources[n] for n in numbers]
                asked = [prompts[n] for n in numbers]
                made = generated(model, asked, some, int(self.spec["end"]), most, beams, self.settings.length_penalty)
                for number, (ids, ended, score) in zip(numbers, made, strict=True):
                    text = tools.tokenizer.decode(ids[:-1] if ended else ids).strip()
                    found[number] = Answer(text, len(ids), ended, score)
                bar.advance(len(numbers))
        return found

    def say(self, record: Record, answer: Answer) -> dict[str, Any]:
        """The text; `"ended": false` where it was stopped before its end."""
        return {self.said: answer.text, **({} if answer.ended else {"ended": False})}

    def remarks(self, records: Sequence[Record], answers: Sequence[Answer]) -> list[str]:
        """How many answers were stopped before their end."""
        open_ = sum(not answer.ended for answer in answers)
        most = self.spec["most"]
        return [f"{open_:,} of {plural(len(answers), 'answer')} {verb(open_, 'were')} stopped at {plural(most, 'token')}, before the "
                f"end, and {verb(open_, 'count')} all the "
                "same "
                "(task.max_tokens)"] if open_ else []  # fmt: skip

    def details(self, records: Sequence[Record], answers: Sequence[Answer]) -> dict[str, Any]:
        """Tokens written, and how many answers were stopped before their end."""
        return {"answers_without_end": sum(not answer.ended for answer in answers), "most_tokens": self.spec["most"],
                "mean_tokens": float(np.mean([answer.tokens for answer in answers])), "beams": self.settings.beams,
                "prompt": self.spec["prompt"]}  # fmt: skip

    def describe(self) -> list[str]:
        """The prompt, for the model card."""
        prompt = self.spec["prompt"]
        return [f"It reads the prompt `{prompt!r}`, the source in the place of `{FIELD}`, and writes the answer up to its end token."]


def two_sided(config: ModelConfig) -> bool:
    """Whether an encoder of its own reads the prompt."""
    return config.kind == "encoder-decoder"


def _front(tokenizer: Tokenizer, config: ModelConfig, end: int) -> list[int]:
    """What stands before an answer as a target: of an encoder–decoder what its family puts before a text (BART's `<s>`), else nothing."""
    return list(takewhile(lambda index: index != end, tokenizer.wrap([]).ids)) if two_sided(config) else []


def fitted(asked: Asked, tokenizer: Tokenizer, room: int) -> tuple[list[int], int]:
    """The ids of a prompt in `room` tokens, and how many are left out. The source keeps as many characters from its beginning as fit; where
    even the rest is too long, its last tokens are kept. Always the ids of a text, so that whoever types the prompt gets the same."""

    def ids(characters: int) -> list[int]:
        return tokenizer.encode(asked.before + asked.source[:characters] + asked.after)

    whole = ids(len(asked.source))
    if len(whole) <= room:
        return whole, 0
    low, high, best = 0, len(asked.source), ids(0)
    middle = high * room // len(whole)
    while len(best) <= room and high - low > 1:
        middle = middle if low < middle < high else (low + high) // 2
        now = ids(middle)
        if len(now) <= room:
            low, best = middle, now
        else:
            high = middle
        middle = (low + high) // 2
    best = best[max(0, len(best) - room) :]
    return best, len(whole) - len(best)


def groups(lengths: Sequence[int], most: int, beams: int) -> Iterator[list[int]]:
    """Numbers of the prompts that are answered side by side: those of like length, as many as `ROWS` and `TOKENS` allow."""
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    start = 0
    while start < len(order):
        rows = max(1, min(ROWS, TOKENS // (lengths[order[start]] + most)) // beams)
        yield order[start : start + rows]
        start += rows


def generated(
    model: LanguageModel, prompts: Sequence[list[int]], sources: Sequence[list[int]] | None, end: int, most: int, beams: int,
    length_penalty: float,
) -> list[tuple[list[int], bool, float | None]]:  # fmt: skip
    """For each prompt the tokens written, whether they end with `end`, and of a beam search the score."""
    if beams > 1:
        how = BeamConfig(beams=beams, length_penalty=length_penalty, max_tokens=most)
        found = (answers[0] for answers in beam_search(model, prompts, how, eos=[end], sources=sources))
        return [(list(best.ids), best.reason == "eos", best.score) for best in found]
    made: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for step in run(model, prompts, SamplingConfig(temperature=0.0, max_tokens=most), eos=[end], sources=sources):
        for row, token, reason in step:
            made[row].append(token)
            ended[row] = reason == "eos"
    return [(ids, over, None) for ids, over in zip(made, ended, strict=True)]
