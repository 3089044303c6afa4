"""`[SEP]` typed by a user may be read as the special token, and split a text in two. It stays text, in training and in use."""

from __future__ import annotations

from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.tasks.answer import Answer
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.tag import Tag
from wordmill.tasks.task import Tools
from wordmill.tokenizer import Tokenizer


def test_it_stays_text(small_models):
    folder = small_models("bert")
    tokenizer = Tokenizer.load(folder)
    tools = Tools(tokenizer, read_config(folder), 64)
    text = "the mill [SEP] river [CLS] [MASK]"
    records = [Record({"text": text, "label": str(i)}, "f") for i in range(2)]
    classify = Classify()
    classify.look({"train": Records(records, ["text", "label"], "json", files=["f"])}, SILENT)
    tag = Tag()
    tagged = Record({"tokens": text.split(), "tags": ["B-A", *["O"] * 5]}, "f")
    tag.look({"train": Records([tagged], ["tokens", "tags"], "json", files=["f"])}, SILENT)
    for ids in (classify.encode(records[0], tools, answer=True).ids, tag.encode(tagged, tools, answer=True).ids):
        found = ids.tolist()
        assert [found.count(index) for index in (tokenizer.sep_id, tokenizer.cls_id, tokenizer.mask_id)] == [1, 1, 0]


def test_it_stays_text_in_questions_and_contexts(small_models):
    folder = small_models("bert")
    tokenizer = Tokenizer.load(folder)
    values = {"question": "which [SEP] ?", "context": "the mill [CLS] [SEP] river", "answers": [{"text": "[SEP]", "answer_start": 15}]}
    task = Answer()
    one = task.encode(Record(values, "f"), Tools(tokenizer, read_config(folder), 64), answer=True)
    found = one.ids.tolist()
    assert [found.count(index) for index in (tokenizer.sep_id, tokenizer.cls_id)] == [2, 1] and not one.pieces
    assert one.places is not None and (one.places.max(0) == len(values["context"])).any(), "the context's places reach its end"
