"""What bad input gets: one line that says what is wrong and where, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.tuning import make_folder, write_table
from wordmill.cli.app import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def expect_refusal(capsys, tmp_path, model):
    """`expect_refusal("words", argument, …)`: run finetune on them, check that it fails as it should, and return the line."""

    def run(words: str, *arguments: object, base: object = model) -> str:
        folder = tmp_path / "run"
        named = [] if base is None else ["--model", str(base)]
        code = main(["finetune", *map(str, arguments), *named, "-o", str(folder), "--steps", "1", "--quiet"])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(errors) == 1
        assert re.search(words, errors[0]), errors[0]
        assert not folder.exists(), "a run that never began leaves nothing"
        return errors[0]

    return run


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("text\tlabel", *rows)) + "\n", encoding="utf-8")
    return path


ROWS = [f"the mill {i}\t{'good' if i % 2 else 'bad'}" for i in range(12)]


def test_classify_bad_tables(expect_refusal, tmp_path):
    file = tmp_path / "a.tsv"
    expect_refusal("a.tsv: this file is empty", "classify", table(file, *ROWS) if file.write_text("") else file)
    expect_refusal("no such file", "classify", tmp_path / "nowhere.csv")
    line = expect_refusal("there is no column 'stars'; columns: text, label", "classify", table(file, *ROWS), "task.label=stars")
    assert "a.tsv:1" in line
    expect_refusal(r"a.tsv:14: this row has no label", "classify", table(file, *ROWS, "the river\t"))
    expect_refusal(r"a.tsv:4: 3 columns where the first line has 2", "classify", table(file, *ROWS[:2], *["a\tb\tc"] * 3, *ROWS))
    expect_refusal("all 3 examples have the same label", "classify", table(file, "a\tx", "b\tx", "c\tx"))
    many = table(file, *(f"the mill {i}\t{i}" for i in range(300)))
    expect_refusal("300 distinct labels in 300 examples: is this a regression", "classify", many)
    expect_refusal("numbers with a fraction.*regression", "classify", table(file, *(f"the mill {i}\t{i % 3 + 0.5}" for i in range(60))))
    file.write_text("a;b\n1;2\n", encoding="utf-8")
    expect_refusal("can't tell which column", "classify", file)


def test_a_label_only_in_the_test_set(expect_refusal, tmp_path):
    test = table(tmp_path / "test.tsv", ROWS[0], "the river\tfair")
    line = expect_refusal(
        "the label 'fair' is not among the labels trained on", "classify", table(tmp_path / "a.tsv", *ROWS), "--test", test
    )
    assert "test.tsv:3" in line


def test_broken_files(expect_refusal, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "label": "x"}\n{"text": "b", \n', encoding="utf-8")
    expect_refusal(r"a.jsonl:\d: broken JSON", "classify", file)
    file.write_text('{"text": "a", "label": "x"}\n["b"]\n', encoding="utf-8")
    expect_refusal(r"a.jsonl:2: expected an object, found list", "classify", file)
    quoted = tmp_path / "a.csv"
    quoted.write_text('text,label\n"open,x\nb,y\n', encoding="utf-8")
    expect_refusal(r"a.csv:\d: broken row", "classify", quoted)
    odd = tmp_path / "b.csv"
    odd.write_bytes(b"text,label\n" + b"caf\xc3\xa9 na\xc3\xafve,x\n" * 9 + b"bro\xffken,y\n")
    expect_refusal("not valid utf-8", "classify", odd)


def test_models_that_dont_fit(expect_refusal, tmp_path):
    rows = table(tmp_path / "a.tsv", *ROWS)
    expect_refusal("no model given", "classify", rows, base=None)
    expect_refusal("no such model folder", "classify", rows, base="runs/nowhere/model")
    expect_refusal("no family 'bret'.*bert", "classify", rows, base="bret")
    expect_refusal("--max-tokens: 100 tokens are more than the model's 64 positions", "classify", rows, "--max-tokens", 100)
    expect_refusal("model.layers can't be set", "classify", rows, "model.layers=3")
    expect_refusal("there is no task 'clasify'.*classify", "clasify", rows)
    expect_refusal("unknown setting 'labl'.*label", "classify", rows, "task.labl=x")
    expect_refusal("both say how long", "classify", rows, "--epochs", 2)
    expect_refusal("unknown setting 'rats'", "classify", rows, "train.rats=3")


def test_settings_that_would_change_nothing(expect_refusal, tmp_path):
    rows = table(tmp_path / "a.tsv", *ROWS)
    one = "task.threshold, task.separator would have no effect: each text has one label"
    expect_refusal(one, "classify", rows, "task.threshold=0.7", "task.separator=;")
    expect_refusal("validation_share would have no effect: .*a.tsv", "classify", rows, "--validation", rows, "validation_share=0.2")
    expect_refusal("patience would have no effect: with validation_share=0", "classify", rows, "validation_share=0", "patience=3")
    lists = tmp_path / "a.jsonl"
    lists.write_text("".join(json.dumps({"text": f"mill {i}", "label": ["xy"[i % 2]]}) + "\n" for i in range(9)))
    expect_refusal("task.separator would have no effect: the labels stand in lists", "classify", lists, "task.separator=;")
    words = conll(tmp_path / "a.conll", "the O\nAnna B-PER\n\nis O\n")
    expect_refusal("task.text would have no effect: words with their tags", "tag", words, "task.text=tags")
    lists.write_text(json.dumps({"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PER"}]}) + "\n")
    expect_refusal("task.scheme would have no effect: texts with spans", "tag", lists, "task.scheme=bio")
    asked = {"question": "who?", "context": "Anna is here", "answers": [{"text": "Anna", "answer_start": 0}]}
    lists.write_text(json.dumps(asked) + "\n")
    expect_refusal("task.threshold would have no effect: every question .* has an answer", "answer", lists, "task.threshold=1")
    expect_refusal("task.skip_bad would have no effect", "answer", lists, "task.way=write", "task.skip_bad=true", base="qwen3")
    nested = tmp_path / "squad.json"
    paragraph = {"context": asked["context"], "qas": [{"id": "1", "question": "who?", "answers": asked["answers"]}]}
    nested.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    expect_refusal("task.question would have no effect: .*squad.json has the layout of SQuAD", "answer", nested, "task.question=q")


def conll(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tag_bad_input(expect_refusal, tmp_path):
    file = tmp_path / "a.conll"
    line = expect_refusal("no tag begins with B-", "tag", conll(file, "the O\nAnna I-PER\n\nYork I-LOC\nis O\n"))
    assert "a.conll:2" in line
    expect_refusal("a.conll:3: a word without a tag", "tag", conll(file, "the\tO\nAnna\tB-PER\nis\t\n" + "here\tO\n" * 20))
    twice = conll(tmp_path / "b.txt", "the O\nAnna B-PER\nis O\n\n" * 9 + "York B_LOC\nis O\n\nDelft B_LOC\n")
    line = expect_refusal("the tag 'B_LOC' is neither O nor of the form B-KIND, nor is 1 more. Mend it", "tag", twice)
    assert "b.txt:37" in line
    expect_refusal("b.conll:2: the tag 'PER' is neither O", "tag", conll(tmp_path / "b.conll", "the O\nAnna PER\n\nis B-LOC\nYork I-LOC\n"))
    odd = conll(tmp_path / "c.conll", "the O\nAnna Q-PER\nis O\n")
    expect_refusal("c.conll:2: the tag 'Q-PER' is neither", "tag", odd, "task.scheme=bio")
    expect_refusal("no word of these examples has a tag other than O", "tag", conll(file, "the O\n\nmill O\nis O\n"))
    test = conll(tmp_path / "test.conll", "the O\nmill B-ORG\n\nis O\n")
    train = conll(file, "the O\nAnna B-PER\n\nis O\n")
    line = expect_refusal("the tag 'B-ORG' is not among those trained on", "tag", train, "--test", test)
    assert "test.conll:2" in line
    spans = tmp_path / "a.jsonl"
    spans.write_text(json.dumps({"text": "Anna", "spans": [{"start": 2, "end": 9, "label": "PER"}]}) + "\n")
    expect_refusal("a.jsonl:1: the span 2…9 .* is not inside the text, which has 4 characters", "tag", spans)
    spans.write_text(json.dumps({"text": "Anna", "spans": [{"start": 0, "end": 3, "label": "PER", "text": "Anna"}]}) + "\n")
    expect_refusal("the span 0…3 is 'Ann', not 'Anna'", "tag", spans)
    spans.write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O"]}) + "\n")
    expect_refusal("2 words and 1 tag", "tag", spans)
    expect_refusal("b.tsv:2: can't read the spans 'bad'", "tag", table(tmp_path / "b.tsv", *ROWS))
    spans.write_text(json.dumps({"title": "a"}) + "\n")
    expect_refusal("found neither words with tags, nor a text with spans", "tag", spans)


def test_predict_and_compare_refuse_what_they_cant_do(model, tmp_path, capsys):
    rows = write_table(tmp_path / "a.tsv", 12, 0)
    assert main(["predict", str(model), str(rows)]) == 2
    assert "was not fine-tuned for a task" in capsys.readouterr().err
    out = tmp_path / "run"
    assert main(["finetune", "classify", str(rows), "--model", str(model), "-o", str(out), "--steps", "1", "--quiet"]) == 0
    other = table(tmp_path / "b.tsv", *ROWS)
    assert main(["predict", str(out / "model"), str(other)]) == 2
    assert "there is no column 'review' here; columns: text, label" in capsys.readouterr().err
    assert main(["compare", str(out), str(model), "--data", str(rows)]) == 2
    assert main(["generate", str(out / "model"), "x"]) == 2
    assert "fine-tuned for a task" in capsys.readouterr().err
    assert main(["evaluate", str(out / "model"), str(rows), "--stride", "4"]) == 2
    assert "--stride can't be honoured" in capsys.readouterr().err
    assert main(["evaluate", str(out / "model"), str(rows), "task.threshold=0.7"]) == 2
    assert "task.threshold would have no effect: each text has one label" in capsys.readouterr().err
    assert main(["finetune", "-o", str(out), "--resume", "--lr", "1"]) == 2
    assert "changed: lr" in capsys.readouterr().err


def test_predict_says_that_it_can_not_write_before_it_reads_the_model(tmp_path, capsys):
    assert main(["predict", "model", "in.csv", "-o", str(tmp_path / "nowhere" / "out.jsonl")]) == 2
    assert "no folder to write this file into" in capsys.readouterr().err
    assert main(["predict", "model", "in.csv", "-o", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dtype", "fp8"], "fp8"),
        (["--size", "5x"], "5x"),
        (["--tokenizer", "nope"], "nope: no such folder"),
        (["train.seed=3"], "train.seed.*--seed"),
        (["train.optm=3"], "'optm'.*'optim'"),
        (["--lora", "0"], "--lora.*greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_before_the_examples_are_read(tmp_path, capsys, words, said):
    assert main(["finetune", "classify", str(tmp_path / "nowhere.csv"), "--model", "lstm", "-o", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "words"),
    [("dropout=0.2", r"task\.dropout=0\.2 or model\.dropout=0\.2$"),
     ("rate=0.5", r"There is no setting 'rate'\. Settings name their section")],
)
def test_a_setting_without_a_section_is_not_sent_to_those_of_pretraining(expect_refusal, word, words):
    expect_refusal(words, "classify", "a.csv", word)
