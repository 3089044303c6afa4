"""What all tasks share whose answer is a text: what it takes to write, the loss, fitting prompts, groups."""

from __future__ import annotations

import json

import pytest
import torch

import wordmill
from tests.tuning import make_folder
from tests.writing import RECORDS, Echo, settled, write_pairs
from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import pack
from wordmill.cli.app import main
from wordmill.core.errors import ConfigError, ModelError, UsageError
from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.task import Tools, check_used
from wordmill.tasks.written import Asked, fitted, groups
from wordmill.tokenizer import Tokenizer


def test_what_can_not_write_is_refused(small_models):
    folder = small_models("qwen3")
    tokenizer = Tokenizer.load(folder)
    for role in ("bos", "eos"):
        tokenizer._roles[role] = None
    with pytest.raises(ModelError, match="no eos token"):
        Echo().settle(Tools(tokenizer, read_config(folder), 40), RECORDS, SILENT)
    with pytest.raises(UsageError, match="leave no room"):
        settled(small_models("qwen3"), 20, max_tokens=19)
    with pytest.raises(ConfigError, match="holds {source} once"):
        Echo({"prompt": "no place"})
    with pytest.raises(UsageError, match="length_penalty would have no effect: it is for a beam search"):
        check_used(Echo({"beams": 1, "length_penalty": 2.0}), {"beams": 1, "length_penalty": 2.0})
    check_used(Echo({"beams": 1, "length_penalty": 2.0}), {"beams": 1})  # greedy for once, of a model that was trained with a penalty
    config = read_config(small_models("lstm")).replace(bidirectional=True, lm_head=False)
    with pytest.raises(UsageError, match="reads in both directions"):
        Echo().settle(Tools(Tokenizer.load(small_models("lstm")), config, 40), RECORDS, SILENT)


def test_the_loss_counts_answers_alone_in_any_packing(small_models):
    folder = small_models("qwen3")
    task, tools = settled(folder)
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


def test_the_folder_stops_where_the_answers_end(tmp_path):
    folder = make_folder(tmp_path / "m", "qwen3")
    task = Echo()
    tools = Tools(Tokenizer.load(folder), read_config(folder).replace(eos_id=None), 40)
    task.settle(tools, RECORDS, SILENT)
    assert task.build(load_base(folder), 0).config.eos_id == tools.tokenizer.eos_id


def test_beams_can_be_others_in_use(small_models, tmp_path, capsys):
    table, run = write_pairs(tmp_path) / "train.tsv", tmp_path / "run"
    few = tmp_path / "few.tsv"
    few.write_text("".join(table.read_text(encoding="utf-8").splitlines(keepends=True)[:9]), encoding="utf-8")
    more = ["--steps", "1", "validation_share=0", "task.max_tokens=8", "--quiet"]
    assert main(["finetune", "translate", str(few), "--model", str(small_models("t5")), "-o", str(run), *more]) == 0
    capsys.readouterr()
    said = {}
    for beams in ("", "task.beams=1", "task.beams=2"):
        assert main(["evaluate", str(run), str(few), *filter(None, [beams]), "--json", "--quiet"]) == 0
        said[beams] = json.loads(capsys.readouterr().out)["details"]["beams"]
    assert said == {"": 4, "task.beams=1": 1, "task.beams=2": 2}
    assert main(["predict", str(run), str(few), "task.beams=1", "--quiet"]) == 0
    greedy = [json.loads(line)["translation"] for line in capsys.readouterr().out.splitlines()]
    model = wordmill.load(run, settings={"beams": 1})
    assert [model.predict(row.values)["translation"] for row in model.read([few])] == greedy

    def refused(words: str, *arguments: str) -> None:
        assert main([*arguments, "--quiet"]) == 2
        assert words in capsys.readouterr().err

    refused("task.prompt can't be changed any more: that was settled when the model was trained. What can be: task.beams, task.length",
            "evaluate", str(run), str(few), "task.prompt='{source}!'")  # fmt: skip
    refused("unknown setting 'beems'. Did you mean 'beams'", "evaluate", str(run), str(few), "task.beems=2")
    refused("beams: must be at least 1", "predict", str(run), str(few), "task.beams=0")
    refused("train.rows=3 can't be honoured: only settings of the task can", "predict", str(run), str(few), "train.rows=3")
    plain = str(small_models("qwen3"))
    refused("task.beams=2 can't be honoured: this model was not fine-tuned", "evaluate", plain, str(few), "task.beams=2")
    refused("no data given", "evaluate", str(run), "task.beams=2")
