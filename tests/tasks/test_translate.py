"""Translation from a table or two files to a score: columns, aligned lines, BLEU and chrF, what is learned, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import wordmill
from tests.writing import write_pairs
from wordmill.cli.app import main
from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import SILENT, Reporter
from wordmill.evaluate.bootstrap import intervals, paired
from wordmill.tasks.examples import Record, Records, lone_texts
from wordmill.tasks.texts import BleuOutcomes
from wordmill.tasks.translate import Translate, bleu_tokenizer

QUICK = ["--quiet", "--dtype", "fp32", "model.dropout=0", "train.evaluations=1", "task.beams=1"]
SHAPES = {"bart": ["model.width=64", "model.layers=1", "model.encoder_layers=1"],
          "t5": ["model.width=64", "model.layers=1", "model.encoder_layers=1"],
          "qwen3": ["model.width=64", "model.layers=2"]}  # fmt: skip


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("family", list(SHAPES))
def test_it_learns_a_language(family, pairs, tmp_path, capsys):
    run = tmp_path / "run"
    test = str(pairs / "test.tsv")
    arguments = ["finetune", "translate", str(pairs / "train.tsv"), "--model", family, "-o", str(run), "--test", test, *SHAPES[family]]
    assert main([*arguments, *QUICK, "--steps", "140", "train.rows=24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["test"]
    assert found["headline"] == "bleu" and set(found["metrics"]) == {"bleu", "chrf"}
    assert found["metrics"]["bleu"] > 30 > found["baselines"]["copy"]["bleu"]
    assert found["metrics"]["chrf"] > found["baselines"]["copy"]["chrf"] + 15
    assert "|tok:13a|" in found["details"]["bleu_signature"] and found["cut"] == 0
    assert main(["evaluate", str(run / "model"), test, "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == pytest.approx(found["metrics"]) and again["baselines"] == found["baselines"]
    assert main(["predict", str(run / "model"), test, "--quiet"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    judged = BleuOutcomes([row["input"]["de"] for row in rows], [row["translation"] for row in rows])
    assert judged.metrics() == pytest.approx(found["metrics"])
    assert main(["compare", str(run), str(run / "model"), "--data", test, "--json", "--quiet"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same["metric"] == "bleu" and same["difference"] == same["low"] == same["high"] == 0 and same["p_value"] is None
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Most wrong" in page and "as it should be" in page and "copy" in page
    _transformers_opens_it(family, run / "model", [row["input"]["en"] for row in rows[:3]], [row["translation"] for row in rows[:3]])


def _transformers_opens_it(family, folder, sources, said):
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModelForCausalLM if family == "qwen3" else transformers.AutoModelForSeq2SeqLM
    model, tokenizer = kind.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    prompt = wordmill.load(folder).task.spec["prompt"]
    for source, ours in zip(sources, said, strict=True):
        ids = tokenizer(prompt.replace("{source}", source), return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=40, do_sample=False, num_beams=1)[0]
        made = made[ids.shape[1] :] if family == "qwen3" else made
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == ours
    assert wordmill.load(folder).generate(prompt.replace("{source}", sources[0]), temperature=0.0).strip() == said[0]


def look(task, records, fields, **more):
    said: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.note = reporter.warn = said.append  # type: ignore[method-assign, assignment]
    rows = [Record(row, f"f:{n}") for n, row in enumerate(records, 1)]
    task.look({"train": Records(rows, fields, files=["f"], **more)}, reporter)
    return said


def test_columns_are_found_by_names_and_by_languages():
    rows = [{"id": str(i), "de": f"Der Fluss {i}", "en": f"the river {i}"} for i in range(8)]
    task = Translate()
    said = look(task, rows, ["id", "de", "en"])
    assert task.spec["columns"] == {"source": "de", "target": "en"} and "the other way: task.source=en task.target=de" in " ".join(said)
    task = Translate({"source": "en"})
    look(task, rows, ["id", "de", "en"])
    assert task.spec["columns"] == {"source": "en", "target": "de"}
    task = Translate()
    look(task, [{"src": f"a {i}", "tgt": f"b {i}", "fr": "c"} for i in range(4)], ["fr", "tgt", "src"])
    assert task.spec["columns"] == {"source": "src", "target": "tgt"}
    task = Translate()
    look(task, [{"1": f"a {i}", "2": f"嗨 {i}", "3": "CC-BY"} for i in range(9)], ["1", "2", "3"], headed=False)
    assert task.spec["columns"] == {"source": "1", "target": "2"}
    with pytest.raises(DataError, match="can't tell which column.*columns: Hi, Salut"):
        look(Translate(), [{"Hi": f"a {i}", "Salut": f"b {i}"} for i in range(4)], ["Hi", "Salut"])


def test_what_looks_wrong_is_named():
    rows = [{"en": f"a {i % 3}", "de": f"a {i % 3}"} for i in range(9)] + [{"en": " ", "de": "b"}]
    said = " | ".join(look(Translate(), rows, ["en", "de"]))
    assert "6 of 10 examples of train repeat another" in said and "9 of 10 targets of train repeat the source" in said
    assert "1 example of train has an empty source (first: f:10)" in said


def test_files_with_a_sentence_a_line(tmp_path):
    import gzip

    (tmp_path / "a.en").write_text("one\ntwo\n\nfour\n", encoding="utf-8")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n\nvier\n"))
    records = Translate().read([tmp_path / "a.en", tmp_path / "a.de.gz"])
    assert records.fields == ["en", "de"] and [r.values for r in records.records] == [
        {"en": "one", "de": "eins"}, {"en": "two", "de": "zwei"}, {"en": "four", "de": "vier"}]  # fmt: skip
    assert records.records[2].where.endswith("a.de.gz:4")
    task = Translate(spec={"columns": {"source": "en", "target": "de"}})
    assert [r.values for r in task.inputs(task.read([tmp_path / "a.en"]))] == [{"en": "one"}, {"en": "two"}, {"en": "four"}]
    other = Translate(spec={"columns": {"source": "english", "target": "german"}})
    assert other.read([tmp_path / "a.en", tmp_path / "a.de.gz"]).fields == ["english", "german"]
    (tmp_path / "a.fr").write_text("un\ndeux\n\nquatre\n", encoding="utf-8")
    with pytest.raises(DataError, match="this is fr, and the model translates en into de"):
        task.read([tmp_path / "a.fr"])
    with pytest.raises(DataError, match="come two by two"):
        task.read([tmp_path / "a.en", tmp_path / "a.de.gz", tmp_path / "a.fr"])
    nested = tmp_path / "n.jsonl"
    nested.write_text('{"id": 1, "translation": {"en": "one", "de": "eins"}}\n', encoding="utf-8")
    assert Translate().read([nested]).fields == ["id", "en", "de"]
    for name, text in (("s.txt", "one\ntwo\n"), ("t.txt", "eins\nzwei\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert Translate().read([tmp_path / "s.txt", tmp_path / "t.txt"]).records[1].values == {"source": "two", "target": "zwei"}


@pytest.mark.parametrize("names", [("a.en", "a.de"), ("a.de", "a.en")])
def test_a_gap_is_told_of_the_file_that_has_it(names, tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (tmp_path / "a.de").write_text("eins\n\ndrei\n", encoding="utf-8")
    task = Translate(spec={"columns": {"source": "en", "target": "de"}})
    with pytest.raises(DataError, match=r"a\.de:2: this row has no translation"):
        task.check(task.read([tmp_path / name for name in names]), SILENT)


@pytest.mark.parametrize("columns", [("en", "zh"), ("English", "Chinese"), ("en-US", "zh-CN"), ("text", "zh")])
def test_the_direction_that_the_model_knows_decides(columns, tmp_path):
    task = Translate(spec={"columns": dict(zip(("source", "target"), columns, strict=True))})
    for name, text in (("a.en", "one\n"), ("a.zh", "一\n"), ("a.fr", "un\n"), ("a.txt", "one\n"), ("t.jsonl", '{"zh": "一"}\n')):
        (tmp_path / name).write_text(text, encoding="utf-8")
    both = dict(zip(columns, ("one", "一"), strict=True))
    for names in (["a.en", "a.zh"], ["a.zh", "a.en"], ["a.txt", "a.zh"], ["a.zh", "a.txt"]):
        records = task.read([tmp_path / name for name in names])
        task.check(records, SILENT)
        assert records.records[0].values == both, names
    assert task.inputs(task.read([tmp_path / "a.en"]))[0].values == {columns[0]: "one"}
    with pytest.raises(DataError, match=r"a.zh: this is zh, which the model writes and does not read: it translates \S+ into \S+\. Give"):
        task.read([tmp_path / "a.zh"])
    with pytest.raises(DataError, match="the only column is 'zh', which the model answers; it reads"):
        lone_texts(task.read([tmp_path / "t.jsonl"]), columns[0], task.is_answer, SILENT)
    if columns[0] != "text":
        with pytest.raises(DataError, match="this is fr, and the model translates"):
            task.read([tmp_path / "a.fr"])


def test_one_file_of_two_is_too_few_to_be_evaluated_on(tmp_path):
    task = Translate(spec={"columns": {"source": "en", "target": "zh"}})
    (tmp_path / "a.en").write_text("one\n", encoding="utf-8")
    with pytest.raises(DataError, match="there is no column 'zh' here; columns: en. Give two files, source and target"):
        task.check(task.read([tmp_path / "a.en"]), SILENT)


def test_bad_input_gets_one_line(tmp_path, small_models, capsys):
    def refused(words: str, *arguments: object) -> None:
        assert main(["finetune", "translate", *map(str, arguments), "-o", str(tmp_path / "run"), "--steps", "1", "--quiet"]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("error:") == 1 and not (tmp_path / "run").exists(), error

    (tmp_path / "a.en").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (tmp_path / "a.de").write_text("eins\nzwei\n", encoding="utf-8")
    model = ["--model", small_models("qwen3")]
    refused("a.en has 3 lines and " + str(tmp_path / "a.de") + " has 2", tmp_path / "a.en", tmp_path / "a.de", *model)
    table = tmp_path / "t.tsv"
    table.write_text("source\ttarget\none\teins\ntwo\t\n", encoding="utf-8")
    refused("t.tsv:3: this row has no translation", table, *model)
    refused("there is no column 'fr'; columns: source, target", table, *model, "task.target=fr")
    table.write_text("source\ttarget\none\teins\ntwo\tzwei\n", encoding="utf-8")
    refused("translate needs decoder or encoder-decoder or recurrent", table, "--model", small_models("bert"))
    refused("tokenize", table, *model, "task.tokenize=13b")
    table.write_text("", encoding="utf-8")
    refused("this file is empty", table, *model)


def test_an_object_is_no_text():
    with pytest.raises(DataError, match="f:2: the source is an object: {'a': 1}. Write a text, or a list of texts"):
        look(Translate(), [{"en": f"a {n}" if n != 1 else {"a": 1}, "de": f"b {n}"} for n in range(5)], ["en", "de"])


FULL = [f"the mill {n} is old\tdie Muehle {n} ist alt" for n in range(8)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*FULL, "a dog barks\t"], ":9: this row has no translation (column '2' is empty). Give one, or take the row out"),
        (["a dog barks\t", FULL[0]], ":1: this row has no translation"),
        (["a dog barks here\t"], ":1: this row has no translation"),
        ([*(f"a dog {n}\t" for n in range(9)), *FULL[:2]], ":1: this row has no translation"),
        ([*FULL, "a dog barks\t\t"], ":9: this row has no translation"),
        ([*FULL, "a dog barks"], ":9: 1 column where most lines have 2. Write what is missing, or take the line out"),
        (["dog\tHund", "cat\tKatze", "cow\t"], "if the first line is an example too, put a line of names above it: source<tab>target"),
        (["dog\tHund", "cat\t", "cow\tKuh"], "pairs.tsv:2 has nothing in its column 'Hund'"),
    ],
)
def test_an_empty_target_without_a_header_line_is_named(rows, said, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = Translate()
    with pytest.raises(DataError) as caught:
        task.look({"train": task.read([file])}, SILENT)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_bleu_is_cut_by_the_script_of_the_targets():
    assert bleu_tokenizer(["the river", "Der Fluss"])[0] == "13a"
    assert bleu_tokenizer(["我们在河边。", "他有一个 mp3"])[0] == "zh"
    assert bleu_tokenizer(["私は川のそばにいます。"])[0] == "char" and "Japanese" in bleu_tokenizer(["私は川のそばにいます。"])[1]
    assert bleu_tokenizer(["우리는 강가에 있다"])[0] == "char" and bleu_tokenizer(["เราอยู่ริมแม่น้ำ"])[0] == "char"


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_bleu_and_chrf_are_sacrebleu_s_on_any_resample(tokenize):
    from sacrebleu.metrics import BLEU, CHRF

    generator = np.random.default_rng(0)
    words = ["the", "river", "mill", "我们", "在河边", "stone", "."]
    right = [" ".join(generator.choice(words, 9)) for _ in range(20)]
    said = [" ".join(word if generator.random() < 0.8 else "x" for word in text.split()) for text in right]
    found = BleuOutcomes(right, said, tokenize)
    for index in (None, generator.integers(0, 20, 20)):
        a, b = (texts if index is None else [texts[i] for i in index] for texts in (said, right))
        expected = {"bleu": BLEU(tokenize=tokenize).corpus_score(a, [b]).score, "chrf": CHRF().corpus_score(a, [b]).score}
        assert found.metrics(index) == pytest.approx(expected)
    low, high = intervals(found, draws=100)["bleu"]
    assert low < found.metrics()["bleu"] < high
    better = paired(found, BleuOutcomes(right, right, tokenize), draws=100)
    assert "the second is better, by more than chance" in better.text()
    assert better.b == pytest.approx(100) and better.low > 0
    other = "char" if tokenize == "13a" else "13a"
    with pytest.raises(UsageError, match=rf"task.tokenize={tokenize}\) with bleu of 20 examples \(words by task.tokenize={other}\)"):
        paired(found, BleuOutcomes(right, said, other))
    assert found.each().shape == (20,) and found.correct() is None
