"""Labels that are numbered once in training and again at use, in another order, give confident wrong answers. Their order is settled once,
stands in config.json, and does not depend on the order of the examples or on what a test set holds."""

from __future__ import annotations

import json

import pytest

import wordmill
from tests.tuning import QUICK
from wordmill.cli.app import main
from wordmill.core.errors import ModelError
from wordmill.core.progress import SILENT
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records


def test_the_order_does_not_depend_on_the_examples():
    rows = [{"text": f"mill {i}", "label": "zab"[i % 3]} for i in range(9)]
    found = []
    for some in (rows, rows[::-1], rows[1:] + rows[:1]):
        task = Classify()
        task.look({"train": Records([Record(row, "f") for row in some], ["text", "label"], "json", files=["f"])}, SILENT)
        found.append(task.spec["labels"])
    assert found == [["a", "b", "z"]] * 3


def test_it_is_kept_with_the_model_and_a_change_is_refused(reviews, small_models, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["finetune", "classify", str(reviews / "train.tsv"), "--model", str(small_models("lstm")), "-o", str(out), *QUICK]
    assert main(arguments) == 0
    rows = (reviews / "test.tsv").read_text(encoding="utf-8").splitlines()
    only_good = tmp_path / "good.tsv"
    only_good.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.endswith("good"))]), encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", str(out), str(only_good), "--json", "--quiet"]) == 0
    judged = json.loads(capsys.readouterr().out)
    said = wordmill.load(out).predict([row.split("\t")[0] for row in rows[1:] if row.endswith("good")])
    share = sum(one["label"] == "good" for one in said) / len(said)
    assert judged["metrics"]["accuracy"] == pytest.approx(share) and share > 0.6
    config = out / "model" / "config.json"
    values = json.loads(config.read_text())
    assert values["id2label"] == {"0": "bad", "1": "good"} and values["label2id"] == {"bad": 0, "good": 1}
    config.write_text(json.dumps({**values, "id2label": {"0": "good", "1": "bad"}}))
    with pytest.raises(ModelError, match="labels"):
        wordmill.load(out)
