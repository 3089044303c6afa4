"""When every answer is cut away a run logs a loss of 0.0 and learns nothing. Such data stop before training, with the file's name."""

from __future__ import annotations

from tests.tuning import make_folder
from wordmill.cli.app import main


def test_all_answers_cut_away(tmp_path, capsys):
    model = make_folder(tmp_path / "model", "bert", ["a bc de"])
    data = tmp_path / "a.conll"
    data.write_text("".join(f"{'unheard' * 9}{i} B-X\nx O\n\n" for i in range(8)), encoding="utf-8")
    arguments = ["finetune", "tag", str(data), "--model", str(model), "-o", str(tmp_path / "run"), "--steps", "2", "--quiet"]
    assert main([*arguments, "--max-tokens", "6"]) == 2
    error = capsys.readouterr().err
    assert "every answer was cut away" in error and "a.conll" in error
