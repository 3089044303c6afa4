"""A fine-tuning run that is stopped and resumed may draw other examples, forget the best weights, or count its patience anew. Stopped at a
random step, it ends with the weights and metrics of one that never stopped."""

from __future__ import annotations

import json
import random

import pytest

from tests.tuning import stopping
from wordmill.cli.app import main


def rows(path):
    values = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("time", "tokens_per_second", "mfu")} for row in values]


@pytest.mark.parametrize("more", [["task.sampling=balanced"], ["freeze=gradual", "train.optim.layer_decay=0.8", "patience=2"]])
def test_stopped_at_a_random_step(reviews, small_models, tmp_path, monkeypatch, capsys, more):
    steps = random.randrange(3, 9 if "patience=2" in more else 22)
    print(f"stopped after step {steps}")  # shown when the test fails
    common = ["--steps", "24", "--lr", "0.003", "train.evaluations=8", "train.rows=7", "train.save_steps=5", *more]
    files = ["classify", str(reviews / "train.tsv"), "--model", str(small_models("bert"))]
    assert main(["finetune", *files, "-o", str(tmp_path / "whole"), *common, "--quiet"]) == 0

    with stopping(monkeypatch, lambda run, event: run.step == steps and event == "step"):
        code = main(["finetune", *files, "-o", str(tmp_path / "cut"), *common])
    assert code == 143 and "--resume" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "model").exists()
    assert main(["finetune", "-o", str(tmp_path / "cut"), "--resume", "--quiet"]) == 0
    assert rows(tmp_path / "cut" / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
    assert main(["finetune", "-o", str(tmp_path / "cut"), "--resume"]) == 0
    assert "finished" in capsys.readouterr().err


def test_changed_data_are_refused(reviews, small_models, tmp_path, capsys):
    data = tmp_path / "train.tsv"
    data.write_text((reviews / "train.tsv").read_text())
    arguments = ["finetune", "classify", str(data), "--model", str(small_models("lstm")), "-o", str(tmp_path / "run"), "--steps", "2"]
    assert main([*arguments, "--quiet"]) == 0
    (tmp_path / "run" / "model" / "config.json").unlink()
    data.write_text(data.read_text().replace("mill", "hill"))
    assert main(["finetune", "-o", str(tmp_path / "run"), "--resume", "--quiet"]) == 2
    assert "have changed since the run began" in capsys.readouterr().err
