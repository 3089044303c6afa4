"""The demo's task: labels made from a library, a split that keeps equal texts together, and what is told of the runs."""

from __future__ import annotations

import json

import pytest

from wordmill.cli.docstrings import EPOCHS, Gain, docstrings, finetune_words, gain_page, gain_plot, gain_text, write_examples
from wordmill.core.errors import DataError


@pytest.fixture
def library(tmp_path):
    """Three packages of 120 docstrings; some are in two of them, some stand twice in one."""
    folder = tmp_path / "library"
    for package in ("mill", "river", "farm"):
        (folder / package).mkdir(parents=True)
        lines = [f'"""The {package}."""']
        for n in range(120):
            text = f"Grind {n} sacks." if n < 10 else f"Open the {package} for {n // 2 if n < 20 else n} hours."
            lines.append(f'def f{n}():\n    """{text}"""')
        (folder / package / "a.py").write_text("\n".join(lines))
    (folder / "test").mkdir()
    (folder / "test" / "b.py").write_text('"""A test of mill."""')
    (folder / "broken.py").write_text("def (")
    (folder / "single.py").write_text('class A:\n    """Word."""\n    def f(self):\n        """Two   words,\n        here."""')
    return folder


def test_docstrings_and_where_they_stand(library):
    found = list(docstrings(library))
    assert {one.label for one in found} == {"mill", "river", "farm", "single"}
    assert [one.text for one in found if one.label == "single"] == ["Two words, here."]


def test_no_docstring_stands_on_two_sides(library, tmp_path):
    counts = write_examples(library, tmp_path / "out", 0)
    parts = {name: [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()] for name in counts}
    assert counts == {name: len(rows) for name, rows in parts.items()}
    texts = {name: {row["text"] for row in rows} for name, rows in parts.items()}
    assert all(len(texts[name]) == len(parts[name]) for name in parts), "each text stands once"
    assert not texts["test"] & texts["train-100"] and not texts["validation"] & (texts["train-100"] | texts["test"])
    assert parts["train-100"][: counts["train-10"]] == parts["train-10"] and texts["train-10"] < texts["train-30"] < texts["train-100"]
    assert not any(text.startswith("Grind") for rows in texts.values() for text in rows), "a text of three packages has no label"
    assert counts["test"] > 2 * counts["train-10"] and counts["train-30"] == counts["train-100"] * 30 // 100


def test_too_few_docstrings(tmp_path):
    (tmp_path / "a.py").write_text('"""Two words."""')
    with pytest.raises(DataError, match="too few"):
        write_examples(tmp_path, tmp_path / "out", 0)


def test_the_runs_differ_in_nothing_but_the_weights(tmp_path):
    tuned, fresh = (finetune_words(30, fresh, tmp_path, tmp_path / "model", 1) for fresh in (False, True))
    assert tuned[:-1] == fresh[:-2] and fresh[-1] == "--fresh" and tuned[tuned.index("--epochs") + 1] == str(EPOCHS[30])


def test_what_is_told():
    gains = [Gain(100, 2500, 0.81, 0.7, {"majority class": 0.2}), Gain(10, 250, 0.61, 0.4, {"majority class": 0.2})]
    assert gain_text(gains).splitlines()[2].split() == ["10", "%", "250", "61.0", "%", "40.0", "%", "20.0", "%"]
    assert "61.0 %" in gain_page(gains) and "from scratch" in gain_plot(gains)
