"""Dropout left on makes a fine-tuned model's answers, and its validation scores, random. Two answers are identical, and training goes back
to dropout after an evaluation."""

from __future__ import annotations

from tests.tuning import GOOD
from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.task import Tools
from wordmill.tokenizer import Tokenizer


def test_two_answers_are_identical_and_training_goes_on_as_before(small_models):
    records = [Record({"text": f"{word} mill", "label": str(n % 2)}, "f") for n, word in enumerate(GOOD)]
    task = Classify({"dropout": 0.5})
    task.look({"train": Records(records, ["text", "label"], "json", files=["f"])}, SILENT)
    folder = small_models("bert")
    base = load_base(folder)
    base.set_dropout(0.5)
    model = task.build(base, 0).train()
    tools = Tools(Tokenizer.load(folder), read_config(folder), 64)
    first, second = (task.respond(model, tools, records) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert model.training and model.base.training
