"""A run that chooses its weights, or when to stop, by the test set reports a score that is too good. The test examples are looked at once,
after the weights are settled: without them, or with other labels on them, the very same weights come out."""

from __future__ import annotations

from tests.tuning import QUICK
from wordmill.cli.app import main
from wordmill.tasks import judge as judging
from wordmill.tasks import watch as watching


def test_the_weights_do_not_depend_on_the_test_set(reviews, small_models, tmp_path, monkeypatch):
    rows = (reviews / "test.tsv").read_text(encoding="utf-8").splitlines()
    turned = tmp_path / "turned.tsv"
    other = {"good": "bad", "bad": "good"}
    lines = [f"{text}\t{other[label]}" for text, label in (row.split("\t") for row in rows[1:])]
    turned.write_text("\n".join([rows[0], *lines]), encoding="utf-8")
    found = {}
    for name, more in {"without": [], "with": ["--test", str(reviews / "test.tsv")], "turned": ["--test", str(turned)]}.items():
        out = tmp_path / name
        files = [str(reviews / "train.tsv"), "--validation", str(reviews / "dev.tsv")]
        settings = ["--model", str(small_models("lstm")), "-o", str(out), *QUICK, "patience=1"]
        assert main(["finetune", "classify", *files, *settings, *more]) == 0
        found[name] = (out / "model" / "model.safetensors").read_bytes(), (out / "metrics.jsonl").read_text().count("\n")
    assert found["without"] == found["with"] == found["turned"]


def test_the_test_examples_are_answered_once_and_last(reviews, small_models, tmp_path, monkeypatch):
    asked = []
    judge = judging.judge
    look = watching.TaskWatch._look
    monkeypatch.setattr(
        "wordmill.tasks.finetune.judge",
        lambda task, model, tools, records, **more: asked.append(len(records)) or judge(task, model, tools, records, **more),
    )
    monkeypatch.setattr(watching.TaskWatch, "_look", lambda self, run: asked.append(-len(self.records)) or look(self, run))
    files = [str(reviews / "train.tsv"), "--validation", str(reviews / "dev.tsv"), "--test", str(reviews / "test.tsv")]
    assert main(["finetune", "classify", *files, "--model", str(small_models("lstm")), "-o", str(tmp_path / "run"), *QUICK]) == 0
    assert asked == [-30, -30, -30, -30, 30, 40]
