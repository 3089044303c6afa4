"""A tagger that trains on or scores sub-words counts long words many times. Each word has one target, whatever number of sub-words it has,
and one tag in every score and answer."""

from __future__ import annotations

import numpy as np
import pytest

from wordmill.batches.batch import IGNORE
from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.tag import Tag
from wordmill.tasks.task import Tools
from wordmill.tokenizer import Tokenizer


@pytest.mark.parametrize("family", ["bert", "qwen3", "t5"])
def test_one_target_a_word(family, small_models):
    folder = small_models(family)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 64)
    words = ["mill", "millstonewheelwater", "a", "\u200b", "磨坊"]
    record = Record({"tokens": words, "tags": ["O", "B-X", "I-X", "O", "B-X"]}, "f")
    task = Tag()
    task.look({"train": Records([record], ["tokens", "tags"], "json", files=["f"])}, SILENT)
    one = task.encode(record, tools, answer=True)
    targets = one.targets[one.targets != IGNORE]
    assert [task.spec["labels"][n] for n in targets] == ["O", "B-X", "I-X", "O", "B-X"]
    assert len(one.ids) > len(words) + tools.tokenizer.wrap_size(), "some words are several sub-words"
    right = task.outcomes([record], [(targets, np.ones(5))])
    assert right.metrics()["f1"] == 1.0 and right.words.tolist() == [[5, 5]]
    wrong = task.outcomes([record], [(np.array([0, 0, 0, 0, targets[4]]), np.ones(5))])
    assert wrong.metrics()["recall"] == 0.5 and wrong.words.tolist() == [[3, 5]]
