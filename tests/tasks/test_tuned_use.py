"""Using fine-tuned models: what `predict`, `evaluate` and `compare` read, take and refuse."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

import wordmill
from tests.tasks.test_tag import conll  # noqa: F401
from wordmill.cli.app import main
from wordmill.core.errors import DataError, UsageError
from wordmill.core.files import read_json, write_json
from wordmill.core.progress import SILENT
from wordmill.models.folder import load_model
from wordmill.models.heads import HeadConfig, save_headed, with_head
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records, lone_texts
from wordmill.tasks.tag import Tag
from wordmill.tokenizer import Tokenizer


def made(task: str, data: Path, model: Path, out: Path, *more: str) -> Path:
    """A model that was tuned for one step."""
    arguments = ["finetune", task, str(data), "--model", str(model), "-o", str(out), "--steps", "1", "train.evaluations=1", "--quiet"]
    assert main([*arguments, *more]) == 0
    return out / "model"


def answered(capsys: Any, *words: object) -> list[dict[str, Any]]:
    """What `predict` says."""
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--quiet"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: Any, *words: object) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


@pytest.fixture(scope="session")
def tagger(conll, small_models, tmp_path_factory):  # noqa: F811
    return made("tag", conll / "train.conll", small_models("bert"), tmp_path_factory.mktemp("tagger") / "run")


@pytest.fixture(scope="session")
def classifier(reviews, small_models, tmp_path_factory):
    return made("classify", reviews / "train.tsv", small_models("bert"), tmp_path_factory.mktemp("classifier") / "run")


def from_elsewhere(place: Path, base: Path, kind: str, *labels: str, **settings: Any) -> Path:
    """A model with a head, as others write it: its labels and `settings` in config.json, and no wordmill.json."""
    save_headed(with_head(load_model(base), HeadConfig(kind=kind, labels=labels), seed=1), place)  # type: ignore[arg-type]
    write_json(place / "config.json", {**read_json(place / "config.json"), **settings})
    Tokenizer.load(base).save(place)
    (place / "wordmill.json").unlink(missing_ok=True)
    return place


@pytest.mark.parametrize(("labels", "kind"), [(["LABEL_0"], None), (["LABEL_0"], "regression"), (["x", "y"], "regression")])
def test_a_regression_from_elsewhere_is_no_classifier(labels, kind, small_models, reviews, tmp_path, capsys):
    folder = from_elsewhere(tmp_path / "model", small_models("bert"), "sequence", *labels, problem_type=kind)
    said = f"this model is a regression: its head gives {len(labels)} number{'s' if len(labels) > 1 else ''} for a text, and wordmill"
    assert said in refused(capsys, "predict", folder, reviews / "test.tsv")
    assert said in refused(capsys, "evaluate", folder, reviews / "test.tsv")


def test_a_tagger_from_elsewhere_says_what_transformers_says(small_models, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    labels = ["O", "S-PER", "B-LOC", "I-LOC", "E-LOC"]
    folder = from_elsewhere(tmp_path / "model", small_models("bert"), "token", *labels)
    words = "anna went to new york".split()
    (tmp_path / "a.txt").write_text(" ".join(words) + "\n")
    (row,) = answered(capsys, folder, tmp_path / "a.txt")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    told = transformers.AutoTokenizer.from_pretrained(folder)(words, is_split_into_words=True, return_tensors="pt")
    said = theirs(**told).logits[0].argmax(-1).tolist()
    places = told.word_ids(0)
    assert row["tags"] == [labels[said[places.index(n)]] for n in range(len(words))] and row["words"] == words
    (tmp_path / "b.jsonl").write_text(json.dumps({"words": words, "ner_tags": ["S-PER", "O", "O", "B-LOC", "E-LOC"]}) + "\n")
    assert main(["evaluate", str(folder), str(tmp_path / "b.jsonl"), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["details"]["by_class"]) == {"LOC", "PER"} and not found["baselines"]
    model = wordmill.load(folder)
    records = model.read([tmp_path / "b.jsonl"])
    right = (np.array([1, 0, 0, 2, 4]), np.ones(5))
    assert model.task.outcomes(records, [right]).metrics() == dict.fromkeys(found["metrics"], 1.0), "in whichever scheme"
    (tmp_path / "b.jsonl").write_text(json.dumps({"tokens": words, "tags": ["B-ORG", "O", "O", "O", "O"]}) + "\n")
    assert "the tag 'B-ORG' is not among" in refused(capsys, "evaluate", folder, tmp_path / "b.jsonl", "--quiet")
    (tmp_path / "b.jsonl").write_text(json.dumps({"body": "anna", "n": 1}) + "\n")
    assert "Call the words tokens" in refused(capsys, "predict", folder, tmp_path / "b.jsonl", "--quiet")


def test_a_classifier_from_elsewhere_gives_its_labels(small_models, tmp_path, capsys):
    folder = from_elsewhere(tmp_path / "model", small_models("bert"), "sequence", "no", "yes")
    (tmp_path / "a.txt").write_text("the good mill\n")
    (row,) = answered(capsys, folder, tmp_path / "a.txt")
    assert set(row["probabilities"]) == {"no", "yes"} and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("name", "separator"), [("out.csv", ","), ("OUT.TSV", "\t")])
def test_answers_are_written_as_a_table_where_the_file_is_called_one(name, separator, classifier, tagger, tmp_path, capsys):
    texts = ['a good mill, they "said"', "two\nlines\tof 水磨", ""]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"review": text, "label": None, "n": n}) + "\n" for n, text in enumerate(texts)))
    said = answered(capsys, classifier, tmp_path / "in.jsonl")
    assert main(["predict", str(classifier), str(tmp_path / "in.jsonl"), "-o", str(tmp_path / name), "--quiet"]) == 0
    with open(tmp_path / name, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter=separator))
    assert [row["review"] for row in rows] == texts and [row["n"] for row in rows] == ["0", "1", "2"]
    assert [row["predicted_label"] for row in rows] == [answer["label"] for answer in said], "the input's own label stays beside it"
    assert {row["label"] for row in rows} == {""}
    for row, answer in zip(rows, said, strict=True):
        assert {label: float(row[f"predicted_probabilities.{label}"]) for label in answer["probabilities"]} == answer["probabilities"]
    (tmp_path / "in.txt").write_text("anna went to york\n")
    (answer,) = answered(capsys, tagger, tmp_path / "in.txt")
    assert main(["predict", str(tagger), str(tmp_path / "in.txt"), "-o", str(tmp_path / name), "--quiet"]) == 0
    with open(tmp_path / name, newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle, delimiter=separator)
    assert json.loads(row["predicted_tags"]) == answer["tags"]


def test_a_table_keeps_the_inputs_columns_and_never_takes_their_files_place(classifier, tmp_path, capsys):
    rows = "review,predicted_label,predicted2_x\na good mill,old,older\n"
    (tmp_path / "in.csv").write_text(rows)
    assert main(["predict", str(classifier), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--quiet"]) == 0
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert (row["predicted_label"], row["predicted2_x"]) == ("old", "older") and row["predicted3_label"]
    for name in ("in.csv", "./in.csv"):
        said = refused(capsys, "predict", classifier, tmp_path / "in.csv", "-o", tmp_path / name)
        assert said.endswith("in.csv: the answers would take the place of their inputs. Name another file with -o")
    assert (tmp_path / "in.csv").read_text() == rows


def test_inputs_with_nothing_to_read_are_told(classifier, tagger, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"review": "a good mill"}\n{"review": " "}\n{"review": ""}\n')
    capsys.readouterr()
    assert main(["predict", str(classifier), str(tmp_path / "in.jsonl")]) == 0
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == 3 and f"2 inputs have no text (first: {tmp_path / 'in.jsonl'}:2)" in out.err
    assert main(["predict", str(tagger), str(tmp_path / "in.jsonl")]) == 0
    assert f"2 inputs have no word (first: {tmp_path / 'in.jsonl'}:2)" in capsys.readouterr().err


def test_what_is_no_input_is_refused(classifier):
    model = wordmill.load(classifier, device="cpu")
    for wrong in (None, 5):
        with pytest.raises(UsageError, match="an input is a text or a mapping"):
            model.predict(wrong)
    for nothing in ([], None, ""):
        with pytest.raises(UsageError, match="no examples given"):
            model.evaluate(nothing)
    with pytest.raises(UsageError, match="no examples given"):
        wordmill.compare(classifier, classifier, [])


def test_a_file_with_one_column_holds_the_texts(classifier, tmp_path, capsys):
    texts = ["a good mill", "the bad river by the old cold mill"]
    files = {"named.csv": ["review", *texts], "usual.csv": ["text", *texts], "other.csv": ["what_they_said", *texts], "bare.csv": texts,
             "bare.tsv": texts}  # fmt: skip
    files["a.jsonl"] = [json.dumps({"body": text}) for text in texts]
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        assert [row["input"] for row in answered(capsys, classifier, tmp_path / name)] == [{"review": text} for text in texts], name
    capsys.readouterr()
    assert main(["predict", str(classifier), str(tmp_path / "bare.csv"), "--json", "--quiet"]) == 0
    assert "bare.csv:1: 'a good mill' is taken for a text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "name"), [(Classify(spec={"columns": {"text": "review", "label": "stars"}}), "stars"),
                       (Tag(spec={"fields": {"text": "body", "spans": "ents"}}), "ents"),
                       (Tag(spec={"fields": {"tokens": "words", "tags": "ner"}}), "ner")]
)  # fmt: skip
def test_a_lone_column_of_answers_is_no_column_of_texts(task, name):
    records = Records([Record({name: "good"}, "f:2")], [name], "table", True, ["f"])
    with pytest.raises(DataError, match=f"f: the only column is '{name}', which the model answers; it reads '{task.alone}'"):
        lone_texts(records, task.alone, task.is_answer, SILENT)


def test_of_a_lone_column_of_texts_some_may_be_missing():
    values = ["the mill", None, 7]
    records = Records([Record({"body": value}, f"f:{n}") for n, value in enumerate(values)], ["body"], "json", files=["f"])
    found = lone_texts(records, "review", lambda name: False, SILENT)
    assert [record.values for record in found.records] == [{"review": value} for value in values] and found.fields == ["review"]
    lists = Records([Record({"tokens": ["the", "mill"]}, "f:1")], ["tokens"], "json", files=["f"])
    assert lone_texts(lists, "text", lambda name: False, SILENT) is lists


def test_a_missing_column_is_said_with_what_can_be_done(classifier, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("title,id\na good mill,7\n")
    said = refused(capsys, "predict", classifier, tmp_path / "a.csv", "--quiet")
    assert "there is no column 'review' here; columns: title, id. Call the columns of all files as those" in said and "task." not in said


def test_every_command_takes_a_run_folder_and_a_name_on_the_hub(classifier, small_models, reviews, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(small_models("bert"), run / "model")
    (tmp_path / "a.txt").write_text("the good mill\n")
    hub = {"org/base": run / "model", "org/tuned": classifier}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub[name]))
    for base, tuned in ((run, classifier.parent), ("org/base", "org/tuned")):
        rows = reviews / "test.tsv"
        for words in (["fill", base, "the [MASK]"], ["embed", base, tmp_path / "a.txt", "-o", tmp_path / f"{len(str(base))}.npy"],
                      ["info", base], ["finetune", "classify", rows, "--model", base, "--preview"],
                      ["predict", tuned, tmp_path / "a.txt"], ["evaluate", tuned, rows],
                      ["compare", tuned, tuned, "--data", rows]):  # fmt: skip
            assert main([*map(str, words), "--json", "--quiet"]) == 0, words
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["models"] == [str(tuned)] * 2


def test_a_txt_of_words_with_tags_is_read_as_evaluate_reads_it(tagger, conll, tmp_path, capsys):  # noqa: F811
    (tmp_path / "words.txt").write_text((conll / "test.conll").read_text())
    (tmp_path / "prose.txt").write_text("the grain went to york\nanna went with clara\n")
    assert answered(capsys, tagger, tmp_path / "words.txt") == answered(capsys, tagger, conll / "test.conll")
    rows = answered(capsys, tagger, tmp_path / "prose.txt")
    assert [row["words"] for row in rows] == ["the grain went to york".split(), "anna went with clara".split()]
