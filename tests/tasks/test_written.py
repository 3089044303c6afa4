"""What all tasks share whose answer is a text: prompts, targets, cutting, the end token, groups of prompts."""

from __future__ import annotations

import pytest
import torch

from tests.tuning import make_folder
from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import pack
from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Tools
from wordmill.tasks.written import Asked, Written, WrittenConfig, fitted, groups
from wordmill.tokenizer import Tokenizer


class Echo(Written):
    name, Settings = "echo", WrittenConfig

    def source(self, record):
        return record.values["q"]

    def target(self, record):
        return record.values["a"]


RECORDS = [Record({"q": "the mill river grain", "a": "grain river"}, "f:1"), Record({"q": "flour stone", "a": "stone"}, "f:2"),
           Record({"q": "wheel water day night", "a": "night day water wheel"}, "f:3")]  # fmt: skip


@pytest.fixture
def ready(small_models):
    """`ready("t5", 40)`: the task settled for a small model, with its tools."""

    def make(family, most=40, records=RECORDS, **settings):
        folder = small_models(family)
        tools = Tools(Tokenizer.load(folder), read_config(folder), most)
        task = Echo(settings)
        task.settle(tools, records, SILENT)
        return task, tools, folder

    return make


@pytest.mark.parametrize("family", ["t5", "qwen3", "lstm"])
def test_the_answer_alone_is_learned_with_its_end_once(family, ready):
    task, tools, _ = ready(family)
    end = tools.tokenizer.eos_id
    for record in RECORDS:
        one = task.encode(record, tools, answer=True)
        learned = one.targets[one.targets != IGNORE].tolist()
        assert learned.count(end) == 1 and learned[-1] == end and one.cut == 0
        assert tools.tokenizer.decode(learned[:-1]) == record.values["a"]
        assert one.ids[len(one.ids) - len(learned) + 1 :].tolist() == learned[:-1], "each token is predicted from those before it"
        bare = task.encode(record, tools, answer=False)
        place = int((one.targets != IGNORE).argmax())
        assert one.ids[: place + 1].tolist() == bare.ids.tolist(), "the prompt is the same with and without its answer"
        if family == "t5":
            assert place == 0 and one.source.tolist() == bare.source.tolist()
            assert tools.tokenizer.decode(one.source.tolist()) == record.values["q"]
        else:
            assert tools.tokenizer.decode(one.ids[1 : place + 1].tolist()) == f"{record.values['q']}\n\n"


@pytest.mark.parametrize("family", ["t5", "qwen3"])
def test_the_source_is_cut_first_and_counted(family, ready):
    task, tools, _ = ready(family, 40, prompt="x {source} =>")
    long = Record({"q": "river grain " * 40, "a": "grain"}, "f:9")
    one, bare = (task.encode(long, tools, answer=answer) for answer in (True, False))
    whole = len(tools.tokenizer.encode(f"x {'river grain ' * 40} =>"))
    prompt = one.source if family == "t5" else bare.ids
    extra = 1  # the end of what an encoder reads, the start of what a decoder reads
    assert one.cut == bare.cut == whole - (len(prompt) - extra) > 0
    text = tools.tokenizer.decode(prompt.tolist())
    assert text.startswith("x river") and text.endswith(" =>"), "the template is whole"
    assert len(one.ids) <= 40 and (one.targets == tools.tokenizer.eos_id).sum() == 1


def test_a_cut_answer_has_no_end(ready):
    task, tools, _ = ready("qwen3", 16)
    long = Record({"q": "the mill", "a": "flour " * 60}, "f:9")
    one = task.encode(long, tools, answer=True)
    learned = one.targets[one.targets != IGNORE].tolist()
    assert tools.tokenizer.eos_id not in learned and len(one.ids) <= 16
    assert one.cut == len(tools.tokenizer.encode("flour " * 60)) + 1 - len(learned)


def test_what_can_not_write_is_refused(ready, small_models, tmp_path):
    folder = small_models("qwen3")
    tokenizer = Tokenizer.load(folder)
    for role in ("bos", "eos"):
        tokenizer._roles[role] = None
    with pytest.raises(ModelError, match="no eos token"):
        Echo().settle(Tools(tokenizer, read_config(folder), 40), RECORDS, SILENT)
    with pytest.raises(UsageError, match="leave no room"):
        ready("qwen3", 20, max_tokens=19)
    with pytest.raises(ConfigError, match="holds {source} once"):
        Echo({"prompt": "no place"})
    with pytest.raises(ConfigError, match="set beams above 1"):
        Echo({"beams": 1, "length_penalty": 2.0})
    config = read_config(small_models("lstm")).replace(bidirectional=True, lm_head=False)
    with pytest.raises(UsageError, match="reads in both directions"):
        Echo().settle(Tools(Tokenizer.load(small_models("lstm")), config, 40), RECORDS, SILENT)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["t5", "qwen3", "lstm"])
def test_an_answer_is_the_same_alone_and_among_others(family, beams, ready):
    task, tools, folder = ready(family, beams=beams, max_tokens=6)
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


def test_the_loss_counts_answers_alone_in_any_packing(ready):
    task, tools, folder = ready("qwen3")
    model = task.build(load_base(folder), 0).eval()
    examples = [task.encode(record, tools, answer=True) for record in RECORDS]
    alone = [task.objective(model, pack([one])[0]) for one in examples]
    packed = task.objective(model, pack(examples, 200)[0])
    assert packed.n_targets == sum(one.n_targets for one in alone) == sum(int((e.targets != IGNORE).sum()) for e in examples)
    torch.testing.assert_close(packed.loss_sum, sum(one.loss_sum for one in alone))


def test_a_prompt_of_any_length_fits(small_models):
    tokenizer = Tokenizer.load(small_models("qwen3"))
    for room in (3, 7, 30, 200):
        for n in range(0, 60, 7):
            ids, cut = fitted(Asked("a ", "river 磨坊🙂 " * n, " b"), tokenizer, room)
            assert len(ids) <= room and (cut == 0) == (len(tokenizer.encode("a " + "river 磨坊🙂 " * n + " b")) <= room)
            if cut and room == 30:
                kept = tokenizer.decode(ids)
                assert kept.startswith("a ") and kept.endswith(" b") and len(ids) > 20, "as much as fits"


def test_groups_hold_every_prompt_once():
    lengths = [5, 900, 20, 20, 7, 400] * 30
    found = list(groups(lengths, 100, 4))
    assert sorted(n for group in found for n in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * 4 * (max(lengths[n] for n in group) + 100) <= 16_384 for group in found)


def test_typed_special_tokens_stay_text(ready):
    task, tools, _ = ready("qwen3")
    end = tools.tokenizer.token_text(tools.tokenizer.eos_id)
    one = task.encode(Record({"q": f"the {end} mill", "a": f"a {end} b"}, "f:1"), tools, answer=True)
    assert (one.ids == tools.tokenizer.eos_id).sum() == 1 and (one.targets == tools.tokenizer.eos_id).sum() == 1


def test_the_folder_stops_where_the_answers_end(tmp_path):
    folder = make_folder(tmp_path / "m", "qwen3")
    task = Echo()
    tools = Tools(Tokenizer.load(folder), read_config(folder).replace(eos_id=None), 40)
    task.settle(tools, RECORDS, SILENT)
    assert task.build(load_base(folder), 0).config.eos_id == tools.tokenizer.eos_id
