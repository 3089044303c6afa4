"""Offsets that count bytes, UTF-16 units or normalised characters, or an end that is the last character, cut names in half in Chinese,
after emoji and with combining marks. Spans are offsets into the very text that was given."""

from __future__ import annotations

import numpy as np
import pytest

from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.tag import Tag
from wordmill.tasks.task import Tools
from wordmill.tokenizer import Tokenizer

TEXTS = {
    "磨坊主李明在北京。": "李明",
    "🌾👩\u200d🌾 Anna, hi": "Anna",
    "Cafe\u0301 Zoe\u0308 is open": "Zoe\u0308",
    "  two  spaces\tYork\n": "York",
    "𠮷野家 と 東京": "東京",
    "ﬁne Ǆ straße Ⅷ İstanbul": "İstanbul",
}


@pytest.mark.parametrize("text", list(TEXTS))
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_spans_come_back_as_they_were_given(text, family, small_models):
    name = TEXTS[text]
    start = text.index(name)
    record = Record({"text": text, "spans": [{"start": start, "end": start + len(name), "label": "X"}]}, "f")
    task = Tag()
    task.look({"train": Records([record], ["text", "spans"], "json", files=["f"])}, SILENT)
    folder = small_models(family)
    one = task.encode(record, Tools(Tokenizer.load(folder), read_config(folder), 64), answer=True)
    tags = one.targets[one.targets >= 0]
    said = task.say(record, (tags, np.ones(len(tags))))
    assert [(s["start"], s["end"], s["text"]) for s in said["spans"]] == [(start, start + len(name), name)]
    assert said["text"] == text
