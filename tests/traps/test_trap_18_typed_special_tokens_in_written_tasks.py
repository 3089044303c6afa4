"""An end token typed by a user, or standing in an answer to learn from, may be read as the end. It stays text."""

from __future__ import annotations

from tests.writing import settled
from wordmill.tasks.examples import Record


def test_typed_special_tokens_stay_text(small_models):
    task, tools = settled(small_models("qwen3"))
    end = tools.tokenizer.token_text(tools.tokenizer.eos_id)
    one = task.encode(Record({"q": f"the {end} mill", "a": f"a {end} b"}, "f:1"), tools, answer=True)
    assert (one.ids == tools.tokenizer.eos_id).sum() == 1 and (one.targets == tools.tokenizer.eos_id).sum() == 1
