"""Validation while training, fast: bits per byte of a token store (the definition is that of bpb.py) for models that predict each next
token; loss and accuracy on corrupted rows for the others, for which bits per byte are not defined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.batches.store import TokenStore
from wordmill.generate.score import Score, evaluating, target_losses
from wordmill.models.config import RecurrentConfig
from wordmill.models.folder import LanguageModel
from wordmill.train.objectives import counted

FEW, MANY = 2048, 8192
"""Tokens at once: for a CPU with a Transformer, and else."""


def tokens_at_once(device: torch.device, *, recurrent: bool = False) -> int:
    """Tokens in one forward pass that keep a device busy. A CPU is with as few as training takes at once, and more would raise the peak of
    a run's memory at its end; recurrent models work a step at a time, and want many rows."""
    return FEW if device.type == "cpu" and not recurrent else MANY


def evaluate_store(
    model: LanguageModel, store: TokenStore, *, context: int, batch_tokens: int | None = None, max_targets: int | None = None
) -> Score:
    """The cost of a token store, for validation while training: packed rows of `context` targets, each on its own
    (recurrent models carry their state along `batch_tokens / context` lanes). `batch_tokens` None: `tokens_at_once`.

    With `max_targets` only that many are read, drawn from everywhere (the same each time), and the bytes are taken in
    proportion. The model's mode is put back.
    """
    recurrent = isinstance(model.config, RecurrentConfig)
    device = next(model.parameters()).device
    rows = max(1, (batch_tokens or tokens_at_once(device, recurrent=recurrent)) // context)
    some = max_targets is not None  # a part of the rows stands for all only when it is drawn from everywhere
    packed = CarriedRows(store, context, rows, 0, shuffle=some) if recurrent else PackedRows(store, context, rows, 0, shuffle=some)
    steps = packed.steps_per_epoch if isinstance(packed, CarriedRows) else -(-packed.rows_per_epoch // rows)
    if max_targets is not None:
        steps = min(steps, max(1, max_targets // (rows * context)))
    total, targets = torch.zeros((), dtype=torch.float64, device=device), 0
    with evaluating(model):
        state = model.new_state(rows, 0) if recurrent else None
        for step in range(steps):
            last = rows if recurrent else min(rows, packed.rows_per_epoch - step * rows)
            batch = packed.batch(step, 0, last).to(device)
            places = batch.places
            hidden, state = model(batch.input_ids, batch.positions, batch.documents, state, only=places)
            total += target_losses(model, hidden, batch.targets.flatten()[places]).sum()
            targets += batch.n_targets
    text_bytes = int(store.doc_bytes.sum())
    return Score(float(total), text_bytes if targets == store.n_tokens else round(text_bytes * targets / store.n_tokens), targets)


LOGITS = 2**24
"""Logits held at a time: 64 MB in float32."""


@dataclass(frozen=True)
class RowsScore:
    """What a model made of the targets of some rows. Comparable between models with the same tokenizer, rows and corruption alone."""

    nats: float
    """−log p of all targets together."""
    targets: int
    """How many targets there were."""
    correct: int
    """How many of them the model held most likely."""

    @property
    def loss(self) -> float:
        """Nats a target."""
        return self.nats / self.targets if self.targets else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the targets that the model held most likely."""
        return self.correct / self.targets if self.targets else math.nan


def evaluate_rows(model: LanguageModel, rows: PackedRows, *, max_rows: int | None = None) -> RowsScore:
    """Loss and accuracy on one epoch of `rows` (batches/corrupted.py), `rows.rows` at a time; on at most `max_rows` of them.

    Rows are a pure function of their seed, so the same rows are corrupted in the same way at every call, and numbers of different steps
    of a run compare. With `max_rows`, shuffled rows are drawn from everywhere. The model's mode is put back.
    """
    total = rows.rows_per_epoch if max_rows is None else min(max_rows, rows.rows_per_epoch)
    device = next(model.parameters()).device
    nats, correct = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    targets = 0
    with evaluating(model):
        for step in range(-(-total // rows.rows)):
            batch = rows.batch(step, 0, min(rows.rows, total - step * rows.rows)).to(device)
            wanted = batch.n_targets
            if not wanted:
                continue
            size = max(1, LOGITS // model.config.vocab_size)
            for part, right in zip(*(x.split(size) for x in counted(model, batch)), strict=True):
                logits = model.logits(part).float() if part.dtype != torch.float64 else model.logits(part)
                nats += F.cross_entropy(logits, right, reduction="sum")
                correct += (logits.argmax(-1) == right).sum()
            targets += wanted
    return RowsScore(float(nats), targets, int(correct))
