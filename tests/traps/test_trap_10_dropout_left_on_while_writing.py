"""Dropout left on makes what a model writes random. Two answers are identical, and training goes back to dropout after an evaluation."""

from __future__ import annotations

import pytest

from tests.writing import RECORDS, settled
from wordmill.models.heads import load_base


@pytest.mark.parametrize("beams", [1, 2])
def test_two_answers_are_identical(beams, small_models):
    folder = small_models("t5")
    task, tools = settled(folder, beams=beams, max_tokens=4)
    base = load_base(folder)
    base.set_dropout(0.5)
    model = task.build(base, 0).train()
    first, second = (task.respond(model, tools, RECORDS) for _ in range(2))
    assert first == second and all(module.training for module in model.modules())
