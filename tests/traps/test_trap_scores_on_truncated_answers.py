"""Answers that were stopped at the most tokens are scored as if the model had ended them. They are counted, and said with every score."""

from __future__ import annotations

import json

from tests.writing import RECORDS, settled
from wordmill.cli.app import main
from wordmill.models.heads import load_base


def test_they_are_counted_and_said(small_models, tmp_path, capsys):
    data = tmp_path / "a.jsonl"
    rows = [{"article": f"the mill {i} by the river", "summary": "grain river flour stone wheel"} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = tmp_path / "run"
    arguments = ["finetune", "summarize", str(data), "--test", str(data), "--model", str(small_models("qwen3")), "-o", str(run)]
    assert main([*arguments, "--steps", "1", "task.max_tokens=2", "task.beams=1", "--json"]) == 0
    done = capsys.readouterr()
    words = "12 of 12 answers were stopped at 2 tokens, before the end"
    assert words in done.err and any(words in line for line in json.loads(done.out)["test"]["remarks"])
    assert json.loads(done.out)["test"]["details"]["answers_without_end"] == 12
    assert words in (run / "report.html").read_text(encoding="utf-8") and words in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert main(["evaluate", str(run), str(data)]) == 0 and words in capsys.readouterr().out
    assert main(["predict", str(run / "model"), str(data)]) == 0
    done = capsys.readouterr()
    assert words in done.err and all(json.loads(line)["ended"] is False for line in done.out.splitlines())


def test_an_answer_that_ended_is_not(small_models):
    folder = small_models("lstm")
    task, tools = settled(folder, beams=1, max_tokens=3)
    model = task.build(load_base(folder), 0)
    model.output_bias.data[tools.tokenizer.eos_id] = 100.0
    answers = task.respond(model, tools, RECORDS)
    assert all(answer.ended and answer.tokens == 1 and answer.text == "" for answer in answers)
    assert task.remarks(RECORDS, answers) == [] and "ended" not in task.say(RECORDS[0], answers[0])
