"""The generation engine: token ids in, token ids out, many prompts side by side.

    sources ─ encoder (only where the model has one) ─┐
    prompts ─ prefill (right-padded, position −1 for padding) ─ [ draw ─ one step of the model ] … each row leaves when it is done

Rows of a batch never see each other: they share matrix products and nothing else. A single row on a CPU takes the
lean path of `decode.py`, where nothing but the model's arithmetic is left.

Shapes: B live rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wordmill.core.errors import UsageError
from wordmill.core.progress import plural
from wordmill.generate.decode import OneRow
from wordmill.generate.sampling import Sampler, SamplingConfig
from wordmill.generate.score import without_dropout
from wordmill.models.cache import KVCache
from wordmill.models.folder import LanguageModel
from wordmill.models.masks import Memory
from wordmill.models.transformer import Transformer

Reason = Literal["eos", "stop", "length", "context"]
"""Why an answer ended: the model's end token, a stop text, max_tokens, or the last position that the model has."""

PREFILL_TOKENS = 8192
"""Most tokens (padding included) of the prompts that one forward pass reads; longer prompts are read in pieces."""


class Token(NamedTuple):
    """One new token of one prompt. `reason` is set on a prompt's last one."""

    row: int
    id: int
    reason: Reason | None


def run(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    eos: Sequence[int] = (),
    dropped: set[int] | None = None,
    sources: Sequence[Sequence[int]] | None = None,
) -> Iterator[list[Token]]:
    """Yield, step by step, the new token of every live prompt.

    `prompts` are lists of ids, none empty; of an encoder–decoder they are what the decoder starts from, and `sources` what the encoder
    reads. A token in `eos` ends its row and is yielded with reason "eos". The caller
    may add rows to `dropped` between steps (a stop text was found): they leave the batch. `config.stop` is for
    whoever turns ids into text. The model's mode (training or not) is put back at the end.

    Raises `UsageError` for a prompt or source that is empty, or too long for the model's positions.
    """
    check_prompts(model, prompts, sources)
    with without_dropout(model):
        yield from _steps(model, prompts, config, frozenset(eos), dropped if dropped is not None else set(), sources)


def check_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None) -> None:
    """Raises `UsageError` for what can't be read: see `run`."""
    limit = model.config.max_positions
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UsageError(f"prompt {row + 1} has no tokens, not even a start token")
        if len(prompt) >= limit:
            raise UsageError(
                f"prompt {row + 1} has {plural(len(prompt), 'token')}, and the model has {limit:,} positions for prompt and answer "
                f"together",
                fix="Shorten it",
            )
    if not getattr(model.config, "causal", True):
        raise UsageError("an encoder can't write text: it was not trained to go on", fix="Use it to fill gaps or to embed")
    reads = isinstance(model, Transformer) and model.encoder is not None
    if reads != (sources is not None) or (sources is not None and len(sources) != len(prompts)):
        raise UsageError("an encoder–decoder takes a source for each prompt, and no other model takes any")
    for row, source in enumerate(sources or ()):
        if not source or len(source) > limit:
            what = f"{plural(len(source), 'token')}, and the model has {limit:,} positions" if source else "no tokens"
            raise UsageError(f"source {row + 1} has {what}", fix="Shorten it" if source else "Give it some text")


def _steps(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    eos: frozenset[int],
    dropped: set[int],
    sources: Sequence[Sequence[int]] | None,
) -> Iterator[list[Token]]:
    batch = Batch(model, prompts, config.max_tokens, sources)
    sampler = Sampler(config, prompts, model.config.vocab_size, batch.device)
    made = 0
    while batch.rows:
        # Entered piece by piece: a generator must not leave it on while its caller runs.
        with torch.inference_mode():
            drawn = sampler.draw(batch.logits, batch.rows)
        made += 1
        tokens = [
            Token(row, id_, _reason(id_ in eos, made, config.max_tokens, batch.lengths[row], model.config.max_positions))
            for row, id_ in zip(batch.rows, drawn, strict=True)
        ]
        yield tokens
        keep = [i for i, token in enumerate(tokens) if token.reason is None and token.row not in dropped]
        with torch.inference_mode():
            batch.keep(keep)
            if batch.rows:
                batch.step([drawn[i] for i in keep])


def _reason(ended: bool, made: int, most: int, length: int, limit: int) -> Reason | None:
    """Why a row ends with this token, if it does; `length` counts the tokens that the model has read."""
    if ended:
        return "eos"
    if made == most:
        return "length"
    return "context" if length >= limit else None


