"""When every answer is cut away a run logs a loss of 0.0 and learns nothing. Such data stop before training, with the file's name; and
a tagger cuts no word away: of what is too long it reads pieces."""

from __future__ import annotations

import pytest

from tests.tuning import make_folder
from wordmill.batches.batch import IGNORE
from wordmill.cli.app import main
from wordmill.tasks.tag import Tag


@pytest.fixture
def arguments(tmp_path):
    model = make_folder(tmp_path / "model", "bert", ["a bc de"])
    data = tmp_path / "a.conll"
    data.write_text("".join(f"{'unheard' * 9}{i} B-X\nx O\n\n" for i in range(8)), encoding="utf-8")
    return ["finetune", "tag", str(data), "--model", str(model), "-o", str(tmp_path / "run"), "--steps", "2", "--max-tokens", "6"]


def test_all_answers_cut_away(arguments, capsys, monkeypatch):
    encode = Tag.encode

    def without_targets(self, record, tools, *, answer):
        one = encode(self, record, tools, answer=answer)
        for part in (one, *one.pieces):
            part.targets[:] = IGNORE
        return one

    monkeypatch.setattr(Tag, "encode", without_targets)
    assert main([*arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "every answer was cut away" in error and "a.conll" in error


def test_no_word_is_cut_away(arguments, capsys):
    assert main(arguments) == 0
    assert "8 examples are longer than that and are read in pieces" in capsys.readouterr().err
