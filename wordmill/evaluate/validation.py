"""Validation while training: bits per byte of a token store, fast. The definition is that of bpb.py."""

from __future__ import annotations

import torch

from wordmill.batches.pack import CarriedRows, PackedRows
from wordmill.batches.store import TokenStore
from wordmill.generate.score import Score, counted_losses, evaluating
from wordmill.models.config import RecurrentConfig
from wordmill.models.folder import LanguageModel


def evaluate_store(
    model: LanguageModel, store: TokenStore, *, context: int, batch_tokens: int = 8192, max_targets: int | None = None
) -> Score:
    """The cost of a token store, for validation while training: packed rows of `context` targets, each on its own
    (recurrent models carry their state along `batch_tokens / context` lanes).

    With `max_targets` only that many are read, drawn from everywhere (the same each time), and the bytes are taken in
    proportion. The model's mode is put back.
    """
    rows = max(1, batch_tokens // context)
    recurrent = isinstance(model.config, RecurrentConfig)
    some = max_targets is not None  # a part of the rows stands for all only when it is drawn from everywhere
    packed = CarriedRows(store, context, rows, 0, shuffle=some) if recurrent else PackedRows(store, context, rows, 0, shuffle=some)
    steps = packed.steps_per_epoch if isinstance(packed, CarriedRows) else -(-packed.rows_per_epoch // rows)
    if max_targets is not None:
        steps = min(steps, max(1, max_targets // (rows * context)))
    device = next(model.parameters()).device
    total, targets = torch.zeros((), dtype=torch.float64, device=device), 0
    with evaluating(model):
        state = model.new_state(rows, 0) if recurrent else None
        for step in range(steps):
            last = rows if recurrent else min(rows, packed.rows_per_epoch - step * rows)
            batch = packed.batch(step, 0, last).to(device)
            hidden, state = model(batch.input_ids, batch.positions, batch.documents, state)
            total += counted_losses(model, hidden, batch.targets).sum()
            targets += batch.n_targets
    text_bytes = int(store.doc_bytes.sum())
    return Score(float(total), text_bytes if targets == store.n_tokens else round(text_bytes * targets / store.n_tokens), targets)
