"""Padding, or the prompts that share a batch, may change what a model writes; a batch that holds the right answers may let it read them.
Each record gets the same answer alone, among others, and when its answer is known."""

from __future__ import annotations

import pytest
import torch

from tests.writing import FAMILIES, RECORDS, settled
from wordmill.models.heads import load_base


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_the_same_alone_and_among_others(family, beams, small_models):
    folder = small_models(family)
    task, tools = settled(folder, beams=beams, max_tokens=6)
    model = task.build(load_base(folder), 0).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    together = task.respond(model, tools, RECORDS)
    assert model.training, "the mode is put back"
    assert [task.respond(model, tools, [record])[0].text for record in RECORDS] == [answer.text for answer in together]
    taught = [task.encode(record, tools, answer=True) for record in RECORDS]
    assert [a.text for a in task.respond(model, tools, RECORDS, encoded=taught)] == [a.text for a in together], "the answer isn't read"
    assert len({answer.text for answer in together}) > 1 and all(answer.tokens <= 6 for answer in together)
