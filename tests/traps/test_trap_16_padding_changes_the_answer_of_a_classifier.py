"""Padding, or the texts that share a batch or a row, may change a classifier's answer. Each text gets the same answer alone, among
others, and in any row."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.tuning import SHAPES, sentence
from wordmill.batches import examples as rows
from wordmill.batches.examples import pack
from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.task import Tools
from wordmill.tokenizer import Tokenizer


@pytest.mark.parametrize("family", list(SHAPES))
def test_alone_in_a_batch_and_in_a_row(family, small_models, monkeypatch):
    generator = random.Random(0)
    records = [Record({"text": sentence(i % 2, generator), "label": str(i % 2)}, "f") for i in range(9)]
    task = Classify()
    task.look({"train": Records(records, ["text", "label"], "json", files=["f"])}, SILENT)
    folder = small_models(family)
    model = task.build(load_base(folder), 0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 64)
    examples = [task.encode(record, tools, answer=False) for record in records]
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(rows, "WIDTHS", 1)  # alone, and nothing behind it
        alone = torch.stack([torch.tensor(task.answers(model, pack([one])[0])[0]) for one in examples])
    with torch.no_grad():
        for capacity in (0, 40, 500):
            batch, order = pack(examples, capacity)
            together = torch.tensor(np.stack(task.answers(model, batch)))
            torch.testing.assert_close(together, alone[order], atol=1e-5, rtol=1e-5)
    assert alone.std(0).min() > 1e-4, "texts differ in what the model makes of them"
