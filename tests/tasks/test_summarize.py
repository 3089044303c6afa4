"""Summaries: columns, ROUGE in every script, the lead baseline, and the way from a file to a report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tuning import make_folder
from wordmill.cli.app import main
from wordmill.core.progress import SILENT
from wordmill.evaluate.bootstrap import intervals
from wordmill.tasks import finetune as tuning
from wordmill.tasks.examples import Record, Records
from wordmill.tasks.summarize import Summarize, lead
from wordmill.tasks.texts import RougeOutcomes, Words
from wordmill.tasks.watch import TaskWatch


def articles(n, start=0):
    return [{"dialogue": f"the mill {i} by the river. {'grain and flour ' * 6}. a day.", "summary": f"mill {i}", "topic": "x"}
            for i in range(start, start + n)]  # fmt: skip


def columns(rows, **more):
    task = Summarize(more)
    task.look({"train": Records([Record(row, f"f:{n}") for n, row in enumerate(rows)], list(rows[0]), files=["f"])}, SILENT)
    return task.spec["columns"]


def test_columns_are_found():
    assert columns(articles(4)) == {"source": "dialogue", "target": "summary"}
    assert columns([{"abstract": "a long text", "title": "text"}]) == {"source": "abstract", "target": "title"}
    assert columns([{"article": "a long text", "abstract": "text"}]) == {"source": "article", "target": "abstract"}
    assert columns([{"highlights": ["a", "b"], "article": "a long text", "id": "1"}]) == {"source": "article", "target": "highlights"}
    csl = [{"1": "to title", "2": f"很长的文章{i}很长的文章", "3": f"标题{i}"} for i in range(5)]
    assert columns(csl) == {"source": "2", "target": "3"}
    assert columns([{"a": "x y z", "b": "x"}], source="b", target="a") == {"source": "b", "target": "a"}


def test_rouge_is_that_of_rouge_score_in_english_and_counts_every_script():
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    for text in ("The mill's 3 stones, and U.S. flour -- ground_down!", "", "...", "A  b\nC"):
        assert Words().tokenize(text) == DefaultTokenizer(False).tokenize(text)
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"]).score("the old mill by the river", "the mill by a river")
    found = RougeOutcomes(["the old mill by the river"], ["the mill by a river"])
    assert found.metrics() == pytest.approx({name: score.fmeasure for name, score in theirs.items()})
    assert Words().tokenize("北京大学 in 2024年") == ["北", "京", "大", "学", "in", "2024", "年"]
    assert Words().tokenize("Straße über CAFE\u0301 हिन्दी") == ["straße", "über", "café", "हिन्दी"]
    chinese = RougeOutcomes(["北京大学招生", "река мельница"], ["北京大学", "мельница"])
    assert chinese.scores[0] == pytest.approx([0.8, 0.75, 0.8]) and chinese.scores[1, 0] == pytest.approx(2 / 3)


def test_intervals_hold_the_score():
    outcomes = RougeOutcomes(["a b c"] * 20, ["a b c", "a b d"] * 10)
    low, high = intervals(outcomes, draws=200)["rougeL"]
    assert low < outcomes.metrics()["rougeL"] < high and outcomes.metrics(np.zeros(3, np.int64))["rougeL"] == 1


def test_the_lead_is_the_first_sentences():
    text = 'He said: "Go." Then 3.5 km on. A mill!\nAnna: hi'
    assert lead(text, 1) == 'He said: "Go."' and lead(text, 2) == 'He said: "Go." Then 3.5 km on.'
    assert lead(text, 9) == 'He said: "Go." Then 3.5 km on. A mill! Anna: hi'
    assert lead("我们在河边。他走了！然后", 1) == "我们在河边。" and lead("我们在河边。他走了！然后", 2) == "我们在河边。 他走了！"
    task = Summarize(spec={"columns": {"source": "s", "target": "t"}})
    rows = [Record({"s": f"One {i}. Two {i}. Three {i}.", "t": f"One {i}. Two {i}."}, "f") for i in range(10)]
    found = task.baselines(rows, rows, SILENT)
    assert list(found) == ["lead-2"] and found["lead-2"].metrics()["rougeL"] == 1


@pytest.fixture
def data(tmp_path):
    for name, rows in (("train", articles(30)), ("test", articles(6, 100))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("family", ["t5", "lstm"])
def test_from_a_file_to_a_report(family, data, small_models, capsys):
    run = data / "run"
    arguments = ["finetune", "summarize", str(data / "train.jsonl"), "--model", str(small_models(family)), "-o", str(run), "--steps", "2"]
    assert main([*arguments, "--test", str(data / "test.jsonl"), "--json", "--max-tokens", "32", "task.beams=2"]) == 0
    done = capsys.readouterr()
    found = json.loads(done.out)["test"]
    assert set(found["metrics"]) == {"rouge1", "rouge2", "rougeL"} and found["headline"] == "rougeL"
    assert "source is 'dialogue', target is 'summary'; not used: topic" in done.err and "answers of up to" in done.err
    assert [name[:5] for name in found["baselines"]] == ["lead-"] and found["cut"] == 6 and "6 of them cut" in done.err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Most wrong" in page and "mill 100" in page and "lead-" in page
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "It reads the prompt" in card and (family == "lstm" or "AutoModelForSeq2SeqLM" in card)
    assert main(["finetune", "-o", str(run), "--resume", "--quiet"]) == 0


def test_where_writing_takes_long_fewer_validation_examples_are_answered_and_it_trains_on(data, small_models, monkeypatch, tmp_path):
    """An answer in the end is taken to be as slow as one of the look that went before: here 0.2 s each, of 8 s in all."""
    shares, looked = [], []

    class Slow(TaskWatch):
        def _look(self, run):
            looked.append(len(self._some()[0]))
            super()._look(run)
            self.each = 0.2

        def __call__(self, run, event):
            super().__call__(run, event)
            shares.append(run.memory.get("answered"))

    monkeypatch.setattr(tuning, "TaskWatch", Slow)
    monkeypatch.setattr("wordmill.tasks.watch.FEWEST", 4)
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(row) for row in articles(60)))
    run = tuning.finetune("summarize", data / "train.jsonl", validation=tmp_path / "dev.jsonl", model=small_models("t5"), time="8s",
                            options={"beams": 1, "max_tokens": 4}, out=tmp_path / "run")  # fmt: skip
    fitting = int(0.25 * 8 / 0.2)
    assert 4 <= 60 * shares[-1] <= fitting and run.metrics["step"] > 3
    assert max(looked) <= 8, "nor are many looked at on the way"
    assert 0.5 * 60 * shares[-1] <= run.metrics["validation"]["examples"] <= fitting


def test_preview_shows_prompt_and_answer(data, small_models, capsys):
    arguments = ["finetune", "summarize", str(data / "train.jsonl"), "--model", str(small_models("qwen3")), "--preview", "--quiet"]
    assert main(arguments) == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    marked = [token.strip("‹›") for token in first if token.startswith("‹")]
    assert marked[-1] == "<|endoftext|>" and "".join(marked[:-1]).replace("␣", " ").startswith("mill ")
    assert first[0] == "<|endoftext|>" and first[-1].startswith("‹")


def test_bad_input_gets_one_line(tmp_path, capsys):
    model = make_folder(tmp_path / "model", "qwen3")
    file = tmp_path / "a.csv"

    def refused(words: str, text: str, *more: object) -> None:
        file.write_text(text, encoding="utf-8")
        arguments = ["finetune", "summarize", str(file), "-o", str(tmp_path / "run"), "--steps", "1", "--quiet", *map(str, more)]
        assert main([*arguments, *([] if "--model" in more else ["--model", str(model)])]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("error:") == 1 and not (tmp_path / "run").exists(), error

    good = "article,summary\n" + "a mill by the river,mill\n" * 4
    refused("a.csv:3: this row has no summary", "article,summary\na b c,a\na b c,\n")
    refused("there is no column 'sumary'; columns: article, summary. Set it by task.target=NAME. Did you mean 'summary'?", good,
            "task.target=sumary")  # fmt: skip
    refused("can't tell which column", "article,number\n" + "a mill by the river,1\n" * 3)
    refused("leave no room for a prompt in 20 tokens", good, "--max-tokens", 20, "task.max_tokens=19")
    long = "article,summary\n" + "a mill by the river,the mill by the river and the grain that comes to it\n" * 4
    refused("no training answer fits", long, "--max-tokens", 12)
    refused("it was fine-tuned to label texts", good, "--model", labelled(tmp_path))
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    spec = (model / "tokenizer.json").read_text(encoding="utf-8").replace("<|endoftext|>", "<|start|>")
    (model / "tokenizer.json").write_text(spec, encoding="utf-8")
    for name in ("eos_token", "bos_token"):
        settings.pop(name, None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    refused("no eos token, with which summarize ends its answers. Name one as eos_token in tokenizer_config.json", good)


def labelled(place):
    from wordmill.models.heads import HeadConfig, load_base, save_headed, with_head
    from wordmill.tokenizer import Tokenizer

    folder = make_folder(place / "labelled", "qwen3")
    save_headed(with_head(load_base(folder), HeadConfig(kind="sequence", labels=("a", "b")), seed=0), folder)
    assert Tokenizer.load(folder).eos_id is not None
    return folder
