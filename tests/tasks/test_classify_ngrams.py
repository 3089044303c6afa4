"""Classifiers with n-grams beside the network: from the table to the folder, resumed, refused, and no better than honest in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wordmill
from tests.tasks.test_tuned_use import refused
from tests.tuning import QUICK, write_table
from wordmill.cli.app import main
from wordmill.core.files import read_json, write_json
from wordmill.models.heads import load_headed
from wordmill.models.tensors import open_weights
from wordmill.tasks import finetune as tuning
from wordmill.tasks.watch import TaskWatch


def tuned(data: Path, model: object, out: Path, *more: str) -> int:
    return main(["finetune", "classify", str(data), "--model", str(model), "-o", str(out), *more])


@pytest.mark.parametrize(
    ("family", "more", "there"), [("lstm", [], True), ("lstm", ["task.ngrams=false"], False), ("bert", [], False),
                                  ("modernbert", ["task.ngrams=true"], True), ("qwen3", ["task.ngrams=true"], True)]
)  # fmt: skip
def test_with_them_or_without(family, more, there, reviews, small_models, tmp_path, capsys):
    data = reviews / "train.tsv"
    files = ["--validation", str(reviews / "dev.tsv"), "--test", str(reviews / "test.tsv")]
    assert tuned(data, small_models(family), tmp_path / "run", *files, *QUICK, *more, "--json") == 0
    out = capsys.readouterr()
    metrics, folder = json.loads(out.out), tmp_path / "run" / "model"
    assert metrics["test"]["metrics"]["accuracy"] >= 0.7
    model = load_headed(folder)
    assert (model.grams is not None) == there == ("grams.keys" in open_weights(folder))
    ours = read_json(folder / "config.json")["architectures"] == ["WordmillForSequenceClassification"]
    assert ours or not there
    if there:
        assert not torch.equal(model.grams.shares, torch.ones(2)), "settled on the validation examples"
        assert "classifier.weight" not in open_weights(folder), "transformers would open it and leave the n-grams out"
    assert main(["evaluate", str(folder), str(reviews / "test.tsv"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(metrics["test"]["metrics"])
    opened = wordmill.load(folder)
    texts = ["the good mill", "a sad day by the cold river", "no word of these was seen: 水磨", ""]
    together = opened.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        assert opened.predict(text)["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-4)
    opened.save(tmp_path / "copy")
    assert wordmill.load(tmp_path / "copy").predict(texts) == together
    assert main(["info", str(folder)]) == 0


def test_they_speak_before_the_network_has_learned_anything(reviews, small_models, tmp_path):
    """A word tells the label: one step at a rate of next to nothing is enough with them, and not without."""
    right = {}
    for ngrams in ("true", "false"):
        run, more = tmp_path / ngrams, ["--steps", "1", "--lr", "1e-9", f"task.ngrams={ngrams}", "--quiet", "--json"]
        assert tuned(reviews / "train.tsv", small_models("bert"), run, "--test", str(reviews / "test.tsv"), *more) == 0
        answers = wordmill.load(run).evaluate(reviews / "test.tsv")
        right[ngrams] = answers.metrics["accuracy"]
    assert right["true"] >= 0.9 > 0.7 >= right["false"]


@pytest.mark.parametrize("more", [[], ["task.sampling=balanced", "task.class_weights=balanced", "task.r_drop=1"]])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(more, reviews, small_models, tmp_path, monkeypatch):
    how = ["--steps", "12", "train.save_steps=3", "train.ema=0.9", "--dtype", "bf16", "--quiet", *more]
    data = reviews / "train.tsv"
    assert tuned(data, small_models("lstm"), tmp_path / "whole", *how) == 0

    class Stopping(TaskWatch):
        def __call__(self, run, event):
            super().__call__(run, event)
            if run.step == 5 and event == "step":
                run.stop = "SIGTERM"

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "TaskWatch", Stopping)
        assert tuned(data, small_models("lstm"), tmp_path / "cut", *how) == 143
    assert main(["finetune", "-o", str(tmp_path / "cut"), "--resume", "--quiet"]) == 0
    first, other = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert first.read_bytes() == other.read_bytes()


def test_several_labels_and_pairs_of_texts(small_models, tmp_path, capsys):
    words = "rain wind sun snow hail fog".split()
    rows = [{"text": f"{a} and {b}", "tags": sorted({a, b} & set(words[:3]))} for a in words for b in words for _ in range(3)]
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tuned(tmp_path / "tags.jsonl", small_models("lstm"), tmp_path / "several", "--steps", "2", "--lr", "1e-9", "--json") == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["validation"]["metrics"]["micro_f1"] > 0.9 and "n-grams: " in out.err
    pairs = [{"premise": f"the {a} comes", "hypothesis": f"no {b}", "label": str(int(a == b))} for a in words for b in words]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    assert tuned(tmp_path / "pairs.jsonl", small_models("bert"), tmp_path / "pairs", "--steps", "2", "task.ngrams=true", "--quiet") == 0
    assert wordmill.load(tmp_path / "pairs").predict([("the rain comes", "no rain")])[0]["label"] in "01"


def test_an_adapter_has_none(reviews, small_models, tmp_path, capsys):
    words = ["finetune", "classify", reviews / "train.tsv", "--model", small_models("bert"), "--lora", "4", "task.ngrams=true"]
    said = refused(capsys, *words)
    assert said == "error: task.ngrams: an adapter can't hold n-grams. Leave that away, or --lora"


def test_a_model_from_before_them_is_what_it_was(reviews, small_models, tmp_path):
    assert tuned(reviews / "train.tsv", small_models("lstm"), tmp_path / "run", *QUICK, "task.ngrams=false", "--quiet") == 0
    folder = tmp_path / "run" / "model"
    facts = read_json(folder / "wordmill.json")
    before = wordmill.load(folder).predict("the good mill")
    for part in ("spec", "settings"):
        facts["tuned"][part].pop("ngrams")
    write_json(folder / "wordmill.json", facts)
    assert wordmill.load(folder).predict("the good mill") == before


def test_a_model_with_them_learns_on_and_fits_them_anew(reviews, small_models, tmp_path):
    assert tuned(reviews / "train.tsv", small_models("lstm"), tmp_path / "one", "--steps", "2", "--quiet") == 0
    other = write_table(tmp_path / "other.tsv", 80, 9)
    assert tuned(other, tmp_path / "one", tmp_path / "two", "--steps", "2", "--quiet") == 0
    first, second = (load_headed(tmp_path / name / "model").grams for name in ("one", "two"))
    assert first is not None and second is not None and not torch.equal(first.idf[:50], second.idf[:50])
