"""Answers out of a context are whole words, where those that were learned are."""

from __future__ import annotations

import json

import pytest

import wordmill
from tests.tuning import make_folder
from wordmill.cli.app import main
from wordmill.tasks.spans import cuts_words, whole_words


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("in 1520, they", (3, 5), "1520"), ("in 1520, they", (4, 10), "1520, they"), ("on the river", (4, 6), "the"),
        ("张三去了北京", (1, 2), "三"), ("cafe\u0301s here", (0, 4), "cafe\u0301s"),
        ("👍🏽!", (0, 1), "👍🏽"), ("abc", (0, 3), "abc"), ("a b", (1, 1), ""),
    ],
)  # fmt: skip
def test_a_span_grows_to_the_borders_of_words(text, span, expected):
    start, end = whole_words(text, *span)
    assert text[start:end] == expected and not cuts_words(text, start, end)


def write(path, torn: int):
    """60 questions, `torn` of which have an answer that ends inside a word."""
    data = []
    for n in range(60):
        context = f"the windmillkeeper{n} of northernmost{n} grinds wheatflour{n}"
        answer = "windmill" if n < torn else f"northernmost{n}"
        found = [{"text": answer, "answer_start": context.index(answer)}]
        data.append({"paragraphs": [{"context": context, "qas": [{"id": str(n), "question": "where?", "answers": found}]}]})
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


@pytest.mark.parametrize("torn", [0, 30])
def test_answers_are_whole_words_where_those_learned_are(torn, tmp_path):
    base = make_folder(tmp_path / "base", "bert")
    data = write(tmp_path / "train.json", torn)
    assert main(["finetune", "answer", str(data), "--model", str(base), "-o", str(tmp_path / "run"), "--steps", "2", "--quiet"]) == 0
    model = wordmill.load(tmp_path / "run")
    asked = [{"question": "where?", "context": f"a millpond{n} behind oldstonebridge{n}"} for n in range(30)]

    def cut() -> int:
        told = model.predict(asked)
        for one, answer in zip(asked, told, strict=True):
            assert one["context"][answer["start"] : answer["end"]] == answer["answer"]
        return sum(cuts_words(one["context"], answer["start"], answer["end"]) for one, answer in zip(asked, told, strict=True))

    found = cut()
    model.task.settings = model.task.settings.replace(max_answer=9)
    assert all(answer["end"] - answer["start"] <= 9 for answer in model.predict(asked)), "a word that is too long is no answer"
    model.task.settings = model.task.settings.replace(max_answer=None)
    model.task.spec["whole_words"] = False
    assert cut() > 0, "tokens end inside words"
    assert (found == 0) == (torn == 0)
