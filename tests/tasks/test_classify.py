"""Classification from a table to predictions, for each kind of model."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import wordmill
from tests.tuning import QUICK, SHAPES, write_table
from wordmill.cli.app import main
from wordmill.core.config import parse_overrides
from wordmill.core.errors import ConfigError, DataError
from wordmill.core.progress import Reporter
from wordmill.evaluate.bootstrap import paired
from wordmill.models.heads import load_base, load_headed
from wordmill.tasks import classify as classifying
from wordmill.tasks import finetune as tuning
from wordmill.tasks.classify import Classify
from wordmill.tasks.examples import Record, Records, split_off
from wordmill.tasks.judge import Judged
from wordmill.tasks.labels import LabelOutcomes, SetOutcomes


def tuned(reviews: Path, model: object, out: Path, *more: str) -> Path:
    files = ["--validation", str(reviews / "dev.tsv"), "--test", str(reviews / "test.tsv")]
    assert main(["finetune", "classify", str(reviews / "train.tsv"), "--model", str(model), "-o", str(out), *files, *QUICK, *more]) == 0
    return out / "model"


@pytest.mark.parametrize("family", list(SHAPES))
def test_from_a_table_to_predictions(family, reviews, small_models, tmp_path, capsys):
    folder = tuned(reviews, small_models(family), tmp_path / "run", "--json")
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["test"]["metrics"]["accuracy"] >= 0.7, "one word tells the label"
    assert metrics["test"]["baselines"]["majority class"]["accuracy"] == pytest.approx(0.5)
    assert metrics["test"]["cut"] == 0
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(folder), str(reviews / "test.tsv"), "-o", str(out), "--quiet"]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    right = sum(row["label"] == row["input"]["sentiment"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics["test"]["metrics"]["accuracy"])
    assert main(["evaluate", str(folder), str(reviews / "test.tsv"), "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == pytest.approx(metrics["test"]["metrics"])
    capsys.readouterr()
    assert main(["predict", str(folder), str(reviews / "test.tsv"), "--json", "--quiet"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["answers"] == rows and (whole["inputs"], whole["cut"]) == (40, 0)
    model = wordmill.load(tmp_path / "run")
    said = model.predict([row["input"]["review"] for row in rows[:5]])
    assert [one["label"] for one in said] == [row["label"] for row in rows[:5]]
    assert sum(model.predict("the good mill")["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in report and "majority class" in report and "By class" in report
    assert not (tmp_path / "run" / "data").exists(), "validation was given"


def test_transformers_opens_the_folder_and_says_the_same(reviews, small_models, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tuned(reviews, small_models("bert"), tmp_path / "run")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the good mill", "a sad day by the cold river"]
    ours = wordmill.load(folder).predict(texts)
    for text, said in zip(texts, ours, strict=True):
        with torch.no_grad():
            p = theirs(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert {theirs.config.id2label[i]: pytest.approx(float(x), abs=1e-5) for i, x in enumerate(p)} == said["probabilities"]


def test_a_split_is_made_said_and_saved(reviews, small_models, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["finetune", "classify", str(reviews / "train.tsv"), "--model", str(small_models("bert")), "-o", str(out), "--steps", "2"]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "12 of 120 examples are set aside" in said and "text is 'review'" in said and "label is 'sentiment'" in said
    rows = [json.loads(line) for line in (out / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["sentiment"] for row in rows) == ["bad"] * 6 + ["good"] * 6
    assert main(["evaluate", str(out / "model"), str(out / "data" / "validation.jsonl"), "--quiet"]) == 0


def test_a_model_that_is_no_better_than_without_it_is_said_to_be_so(reviews, small_models, tmp_path, capsys):
    files = [str(reviews / "train.tsv"), "--test", str(reviews / "test.tsv")]
    arguments = ["finetune", "classify", *files, "--model", str(small_models("bert"))]
    assert main([*arguments, "-o", str(tmp_path / "a"), "--steps", "1", "--lr", "1e-6"]) == 0
    told = capsys.readouterr()
    assert re.search(r"warning: the model is no better than what is had without one: accuracy [\d.]+, and .+ has [\d.]+", told.err)
    assert "(- for lines of text)" in told.out
    judged = Judged(10, "perplexity", {"perplexity": 3.0}, {}, 0, 0, baselines={"before": {"perplexity": 4.0}}, lower_is_better=True)
    assert judged.not_better() is None and replace(judged, metrics={"perplexity": 4.0}).not_better() is not None
    assert main(["predict", str(tmp_path / "a" / "model"), "a fine film"]) == 2
    assert "echo … | wordmill predict MODEL -" in capsys.readouterr().err


def test_split_keeps_shares_and_equal_texts_together():
    keys = [f"text {i // 2}" for i in range(400)]
    strata = ["rare" if i // 2 < 20 else "usual" for i in range(400)]
    kept, aside = split_off(strata, keys, 0.1, seed=3)
    assert sorted(kept + aside) == list(range(400)) and not {keys[i] for i in kept} & {keys[i] for i in aside}
    assert [strata[i] for i in aside].count("rare") == 4 and len(aside) == 40
    assert (kept, aside) == split_off(strata, keys, 0.1, seed=3) != split_off(strata, keys, 0.1, seed=4)


def test_preview_shows_what_the_model_sees(reviews, small_models, capsys):
    arguments = ["finetune", "classify", str(reviews / "train.tsv"), "--model", str(small_models("bert")), "--preview", "--quiet"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["examples"][0]
    assert first["tokens"][0] == "[CLS]" and first["tokens"][-1] == "[SEP]" and first["targets"].count(-100) == len(first["ids"]) - 1
    assert found["splits"]["train"]["labels"] == {"bad": 54, "good": 54}
    assert main(arguments) == 0
    assert "‹[CLS]→bad›" in capsys.readouterr().out


def test_preview_names_all_labels_of_a_text(small_models, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "the mill {n}", "labels": {["[]", "[3, 5]"][n % 2]}}}\n' for n in range(20)), encoding="utf-8")
    assert main(["finetune", "classify", str(path), "--model", str(small_models("bert")), "--preview", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "‹[CLS]→no label› the" in said and "‹[CLS]→3, 5› the" in said


def look(rows, fields, **settings):
    task = Classify(settings)
    reporter = Reporter(quiet=True)
    task.look({"train": Records([Record(row, f"f:{n}") for n, row in enumerate(rows, 1)], fields, "json", files=["f"])}, reporter)
    return task, reporter


def test_several_labels_and_their_loss(tiny_tokenizer, make_model):
    rows = [{"text": f"mill {i}", "labels": [["wet"], ["wet", "old"], [], ["old"]][i % 4]} for i in range(12)]
    task, _ = look(rows, ["text", "labels"])
    assert task.spec["multi_label"] and task.spec["labels"] == ["old", "wet"]
    from wordmill.batches.examples import pack
    from wordmill.tasks.task import Tools

    base = make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    model = task.build(base, 0).eval()
    tools = Tools(tiny_tokenizer, base.config, 64)
    examples = [task.encode(Record(row, "f"), tools, answer=True) for row in rows[:4]]
    batch, order = pack(examples, 200)
    found = task.objective(model, batch)
    logits = model(batch)
    wanted = torch.tensor([[("old" in rows[i]["labels"]), ("wet" in rows[i]["labels"])] for i in order], dtype=torch.float32)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
    torch.testing.assert_close(found.loss_sum, expected)
    assert found.n_targets == 4


@pytest.mark.parametrize("several", [False, True])
def test_r_drop_is_the_loss_of_two_readings_and_how_far_apart_they_are(tiny_tokenizer, make_model, several):
    from wordmill.batches.examples import pack
    from wordmill.tasks.task import Tools

    rows = [{"text": f"mill {i}", "labels": [["wet"], ["wet", "old"], [], ["old"]][i % 4]} for i in range(8)] if several else [
        {"text": f"mill {i}", "labels": ["wet", "old", "new"][i % 3]} for i in range(9)]  # fmt: skip
    task, _ = look(rows, ["text", "labels"], r_drop=0.7, label="labels", dropout=0.4)
    base = make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    model = task.build(base, 0).double()
    examples = [task.encode(Record(row, "f"), Tools(tiny_tokenizer, base.config, 64), answer=True) for row in rows]
    batch, _ = pack(examples, 200)
    model.eval()
    plain = task.objective(model, batch).loss_sum.item()
    model.train()
    torch.manual_seed(3)
    found = task.objective(model, batch).loss_sum.item()
    torch.manual_seed(3)
    one, other = (model(batch).detach() for _ in range(2))
    task.settings = task.settings.replace(r_drop=0.0)
    torch.manual_seed(3)
    losses = [task.objective(model, batch).loss_sum.item() for _ in range(2)]
    apart = 0.0
    for a, b in zip(one, other, strict=True):
        if several:
            pairs = [(torch.stack([x, 1 - x]), torch.stack([y, 1 - y])) for x, y in zip(a.sigmoid(), b.sigmoid(), strict=True)]
        else:
            pairs = [(a.softmax(0), b.softmax(0))]
        apart += sum(((p * (p / q).log()).sum().item() + (q * (q / p).log()).sum().item()) / 2 for p, q in pairs) / len(pairs)
    assert apart > 0 and len({round(x, 4) for x in (plain, *losses)}) == 3
    assert found == pytest.approx(sum(losses) / 2 + 0.7 * apart, rel=1e-5)


def test_baselines_of_several_labels():
    pytest.importorskip("sklearn")
    words = {"wet": "river rain", "old": "ruin stone", "all": ""}
    rows = [{"text": f"mill {' '.join(words[k] for k in labels)} {i}", "labels": [*labels, "all"]}
            for i, labels in enumerate([["wet"], ["wet", "old"], [], ["old"]] * 10)]  # fmt: skip
    task, reporter = look(rows, ["text", "labels"])
    records = [Record(row, "f") for row in rows]
    found = task.baselines(records[:28], records[28:], reporter)
    assert list(found) == ["majority of each label", "TF-IDF + logistic regression"]
    assert found["TF-IDF + logistic regression"].metrics()["exact"] == 1.0
    assert found["majority of each label"].metrics()["micro_f1"] == pytest.approx(2 * 0.5 / 1.5)  # "all" alone: precision 1, recall 1/2


def test_calibration_by_bins():
    outcomes = LabelOutcomes(["a", "b"], np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]),
                             np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.45, 0.55]]))  # fmt: skip
    rows = outcomes.calibration()
    assert [row["examples"] for row in rows] == [1, 3]
    assert [row["sure"] for row in rows] == pytest.approx([0.55, 0.9]) and [row["right"] for row in rows] == pytest.approx([1.0, 2 / 3])
    assert outcomes.calibration_error() == pytest.approx(0.25 * 0.45 + 0.75 * (0.9 - 2 / 3))


def test_the_same_shape_with_new_weights(reviews, small_models, tmp_path, capsys):
    folder = small_models("bert")
    data = [str(reviews / "train.tsv"), "--validation", str(reviews / "dev.tsv"), "--model", str(folder), "--steps", "1", "--quiet"]
    first = {}
    for name, more in (("tuned", []), ("fresh", ["--fresh"]), ("other", ["--fresh", "--seed", "1"])):
        assert main(["finetune", "classify", *data, *more, "--lr", "1e-9", "-o", str(tmp_path / name)]) == 0
        first[name] = load_headed(tmp_path / name / "model").base.state_dict()
        assert (tmp_path / name / "model" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    given = load_base(folder).state_dict()
    name = next(name for name in given if name.endswith("weight") and given[name].ndim == 2 and name in first["fresh"])
    torch.testing.assert_close(first["tuned"][name], given[name], atol=1e-6, rtol=0)
    assert (first["other"][name] - first["fresh"][name]).abs().mean() > 1e-3
    assert {k: v.shape for k, v in first["fresh"].items()} == {k: v.shape for k, v in first["tuned"].items()}
    capsys.readouterr()
    assert main(["finetune", "classify", *data[:3], "--model", "bert", "--fresh"]) == 2
    assert "--fresh" in capsys.readouterr().err


def test_class_weights_average_one_and_weigh_classes_alike():
    rows = [{"text": f"mill {i}", "label": "rare" if i % 10 == 0 else "usual"} for i in range(50)]
    task, _ = look(rows, ["text", "label"], class_weights="balanced", sampling="balanced")
    records = [Record(row, "f") for row in rows]
    task.weigh(records)
    weights = dict(zip(task.spec["labels"], task.spec["weights"], strict=True))
    assert 5 * weights["rare"] == pytest.approx(45 * weights["usual"])
    assert (5 * weights["rare"] + 45 * weights["usual"]) / 50 == pytest.approx(1)
    shares = task.shares(records)
    assert shares[[row["label"] == "rare" for row in rows]].sum() == pytest.approx(shares.sum() / 2)


def test_pairs_are_found_and_told_apart(small_models, capsys):
    rows = [{"premise": f"mill {i}", "hypothesis": "river " * (i % 3 + 1), "label": i % 2} for i in range(20)]
    task, _ = look(rows, ["premise", "hypothesis", "label"])
    assert task.spec["columns"] == {"text": "premise", "pair": "hypothesis", "label": "label"} and task.spec["labels"] == ["0", "1"]
    from wordmill.models.folder import read_config
    from wordmill.tasks.task import Tools
    from wordmill.tokenizer import Tokenizer

    folder = small_models("bert")
    tokenizer = Tokenizer.load(folder)
    one = task.encode(Record(rows[2], "f"), Tools(tokenizer, read_config(folder), 12), answer=True)
    assert len(one.ids) == 12 and one.cut > 0
    assert one.types is not None and list(one.ids).count(tokenizer.sep_id) == 2
    first_end = list(one.ids).index(tokenizer.sep_id)
    assert one.types.tolist() == [0] * (first_end + 1) + [1] * (11 - first_end)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        (["index", "question", "sentence", "label"], {}, ("question", "sentence")),
        (["pair_ID", "sentence_A", "sentence_B", "label"], {}, ("sentence_A", "sentence_B")),
        (["S1", "s2", "label"], {}, ("S1", "s2")),
        (["Text1", "Text2", "label"], {}, ("Text1", "Text2")),
        (["text_b", "text_a", "label"], {}, ("text_a", "text_b")),
        (["question", "passage", "label"], {}, ("question", "passage")),
        (["question", "sentence", "label"], {"pair": ""}, ("sentence", None)),
        (["question", "sentence", "label"], {"text": "sentence"}, ("sentence", None)),
        (["question", "sentence", "label"], {"pair": "sentence"}, ("question", "sentence")),
        (["question", "sentence", "label"], {"pair": "question"}, ("sentence", "question")),
        (["question", "sentence", "label"], {"label": "sentence"}, ("question", None)),
    ],
)
def test_two_texts_are_found_by_their_names(fields, settings, expected):
    rows = [{name: f"{name} {i % 2}" for name in fields} for i in range(12)]
    task, _ = look(rows, fields, **settings)
    assert (task.spec["columns"]["text"], task.spec["columns"].get("pair")) == expected


def test_one_column_is_not_both_texts():
    rows = [{"text": f"mill {i}", "label": "xy"[i % 2]} for i in range(6)]
    with pytest.raises(DataError, match="pair and text can't both be the column 'text'"):
        look(rows, ["text", "label"], text="text", pair="text")


@pytest.mark.parametrize(("pair", "found"), [("hypothesis", "hypothesis"), ("", None), ("null", "hypothesis"), ("note", "note")])
def test_which_column_is_the_pair_can_be_said_and_that_none_is(pair, found):
    rows = [{"premise": f"mill {i}", "hypothesis": "river", "note": "x" * (i % 3), "label": i % 2} for i in range(20)]
    task, _ = look(rows, list(rows[0]), **parse_overrides([f"pair={pair}"]))
    assert task.spec["columns"].get("pair") == found


@pytest.mark.parametrize("separator", [" ", "|"])
def test_what_separates_labels_can_be_any_sign_but_nothing(separator):
    rows = [{"text": f"mill {i}", "labels": separator.join("xy"[: 1 + i % 2])} for i in range(6)]
    found = parse_overrides(["multi_label=true", f"separator={separator}"])
    assert look(rows, ["text", "labels"], **found)[0].spec["labels"] == ["x", "y"]
    with pytest.raises(ConfigError, match="separator: must be no shorter than 1"):
        Classify(parse_overrides(["multi_label=true", "separator="]))


def test_labels_are_sorted_as_people_count():
    rows = [{"text": f"mill {i}", "stars": float(i % 12)} for i in range(48)]
    task, _ = look(rows, ["text", "stars"])
    assert task.spec["labels"] == [str(i) for i in range(12)]


def test_a_list_among_labels_that_are_none_is_an_error():
    rows = [{"text": f"mill {i}", "label": "xy"[i % 2]} for i in range(6)]
    with pytest.raises(DataError, match=r"f:7: the label \['x', 'y'\] is a list, unlike most others. Write all labels as lists"):
        look([*rows, {"text": "river", "label": ["x", "y"]}], ["text", "label"])
    lists = [{**row, "label": [row["label"]]} for row in rows]
    with pytest.raises(DataError, match="f:1: the label 'x' is no list, unlike most others"):
        look([{"text": "river", "label": "x"}, *lists], ["text", "label"])
    assert look(lists, ["text", "label"])[0].spec["multi_label"]
    assert look([*rows, *lists], ["text", "label"], multi_label=True)[0].spec["labels"] == ["x", "y"], "as asked"
    with pytest.raises(DataError, match=r"f:7: a label is a word or a number, not \['x', 'y'\]"):
        look([*rows, {"text": "river", "label": ["x", "y"]}], ["text", "label"], multi_label=False)


@pytest.mark.parametrize("label", [["x", None], [["x"]], [{"name": "x"}], {"x": 1}])
def test_what_is_no_label_is_an_error(label):
    rows = [{"text": f"mill {i}", "label": ["xy"[i % 2]]} for i in range(6)]
    with pytest.raises(DataError, match=f"f:7: labels are words or numbers in a list, not {re.escape(repr(label))}"):
        look([*rows, {"text": "river", "label": label}], ["text", "label"], multi_label=True)


def test_an_example_without_a_field_is_named_with_those_that_it_has():
    rows = [{"text": f"mill {i}", "label": "xy"[i % 2]} for i in range(6)]
    with pytest.raises(DataError, match="f:7: this example has no 'label'; it has 'text'"):
        look([*rows, {"text": "river"}], ["text", "label"])


@pytest.mark.parametrize(
    ("value", "said"), [(["a", "b"], r"a list: \['a', 'b'\]"), ({"en": "a"}, "an object: {'en': 'a'}"), (b"a", "bytes: b'a'")]
)
def test_what_is_no_text_is_an_error(value, said):
    rows = [{"text": f"mill {i}", "body": "x", "label": "xy"[i % 2]} for i in range(6)]
    bad = {**rows[0], "text": value}
    with pytest.raises(DataError, match=rf"f:7: the text in column 'text' is {said}.* another column \(task.text=NAME\): body"):
        look([*rows, bad], ["text", "body", "label"])
    with pytest.raises(DataError, match=r"f:1: the second text in column 'body' is"):
        look([{**bad, "text": "a", "body": value}, *rows], ["text", "body", "label"], pair="body")
    task, _ = look(rows, ["text", "body", "label"])
    assert task.texts(Record({"text": 7.5}, "f")) == ["7.5"] and task.texts(Record({"text": None}, "f")) == [""]
    with pytest.raises(DataError, match="input 1: the text in column 'text' is"):
        task.texts(task.as_record({"text": value}, "input 1"))


def test_scores_agree_with_their_definitions():
    truth, said = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    p = np.full((5, 3), 0.1)
    p[np.arange(5), said] = 0.8
    outcomes = LabelOutcomes(["a", "b", "c"], truth, said, p)
    assert outcomes.metrics() == pytest.approx({"accuracy": 0.6, "macro_f1": (0.5 + 0.8 + 0) / 3})
    assert outcomes.calibration_error() == pytest.approx(0.2)
    assert outcomes.confusion().tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    sets = SetOutcomes(["a", "b"], np.array([[1, 0], [1, 1]], bool), np.array([[1, 1], [1, 0]], bool))
    assert sets.metrics() == pytest.approx({"micro_f1": 4 / 6, "macro_f1": 0.5, "exact": 0.0})


def test_balanced_order_and_packing_waste_little(reviews, small_models):
    from wordmill.batches.examples import Encoded, ExampleRows, balanced

    generator = np.random.default_rng(0)
    examples = [Encoded(np.arange(n), np.full(n, -100)) for n in generator.integers(4, 60, 500)]
    rows = ExampleRows(examples, 32, 1, capacity=256)
    padding = sum(rows.batch(step).n_padding for step in range(rows.steps_per_epoch))
    tokens = sum(rows.batch(step).n_tokens for step in range(rows.steps_per_epoch))
    assert tokens == sum(len(e.ids) for e in examples), "each example once an epoch, none cut"
    assert padding < 0.05 * tokens
    shapes = {tuple(rows.batch(step).input_ids.shape) for step in range(rows.steps_per_epoch)}
    assert {width % 8 for _, width in shapes} == {0}, "few shapes: the library keeps what it compiles for each"
    seen = sorted(i for step in range(rows.steps_per_epoch) for i in rows.chosen(step))
    assert seen == list(range(500)) and rows.chosen(3) != rows.chosen(3 + rows.steps_per_epoch)
    assert balanced([5, 3, 3, 2], 100) == [[0, 1, 2, 3]] and math.ceil(13 / 6) <= len(balanced([5, 3, 3, 2], 6)) <= 3


def test_python_interface_and_seeds(reviews, small_models, tmp_path):

    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("body\ngood\nbad mill\n", encoding="utf-8")
    common = {
        "task": "classify",
        "data": reviews / "train.tsv",
        "model": small_models("bert"),
        "steps": 3,
        "validation": reviews / "dev.tsv",
    }
    run = wordmill.finetune_seeds(2, out=tmp_path / "seeds", **common)
    scores = run.metrics["validation"]["accuracy"]
    assert len(scores["values"]) == 2 and scores["mean"] == pytest.approx(sum(scores["values"]) / 2)
    assert wordmill.load(run.model_folder).predict(["a good mill"])[0]["label"] in ("good", "bad")
    compared = wordmill.compare(tmp_path / "seeds" / "seed-0", tmp_path / "seeds" / "seed-1", reviews / "test.tsv")
    assert compared.examples == 40 and compared.low <= compared.difference <= compared.high and 0 <= compared.p_value <= 1
    with pytest.raises(DataError, match=r"seed-0 reads it"):
        wordmill.compare(tmp_path / "seeds" / "seed-0", tmp_path / "seeds" / "seed-1", unlabelled)


def test_the_regression_beside_the_scores_is_fitted_once(reviews, small_models, tmp_path, monkeypatch):
    fitted, fit = [], classifying.tfidf_classifier
    monkeypatch.setattr(classifying, "tfidf_classifier", lambda train, *more: fitted.append(len(train)) or fit(train, *more))
    files = {"validation": reviews / "dev.tsv", "test": reviews / "test.tsv"}
    run = wordmill.finetune("classify", reviews / "train.tsv", model=small_models("bert"), out=tmp_path / "run", steps=2, **files)
    assert fitted == [120]
    for split, n in (("validation", 30), ("test", 40)):
        judged = run.metrics[split]
        assert judged["examples"] == n and judged["baselines"]["TF-IDF + logistic regression"]["accuracy"] > 0.7


def test_seeds_and_baselines_share_one_split(reviews, small_models, tmp_path):
    from wordmill.tasks.seeds import finetune_seeds

    files = {"data": reviews / "train.tsv", "test": reviews / "test.tsv"}
    run = finetune_seeds(2, out=tmp_path / "seeds", task="classify", model=small_models("bert"), steps=3, **files)
    first, second = (tmp_path / "seeds" / f"seed-{n}" for n in (0, 1))
    assert len({(place / "data" / "validation.jsonl").read_text() for place in (first, second)}) == 1
    told = json.loads((first / "run.json").read_text())["metrics"]["test"]["baselines"]
    assert wordmill.load(run.model_folder).evaluate(files["test"]).baselines == told, "baselines learn from what the model learned from"


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_the_mean_of_all_tokens_for_a_text(family, reviews, small_models, tmp_path):
    """Trained, saved and opened; where transformers has it (ModernBERT) it opens there. A folder of sentence-transformers hints at it."""
    base = tmp_path / "base"
    shutil.copytree(small_models(family), base)
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    said = io.StringIO()
    common = {"validation": reviews / "dev.tsv", "model": base, "steps": 2, "reporter": Reporter(stream=said)}
    tuning.finetune("classify", reviews / "train.tsv", out=tmp_path / "usual", **common)
    assert "task.pooling=mean may do better" in said.getvalue()
    assert ("transformers has no class for it" in said.getvalue()) == (family != "modernbert")
    run = tuning.finetune("classify", reviews / "train.tsv", out=tmp_path / "mean", options={"pooling": "mean"}, **common)
    values = json.loads((run.model_folder / "config.json").read_text())
    assert values["classifier_pooling"] == "mean" and said.getvalue().count("task.pooling=mean") == 1
    assert values["architectures"][0].startswith("Wordmill") == (family != "modernbert")
    tuned = wordmill.load(run.model_folder, device="cpu")
    assert tuned.model.layout.reads == "mean"
    assert tuned.evaluate(reviews / "dev.tsv").metrics["accuracy"] == run.metrics["validation"]["metrics"]["accuracy"]
    if family == "modernbert":
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run.model_folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(run.model_folder)
        answer = theirs(**tokenizer("a good mill", return_tensors="pt")).logits.softmax(-1)[0]
        found = tuned.predict("a good mill")["probabilities"]
        assert [found[theirs.config.id2label[i]] for i in range(2)] == pytest.approx(answer.tolist(), abs=2e-3)


def test_from_scratch_with_a_tokenizer_of_its_own(tmp_path):
    train = write_table(tmp_path / "train.tsv", 60, 1, names=False)
    shape = ["model.hidden_size=16", "model.embedding_size=16", "model.layers=1", "tokenizer.vocab=300"]
    out = tmp_path / "run"
    assert main(["finetune", "classify", str(train), "--model", "lstm", "-o", str(out), *shape, *QUICK]) == 0
    assert json.loads((out / "model" / "config.json").read_text())["bidirectional"] is True
    assert wordmill.load(out).predict({"1": "good"})["label"] in ("good", "bad")


@pytest.mark.parametrize(("task", "vocab", "shape"), [("classify", 2048, (128, 2)), ("translate", 512, (256, 4))])
def test_a_model_from_scratch_that_labels_has_more_tokens_and_fewer_weights_than_one_that_writes(task, vocab, shape, tmp_path):
    from wordmill.models.folder import read_config

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)]
    lines = [f"{' '.join(draw.choices(words, k=8))}\t{('good', 'bad')[i % 2]}" for i in range(600)]
    names = "text\tlabel" if task == "classify" else "source\ttarget"
    (tmp_path / "train.tsv").write_text("\n".join([names, *lines]) + "\n")
    family = "modernbert" if task == "classify" else "qwen3"
    run = wordmill.finetune(task, tmp_path / "train.tsv", model=family, out=tmp_path / "run", steps=1)
    config = read_config(run.model_folder)
    assert (config.width, config.layers) == shape
    assert vocab <= config.vocab_size < vocab + 16, "special tokens beside"


def test_a_model_learns_by_the_optimiser_that_trained_it(reviews, tmp_path):
    from tests.tuning import make_folder
    from wordmill.core.lineage import write_lineage

    folder = make_folder(tmp_path / "model", "qwen3")
    write_lineage(folder, task="pretrain", learned_by="muon")
    for name, more, kind, rates in (("plain", {}, "muon", (0.015, 0.003)), ("half", {"lr": 0.0015}, "muon", (0.0075, 0.0015)),
                                    ("fresh", {"fresh": True}, "adamw", (0.03, 5e-4)),
                                    ("asked", {"train": {"optim": {"kind": "adamw"}}, "lr": 1e-3}, "adamw", (0.03, 1e-3))):  # fmt: skip
        run = wordmill.finetune("classify", reviews / "train.tsv", model=folder, out=tmp_path / name, steps=1, **more)
        optim = json.loads((run.model_folder / "wordmill.json").read_text())["train"]["optim"]
        assert (optim["kind"], optim["matrix_lr"], optim["lr"]) == (kind, *map(pytest.approx, rates)), name
        origin = json.loads((run.model_folder / "wordmill.json").read_text())["learned_by"]
        assert origin == ("adamw" if name == "fresh" else "muon"), "of the weights, from their beginning"


def test_a_model_from_elsewhere_stays_one_through_all_stages(reviews, tmp_path):
    """Its second fine-tuning is like the first, whatever the size of its embedding."""
    from tests.tuning import make_folder
    from wordmill.models.folder import load_model, save_model

    folder = make_folder(tmp_path / "model", "qwen3")
    model = load_model(folder)
    with torch.no_grad():
        model.embedding.weight.mul_(2.5 / model.embedding.weight.square().mean().sqrt())
    save_model(model, folder)
    for stage in ("first", "second"):
        run = wordmill.finetune("classify", reviews / "train.tsv", model=folder, out=tmp_path / stage, steps=1)
        facts = json.loads((run.model_folder / "wordmill.json").read_text())
        assert (facts["train"]["optim"]["kind"], facts["learned_by"]) == ("adamw", None), stage
        folder = run.model_folder
    asked = {"optim": {"kind": "muon"}}
    with pytest.raises(wordmill.WordmillError, match="would wreck the weights"):
        wordmill.finetune("classify", reviews / "train.tsv", model=folder, out=tmp_path / "muon", steps=1, train=asked)


def test_a_size_holds_beside_a_shape(reviews, tmp_path):
    for name, given, check in (("layers", ["model.layers=1"], lambda c: c["num_hidden_layers"] == 1),
                               ("width", ["model.width=64"], lambda c: c["hidden_size"] == 64)):  # fmt: skip
        out = tmp_path / name
        command = ["finetune", "classify", str(reviews / "train.tsv"), "--model", "qwen3", "--size", "300k", "--steps", "1", "-o", str(out)]
        assert main([*command, *given, "tokenizer.vocab=300"]) == 0
        config = json.loads((out / "model" / "config.json").read_text())
        weights = sum(t.numel() for t in load_file(out / "model" / "model.safetensors").values())
        assert check(config) and 200e3 < weights < 450e3, (name, weights)


@pytest.mark.parametrize("dtype", ["bf16", "mixed", "fp32"])
def test_every_kind_of_numbers_trains_and_is_remembered(reviews, small_models, tmp_path, dtype):
    torch.set_float32_matmul_precision("highest")
    run = tuning.finetune("classify", reviews / "train.tsv", model=small_models("bert"), validation=str(reviews / "dev.tsv"),
                          out=tmp_path / "run", device="cpu", dtype=dtype, steps=4, lr=1e-3)  # fmt: skip
    assert torch.get_float32_matmul_precision() == "highest"
    assert f"{dtype} on cpu" in json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"lr"' in line]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(math.log(2), rel=0.05)
    assert run.metrics["step"] == 4


@pytest.mark.parametrize(("more", "expected"), [({}, "mixed"), ({"fresh": True}, "bf16"), ({"lora": {"rank": 2}}, "bf16")])
def test_the_whole_of_a_pretrained_model_learns_in_mixed_numbers(reviews, small_models, tmp_path, monkeypatch, more, expected):
    monkeypatch.setattr("wordmill.core.device.bf16_gain", lambda: 3.0)
    monkeypatch.setattr("wordmill.core.device.has_bf16", lambda _: True)
    monkeypatch.setattr("wordmill.core.device.mixed_gain", lambda: 0.5)
    tuning.finetune("classify", reviews / "train.tsv", model=small_models("bert"), out=tmp_path / "run", device="cpu", steps=1, **more)
    assert f"{expected} on cpu" in json.loads((tmp_path / "run" / "run.json").read_text())["summary"]


def test_a_handful_of_examples_tells_no_difference_from_chance():
    def right(n: int, of: int) -> LabelOutcomes:
        truth = np.zeros(of, int)
        return LabelOutcomes(["a", "b"], truth, np.where(np.arange(of) < n, 0, 1))

    few, many = (paired(right(0, n), right(n, n), draws=50) for n in (3, 10))
    assert (few.low, few.high) == (1, 1), "resampling three examples that all differ alike"
    assert "3 examples can't tell a difference from chance" in few.text()
    assert "by more than chance" not in few.text() and "interval" not in few.text()
    assert "both are as good" in paired(right(9, 12), right(9, 12), draws=50).text()
    assert "the second is better, by more than chance" in many.text()


def test_a_lone_column_holds_the_texts_through_a_pipe_too(reviews, small_models, tmp_path, capsys, monkeypatch):
    folder = tuned(reviews, small_models("bert"), tmp_path / "run")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"words": "good mill"}\n{"review": "good mill"}\n'))
    capsys.readouterr()
    assert main(["predict", str(folder), "-", "--quiet"]) == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert one == other
    for line in ('{"words": "good mill", "more": 1}', '{"sentiment": "good"}'):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
        assert main(["predict", str(folder), "-", "--quiet"]) == 2
        assert "a mapping with 'review'" in capsys.readouterr().err


def test_empty_lines_between_inputs_are_told(reviews, small_models, tmp_path, capsys):
    folder = tuned(reviews, small_models("bert"), tmp_path / "run")
    told = "2 empty lines before the last input have no answer"
    for text, empty in (("good mill\n\nbad mill\n \ncold\n\n", told), ("good mill\nbad mill\n\n", "")):
        (tmp_path / "in.txt").write_text(text)
        capsys.readouterr()
        assert main(["predict", str(folder), str(tmp_path / "in.txt"), "--quiet"]) == 0
        done = capsys.readouterr()
        assert len(done.out.splitlines()) == len(text.split("\n")) - text.count("\n\n") - text.count("\n \n") - 1
        assert empty in done.err and ("in step" in done.err) == bool(empty)


def test_a_column_of_nothing_is_named(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + " \tyes\n \tno\n" * 9)
    assert main(["finetune", "classify", str(tmp_path / "a.tsv"), "--model", "lstm", "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {tmp_path / 'a.tsv'}: all texts are empty: there is nothing to learn. Is it the right column?"
