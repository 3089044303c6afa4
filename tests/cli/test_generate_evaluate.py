from __future__ import annotations

import io
import json

import pytest

from wordmill.cli.app import main


@pytest.fixture
def model(make_loaded, tmp_path):
    make_loaded().save(tmp_path / "model")
    return str(tmp_path / "model")


def _fails(capsys, *words: str) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0]


def test_generate_streams_the_prompt_and_its_continuation(model, capsys):
    words = ("generate", model, "The mill", "--max-tokens", "6", "--seed", "1", "--dtype", "fp32", "--device", "cpu")
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("The mill")
    assert main((*words, "--json")) == 0
    value = json.loads(capsys.readouterr().out)
    (answer,) = value["answers"]
    assert answer["prompt"] + answer["text"] + "\n" == text
    assert value["settings"]["max_tokens"] == 6
    assert answer["reason"] in ("length", "eos")


def test_generate_reads_prompts_from_standard_input(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The\nmill by\n"))
    assert main(("generate", model, "-", "-n", "3", "--json")) == 0
    assert [answer["prompt"] for answer in json.loads(capsys.readouterr().out)["answers"]] == ["The", "mill by"]


def test_generate_refuses_what_it_can_not_do(model, capsys, monkeypatch, tmp_path):
    assert "no such model folder" in _fails(capsys, "generate", str(tmp_path / "nothing"), "The")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in _fails(capsys, "generate", str(tmp_path / "empty"), "The")
    assert "top_p" in _fails(capsys, "generate", model, "The", "--top-p", "2")
    assert "64 positions" in _fails(capsys, "generate", model, "磨" * 100)
    assert "no-such-device" in _fails(capsys, "generate", model, "The", "--device", "no-such-device")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "standard input holds no line" in _fails(capsys, "generate", model, "-")


def test_evaluate_prints_numbers_and_counts(model, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("The mill stands by the river. " * 30)
    words = ("evaluate", model, str(tmp_path / "a.txt"), "--quiet", "--device", "cpu")
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("bits per byte")
    assert "cut                   nothing" in text
    assert main((*words, "--json", "--batch", "64", "--context", "16", "--stride", "4", "--max-tokens", "50")) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["context"], value["stride"], value["documents"], value["cut_documents"]) == (16, 4, 1, 1)
    assert value["bytes"] + value["cut_bytes"] == 900


def test_evaluate_refuses_what_it_can_not_do(model, capsys, tmp_path):
    good, empty, binary = (tmp_path / name for name in ("good.txt", "empty.txt", "binary.txt"))
    good.write_text("The mill.")
    empty.write_text("")
    binary.write_bytes(bytes(range(256)) * 20)
    assert "no such file" in _fails(capsys, "evaluate", model, str(tmp_path / "nothing.txt"))
    assert "1 empty" in _fails(capsys, "evaluate", model, str(empty))
    assert "64 positions" in _fails(capsys, "evaluate", model, str(good), "--context", "65")
    assert "no such model folder" in _fails(capsys, "evaluate", str(tmp_path / "nothing"), str(good))
    assert main(("evaluate", model, str(binary))) == 2
    assert "1 binary" in capsys.readouterr().err
