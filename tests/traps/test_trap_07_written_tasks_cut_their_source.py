"""A source that is too long is quietly cut, or takes the room of its answer. It is cut first, and counted; template and answer stay
whole."""

from __future__ import annotations

import pytest

from tests.writing import settled
from wordmill.tasks.examples import Record


@pytest.mark.parametrize("family", ["t5", "qwen3"])
def test_the_source_is_cut_first_and_counted(family, small_models):
    task, tools = settled(small_models(family), 40, prompt="x {source} =>")
    long = Record({"q": "river grain " * 40, "a": "grain"}, "f:9")
    one, bare = (task.encode(long, tools, answer=answer) for answer in (True, False))
    whole = len(tools.tokenizer.encode(f"x {'river grain ' * 40} =>"))
    prompt = one.source if family == "t5" else bare.ids
    extra = 1  # the end of what an encoder reads, the start of what a decoder reads
    assert one.cut == bare.cut == whole - (len(prompt) - extra) > 0
    text = tools.tokenizer.decode(prompt.tolist())
    assert text.startswith("x river") and text.endswith(" =>"), "the template is whole"
    assert len(one.ids) <= 40 and (one.targets == tools.tokenizer.eos_id).sum() == 1
