"""A conversation with a model: what was said so far, and what the model remembers of it.

    a message ─ the whole conversation as ids (tokenizer/chat.py) ─ what the model has read of them stays ─ the rest is read ─ answer

The ids are made anew for each answer by the one function that training uses, and compared with those read so far: as a rule the model reads
the new message alone, and where the template changed its mind about an earlier turn, it reads on from there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from wordmill.core.errors import UsageError
from wordmill.core.files import write_text
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.generate.engine import Batch, Reason, Token
from wordmill.generate.loaded import Loaded
from wordmill.generate.sampling import Sampler, SamplingConfig
from wordmill.generate.score import without_dropout
from wordmill.generate.text import TextStream
from wordmill.models.folder import LanguageModel
from wordmill.models.recurrent import RecurrentState
from wordmill.tokenizer.chat import Chat

LONGEST = 4096
"""Tokens of a conversation at most, unless told otherwise: some models have positions for far more than fits into memory."""


class Memory:
    """One row of tokens that a model has read, and can go on from."""

    def __init__(self, model: LanguageModel, context: int) -> None:
        self.model, self.context = model, context
        self.ids: list[int] = []
        """What was read."""
        self.fresh = 0
        """How many tokens of the last prompt had to be read."""
        self._batch: Batch | None = None
        self._mark: tuple[int, RecurrentState] | None = None

    def read(self, prompt: Sequence[int]) -> torch.Tensor:
        """Read what is new in a prompt; the logits (1, V) after it."""
        known = _common(self.ids, prompt[:-1])
        with torch.inference_mode():
            known = self._back_to(known)
            self.fresh = len(prompt) - known
            if self._batch is None:
                self._batch = Batch(self.model, [prompt], self.context - len(prompt))
            else:
                self.ids = []  # should reading be broken off, nothing is known to be read
                self._batch.extend(known, prompt[known:])
            self.ids = list(prompt)
            if isinstance(self._batch.state, RecurrentState):
                self._mark = len(prompt), copy.deepcopy(self._batch.state)
        return self._batch.logits

    def _back_to(self, known: int) -> int:
        """Forget what was read after the first `known` tokens. A recurrent state can't be turned back: then it is the one after the last
        prompt, or none. Returns how many tokens stay."""
        batch = self._batch
        if batch is None or not isinstance(batch.state, RecurrentState) or known == len(self.ids):
            return known
        if self._mark is not None and self._mark[0] <= known:
            batch.state = copy.deepcopy(self._mark[1])
            return self._mark[0]
        self._batch = None
        return 0

    def answer(self, prompt: Sequence[int], config: SamplingConfig, eos: frozenset[int]) -> Iterator[Token]:
        """The tokens that follow a prompt, as in `engine.run`; the caller may stop at any of them."""
        with without_dropout(self.model):
            logits = self.read(prompt)
            batch = self._batch
            assert batch is not None
            sampler = Sampler(config, [prompt], self.model.config.vocab_size, batch.device)
            for made in range(1, config.max_tokens + 1):
                with torch.inference_mode():
                    (drawn,) = sampler.draw(logits, [0])
                reason: Reason | None = "eos" if drawn in eos else "length" if made == config.max_tokens else None
                if reason is None and len(self.ids) + 1 >= self.context:
                    reason = "context"
                yield Token(0, drawn, reason)
                if reason is not None:
                    return
                with torch.inference_mode():
                    batch.step([drawn])
                self.ids.append(drawn)
                logits = batch.logits


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two lists begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


class Dialogue:
    """A conversation with a loaded model. `messages` is all that was said, as OpenAI writes it; it may be set."""

    def __init__(
        self,
        loaded: Loaded,
        config: SamplingConfig | None = None,
        *,
        system: str | None = None,
        context: int | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        """`context`: tokens of the conversation at most; by default what the model was trained with.

        Warns of a model that has no chat template. Raises `UsageError` for a model that can't go on from a text, or a context that it does
        not have; `ModelError` for one that has no token that could end an answer.
        """
        if loaded.kind not in ("decoder", "recurrent"):
            raise UsageError(f"an {loaded.kind} can't chat: it does not go on from what was said", where=loaded.folder)
        positions = loaded.config.max_positions
        if context is not None and not 2 <= context <= positions:
            raise UsageError(f"a context of {context:,} tokens does not fit: the model has {positions:,} positions", where="--context")
        self.loaded, self.config, self.reporter = loaded, config or SamplingConfig(), reporter
        self.context = context or loaded.trained_context or min(positions, LONGEST)
        self.chat = Chat(loaded.tokenizer)
        self.ends = loaded.eos | self.chat.end_ids
        self.memory = Memory(loaded.model, self.context)
        self.messages: list[dict[str, Any]] = []
        self.prompt: list[int] = []
        """The ids that the last answer went on from."""
        self.reason: Reason | None = None
        """Why the last answer ended; None: it was broken off."""
        self._forgotten = 0
        if system:
            self.system(system)
        if not self.chat.trained:
            reporter.warn("this model has no chat template, so it was not trained to chat; it is asked in wordmill's default one")

    def reset(self) -> None:
        """Begin anew; what the system says stays."""
        self.messages = [turn for turn in self.messages[:1] if turn["role"] == "system"]
        self._forgotten = 0

    def system(self, text: str) -> None:
        """Set what the system says first; "" takes it away."""
        rest = [turn for turn in self.messages if turn["role"] != "system"]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def save(self, path: str | Path) -> None:
        """Write the conversation as one line of JSON, as training reads it. Raises `UsageError` for one without an answer, of which nothing
        could be learned, for a file that is there already, and for a folder that isn't."""
        if not any(turn["role"] == "assistant" for turn in self.messages):
            raise UsageError("there is nothing to save yet: no answer was given", fix="Say something first")
        if Path(path).exists():
            raise UsageError("this file is there already", where=path, fix="Name another one")
        if not Path(path).parent.is_dir():
            raise UsageError("there is no such folder", where=Path(path).parent, fix="Make it, or name another")
        write_text(Path(path), json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")

    def say(self, text: str) -> Iterator[str]:
        """The model's answer to a message, in pieces as they come, one a token. Stop taking them, and what was said so far is the answer.

        Raises `UsageError` for a message that leaves no room for an answer; the conversation is then as it was.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            self.prompt = self._fitting()
        except Exception:
            self.messages.pop()
            raise
        yield from self._answer()

    def _answer(self) -> Iterator[str]:
        self.reason = None
        turn = sum(message["role"] == "assistant" for message in self.messages)
        config = self.config.replace(seed=self.config.seed + turn)
        stream = TextStream(self.loaded.tokenizer, self.prompt, config.stop)
        tokens = self.memory.answer(self.prompt, config, self.ends)
        try:
            for _, token, reason in tokens:
                piece = "" if reason == "eos" else stream.add(token)
                self.reason = "stop" if stream.stopped is not None else reason
                if self.reason is not None and stream.stopped is None:
                    piece += stream.end()
                yield piece  # also "" while a character is incomplete, so that the caller may stop at any token
                if self.reason is not None:
                    break
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.memory = Memory(self.loaded.model, self.context)  # half a step may have been taken
            raise
        finally:
            tokens.close()  # type: ignore[attr-defined]
            self.messages.append({"role": "assistant", "content": stream.text.removeprefix(self.chat.lead)})

    def _fitting(self) -> list[int]:
        """The prompt, without the oldest turns if it would leave no room for an answer."""
        room = self.context - min(self.config.max_tokens, self.context // 2)
        longer = f"the conversation, with room for an answer, is longer than the context of {self.context:,} tokens"
        head = [turn for turn in self.messages[:1] if turn["role"] == "system"]
        rest = self.messages[len(head) :]
        starts = [i for i, turn in enumerate(rest) if turn["role"] == "user" and i >= self._forgotten]
        before, size = self._forgotten, room
        for start in starts:
            ids = self.chat.encode([*head, *rest[start:]], prompt=True).ids
            if len(ids) <= size:
                self._forgotten = start
                if start > before:
                    self.reporter.warn(f"{longer}: the oldest {start} of "
                                       f"{plural(len(rest), 'turn')} {verb(start, 'are')} forgotten")  # fmt: skip
                return ids
            size = room // 2  # make room for some more turns, since everything is read again now
            last = ids
        if len(last) <= room:
            self._forgotten = starts[-1]
            self.reporter.warn(f"{longer}: all turns before are forgotten")
            return last
        what = f"this message has {plural(len(last), 'token')}, and {room:,} fit with room for an answer"
        raise UsageError(what, fix="Shorten it, or take a longer --context")
