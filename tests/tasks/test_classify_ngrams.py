"""Classifiers with n-grams beside the network: from the table to the folder, resumed, refused, and no better than honest in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wordmill
from tests.tasks.test_tuned_use import refused
from tests.tuning import QUICK, stopping, write_table
from wordmill.cli.app import main
from wordmill.core.files import read_json, write_json
from wordmill.models.heads import load_headed
from wordmill.models.ngrams import balance
from wordmill.models.tensors import open_weights


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

    with stopping(monkeypatch, lambda run, event: run.step == 5 and event == "step"):
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


@pytest.mark.parametrize("how", ["task.class_weights=balanced", "task.sampling=balanced"])
def test_a_rare_class_that_was_made_to_count_counts_in_fit_and_weighing(how, small_models, tmp_path, capsys, monkeypatch):
    """One text in eight is bad, and a word tells it half of the time: by plain likelihood none would be called so."""
    words = "mill river stone bread miller water".split()
    rows = ["text\tlabel"]
    for n in range(400):
        rare = n % 8 == 0
        sign = "cold" if n % (16 if rare else 5) == (0 if rare else 1) else "warm"
        rows.append(f"{words[n % 6]} {words[n * 7 % 5]} {sign} {n}\t{'bad' if rare else 'good'}")
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    recall, weighed = {}, []

    def balanced(network, said, answers, shares):
        weighed.append((answers, shares))
        return balance(network, said, answers, shares)

    monkeypatch.setattr("wordmill.tasks.classify.balance", balanced)
    for name, more in (("plain", []), ("balanced", [how])):
        words = ["--steps", "3", "task.ngrams=true", "--quiet", *more]
        assert tuned(tmp_path / "a.tsv", small_models("bert"), tmp_path / name, *words) == 0
        recall[name] = wordmill.load(tmp_path / name).evaluate(tmp_path / "a.tsv").plain()["details"]["by_class"]["bad"]["recall"]
        answers, shares = weighed[-1]
        bad = (answers == 0).float().mean()  # bad stands before good
        assert shares[answers == 0].mean() / shares[answers == 1].mean() == pytest.approx(float((1 - bad) / bad) if more else 1, rel=0.1)
    assert recall["balanced"] > recall["plain"] + 0.2


def test_a_model_of_noise_still_answers(small_models, tmp_path):
    rows = ["text\tlabel", *(f"mill {n * 7919 % 31} river {n * 104729 % 29}\t{'abc'[n * n * 31 % 7 % 3]}" for n in range(120))]
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    assert tuned(tmp_path / "a.tsv", small_models("bert"), tmp_path / "run", "--steps", "3", "task.ngrams=true", "-q") == 0
    model = wordmill.load(tmp_path / "run")
    assert (model.model.grams.shares > 0).all()
    assert len({answer["probability"] for answer in model.predict([f"mill {n} river" for n in range(9)])}) > 1


def test_report_and_card_say_what_they_are(reviews, small_models, tmp_path, capsys):
    assert tuned(reviews / "train.tsv", small_models("lstm"), tmp_path / "run", *QUICK) == 0
    card, report = ((tmp_path / "run" / name).read_text(encoding="utf-8") for name in ("model/README.md", "report.html"))
    model = load_headed(tmp_path / "run" / "model")
    assert model.grams is not None
    counts = " and ".join(f"{x:.2f}" for x in model.grams.shares.tolist())
    for page in (card, report):
        assert f"{len(model.grams.keys):,} n-grams of tokens" in page and f"weighed by {counts} as the validation examples" in page
    network = sum(p.numel() for name, p in model.named_parameters() if name.startswith("base."))
    assert read_json(tmp_path / "run" / "run.json")["model"]["parameters"] == network
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] == network, "there is no output layer beside the head"


def test_preview_fits_nothing(reviews, small_models, monkeypatch):
    monkeypatch.setattr("wordmill.tasks.classify.fit", None)
    assert main(["finetune", "classify", str(reviews / "train.tsv"), "--model", str(small_models("lstm")), "--preview"]) == 0


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


def test_that_they_are_left_behind_is_said(reviews, small_models, tmp_path, capsys):
    data = reviews / "train.tsv"
    assert tuned(data, small_models("bert"), tmp_path / "one", "--steps", "2", "task.ngrams=true", "--quiet") == 0
    for more, said in (([], True), (["task.ngrams=true"], False), (["--fresh"], False)):
        capsys.readouterr()
        assert tuned(data, tmp_path / "one", tmp_path / f"two{len(more)}{said}{more}", "--steps", "1", *more) == 0
        assert ("are left behind: task.ngrams=true fits new ones" in capsys.readouterr().err) == said
