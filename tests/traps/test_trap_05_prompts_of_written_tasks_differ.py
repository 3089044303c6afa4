"""A model that is asked otherwise than it was trained answers worse, and nobody sees why. The prompt is the same in training, when its
answer isn't known, and when somebody types it for `wordmill generate`."""

from __future__ import annotations

import pytest

from tests.writing import FAMILIES, RECORDS, settled
from wordmill.batches.batch import IGNORE
from wordmill.generate.loaded import Loaded
from wordmill.models.heads import load_base
from wordmill.tasks.examples import Record

LONG = Record({"q": "river grain " * 40, "a": "grain"}, "f:9")


@pytest.mark.parametrize("family", FAMILIES)
def test_training_use_and_generate_ask_alike(family, small_models):
    folder = small_models(family)
    task, tools = settled(folder, prompt="x {source}\n=>\n", beams=1, max_tokens=5)
    loaded = Loaded(task.build(load_base(folder), 0), tools.tokenizer)
    for record in (*RECORDS, LONG):
        taught, bare = (task.encode(record, tools, answer=answer) for answer in (True, False))
        prompt = taught.ids[: int((taught.targets != IGNORE).argmax()) + 1].tolist()
        assert prompt == bare.ids.tolist()
        text = f"x {record.values['q']}\n=>\n"
        if record is LONG:
            text = tools.tokenizer.decode((bare.ids if taught.source is None else taught.source).tolist())
            assert text.startswith("x river") and text.endswith("\n=>\n") and taught.cut > 0
        prompts, sources = loaded.encode_inputs([text])
        assert prompts == [prompt]
        if family == "t5":
            assert sources == [taught.source.tolist()] == [bare.source.tolist()]
        said = loaded.generate(text, temperature=0.0, max_tokens=5)
        assert task.respond(loaded.model, tools, [record])[0].text == said.strip()
