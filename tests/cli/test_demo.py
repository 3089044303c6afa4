from __future__ import annotations

import json

import pytest

from wordmill.cli import app
from wordmill.cli.demo import copy_library, free_name
from wordmill.core.errors import DataError


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands that the demo runs, noted instead of run; the library is a small one."""
    library = tmp_path / "library"
    for name in ("a.py", "b/c.py", "site-packages/other.py", "test/badsyntax.py", "test/data/x.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("x = 1\n" * 100_000)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(library))
    monkeypatch.chdir(tmp_path)
    real, found = app.call, []

    def call(words):
        if words[0] == "demo":
            return real(words)
        found.append(list(words))
        print("what the command says")
        return 0

    monkeypatch.setattr(app, "call", call)
    return found


def test_the_whole_way_as_commands(commands, capsys):
    assert app.main(["demo", "--time", "3m"]) == 0
    assert [words[0] for words in commands] == ["corpus", "tokenizer", "pretrain", "evaluate", "generate"]
    shown = capsys.readouterr()
    assert "$ wordmill pretrain runs/demo/corpus --tokenizer runs/demo/tokenizer -o runs/demo/run --time 3m" in shown.err
    assert "runs/demo/run/report.html" in shown.out
    assert "wordmill pretrain my_texts/" in shown.out


def test_a_second_demo_overwrites_nothing(commands, tmp_path):
    for _ in range(3):
        assert app.main(["demo", "-q"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["demo", "demo-2", "demo-3"]
    assert commands[-1][-1] == "--quiet"


def test_json_is_alone_on_standard_output(commands, capsys):
    assert app.main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "runs/demo/run/model"
    assert len(commands) == 5


def test_a_step_that_fails_ends_it(commands, monkeypatch, capsys):
    real = app.call
    monkeypatch.setattr(app, "call", lambda words: 3 if words[0] == "tokenizer" else real(words))
    assert app.main(["demo"]) == 2
    assert "tokenizer train" in capsys.readouterr().err.splitlines()[-1]
    assert [words[0] for words in commands] == ["corpus"]


@pytest.mark.usefixtures("commands")
def test_copies_the_library_without_packages_and_broken_files(tmp_path):
    assert copy_library(tmp_path / "copy") == (2, 1_200_000)
    assert {path.name for path in (tmp_path / "copy").rglob("*.py")} == {"a.py", "c.py"}


def test_a_python_without_its_library_as_text(tmp_path):
    with pytest.raises(DataError, match="without its library"):
        copy_library(tmp_path / "copy", tmp_path / "nothing")


def test_free_name(tmp_path):
    assert free_name(tmp_path / "x") == tmp_path / "x"
    (tmp_path / "x").mkdir()
    assert free_name(tmp_path / "x") == tmp_path / "x-2"