class Batch:
    """The live rows, what the model remembers of them, and the logits (B, V) of each one's next token.

    `rows` are the live prompts' places in the list, `lengths` the tokens read of every prompt.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        sources: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.rows = list(range(len(prompts)))
        self.lengths = [len(prompt) for prompt in prompts]
        longest = max(self.lengths, default=0)
        self.slots = min(longest + max_tokens, model.config.max_positions)
        self.one: OneRow | None = None
        self.memory: Memory | None = None
        if prompts:
            with torch.inference_mode():
                if sources is not None and isinstance(model, Transformer):
                    self.memory = model.encode(*(x.to(self.device) for x in side_by_side(sources)))
                self.state = model.new_state(len(prompts), self.slots)
                self.logits = self._prefill(prompts, longest)

    def _prefill(self, prompts: Sequence[Sequence[int]], longest: int, first: int = 0) -> Tensor:
        """Read prompts, whose first tokens stand at position `first`; the logits (B, V) after each."""
        piece = max(1, PREFILL_TOKENS // len(prompts))
        last: list[Tensor | None] = [None] * len(prompts)
        for start in range(0, longest, piece):
            width = min(piece, longest - start)
            ids = torch.zeros(len(prompts), width, dtype=torch.long)
            positions = torch.full((len(prompts), width), -1, dtype=torch.long)
            for row, prompt in enumerate(prompts):
                part = prompt[start : start + width]
                ids[row, : len(part)] = torch.tensor(part, dtype=torch.long)
                positions[row, : len(part)] = torch.arange(first + start, first + start + len(part))
            ending = [row for row, prompt in enumerate(prompts) if start < len(prompt) <= start + width]
            places = torch.tensor([row * width + len(prompts[row]) - 1 - start for row in ending] or [0], device=self.device)
            hidden, self.state = self._read(ids.to(self.device), positions.to(self.device), places)
            for row, state in zip(ending, hidden, strict=False):  # where none ends, one state is there nevertheless
                last[row] = state
        return self.model.logits(torch.stack([x for x in last if x is not None]))

    def _read(self, ids: Tensor, positions: Tensor, only: Tensor | None = None) -> tuple[Tensor, Any]:
        """Hidden states, of the places `only`, and the state after all; the first call hands the decoder its source, which the state
        remembers from then on."""
        if self.memory is None:
            return self.model(ids, positions, None, self.state, only=only)
        memory, self.memory = self.memory, None
        return self.model(ids, positions, None, self.state, memory=memory, only=only)

    def extend(self, first: int, ids: Sequence[int]) -> None:
        """One row alone: read `ids` from position `first` on, in place of what was read there. A recurrent model can't go back: `first` is
        then the number of tokens that its `state` has read."""
        assert len(self.rows) == 1 and first >= 0 and ids
        if self.one is not None and isinstance(self.state, KVCache):
            self.one.give_back(self.state)
        self.one = None
        self.logits = self._prefill([ids], len(ids), first)
        self.lengths[self.rows[0]] = first + len(ids)

    def keep(self, places: Sequence[int]) -> None:
        """Let go of all rows but those at `places` among the live ones."""
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in places]
        if self.rows:
            live = torch.tensor(places, device=self.device)
            self.state.select(live)
            self.logits = self.logits[live]

    def step(self, ids: Sequence[int]) -> None:
        """Read one token a live row."""
        model, state = self.model, self.state
        alone = len(self.rows) == 1 and self.one is None
        if alone and isinstance(state, KVCache) and isinstance(model, Transformer) and OneRow.fits(model):
            self.one = OneRow(model, state, self.lengths[self.rows[0]], self.slots)
        if self.one is not None:
            self.logits = self.one.step(ids[0])[None]
        else:
            positions = torch.tensor([[self.lengths[row]] for row in self.rows], device=self.device)
            hidden, self.state = self.model(torch.tensor(ids, device=self.device)[:, None], positions, None, self.state)
            self.logits = self.model.logits(hidden[:, -1])
        for row in self.rows:
            self.lengths[row] += 1

    def branch(self, places: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Go on from the rows at `places` among the live ones, each with a token of its own; a row may be named several times (beams).
        Returns the logits (B, V)."""
        live = torch.tensor(places, device=self.device)
        self.state.select(live)
        read = [self.lengths[self.rows[place]] for place in places]
        self.rows, self.lengths = list(range(len(places))), read
        positions = torch.tensor([[length] for length in read], device=self.device)
        hidden, self.state = self._read(torch.tensor(ids, device=self.device)[:, None], positions)
        self.lengths = [length + 1 for length in read]
        return self.model.logits(hidden[:, -1])


def side_by_side(lists: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and positions (B, T) of lists of different lengths, padding (position −1) behind."""
    width = max(map(len, lists))
    ids = torch.zeros(len(lists), width, dtype=torch.long)
    positions = torch.full((len(lists), width), -1, dtype=torch.long)
    for row, part in enumerate(lists):
        ids[row, : len(part)], positions[row, : len(part)] = torch.tensor(part, dtype=torch.long), torch.arange(len(part))
    return ids, positions
