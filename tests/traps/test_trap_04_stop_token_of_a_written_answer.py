"""When the end token is not among the targets, a model that summarises or translates never stops. It is learned once an answer, by every
kind of model; an answer that was cut has none, since it would teach to stop in the middle."""

from __future__ import annotations

import pytest

from tests.writing import FAMILIES, RECORDS, settled
from wordmill.batches.batch import IGNORE
from wordmill.tasks.examples import Record


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_alone_is_learned_with_its_end_once(family, small_models):
    task, tools = settled(small_models(family))
    end = tools.tokenizer.eos_id
    for record in RECORDS:
        one = task.encode(record, tools, answer=True)
        learned = one.targets[one.targets != IGNORE].tolist()
        assert learned.count(end) == 1 and learned[-1] == end and one.cut == 0
        assert tools.tokenizer.decode(learned[:-1]) == record.values["a"]
        assert one.ids[len(one.ids) - len(learned) + 1 :].tolist() == learned[:-1], "each token is predicted from those before it"


def test_a_cut_answer_has_no_end(small_models):
    task, tools = settled(small_models("qwen3"), 16)
    long = Record({"q": "the mill", "a": "flour " * 60}, "f:9")
    one = task.encode(long, tools, answer=True)
    learned = one.targets[one.targets != IGNORE].tolist()
    assert tools.tokenizer.eos_id not in learned and len(one.ids) <= 16
    assert one.cut == len(tools.tokenizer.encode("flour " * 60)) + 1 - len(learned)
