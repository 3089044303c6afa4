from __future__ import annotations

import json
from pathlib import Path

import pytest

from wordmill.cli import app
from wordmill.cli.demo import copy_library, free_name
from wordmill.core.errors import DataError


def write_run(folder: Path, accuracy: float) -> None:
    """What the demo reads of a fine-tuning run."""
    folder.mkdir(parents=True)
    test = {"metrics": {"accuracy": accuracy}, "baselines": {"majority class": {"accuracy": 0.25}}}
    (folder / "run.json").write_text(json.dumps({"metrics": {"test": test}}))


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands that the demo runs, noted instead of run; the library is a small one."""
    library = tmp_path / "library"
    for name in ("a.py", "b/c.py", "site-packages/other.py", "test/badsyntax.py", "test/data/x.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("# a line\n" * 70_000)
    for package in ("mill", "river"):
        (library / f"{package}.py").write_text("\n".join(f'def f{n}():\n    """Open the {package} {n}."""' for n in range(150)))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(library))
    monkeypatch.chdir(tmp_path)
    real, found = app.call, []

    def call(words):
        if words[0] == "demo":
            return real(words)
        found.append(list(words))
        if words[0] == "pretrain":
            Path(words[words.index("-o") + 1]).mkdir(parents=True, exist_ok=True)
        if words[0] == "finetune":
            write_run(Path(words[words.index("-o") + 1]), 0.5 if "--fresh" in words else 0.75)
        print("what the command says")
        return 0

    monkeypatch.setattr(app, "call", call)
    return found


def test_the_whole_way_as_commands(commands, capsys):
    assert app.main(["demo", "--time", "3m"]) == 0
    assert [words[0] for words in commands] == ["corpus", "tokenizer", "pretrain", "evaluate", "generate", *["finetune"] * 6]
    shown = capsys.readouterr()
    assert "$ wordmill pretrain runs/demo/corpus --tokenizer runs/demo/tokenizer -o runs/demo/run --time 3m" in shown.err
    assert "runs/demo/run/report.html" in shown.out
    assert "wordmill pretrain my_texts/" in shown.out


def test_what_pretraining_bought(commands, capsys):
    assert app.main(["demo"]) == 0
    shown = capsys.readouterr().err
    assert "75.0 %" in shown and "held-out docstrings" in shown and len(commands) == 11
    page = Path("runs/demo/run/report.html").read_text()
    assert "What pretraining bought" in page and "50.0 %" in page
    assert Path("runs/demo/pretraining.svg").read_text().startswith("<svg")


def test_a_second_demo_overwrites_nothing(commands, tmp_path):
    for _ in range(3):
        assert app.main(["demo", "-q"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["demo", "demo-2", "demo-3"]
    assert commands[-1][-1] == "--quiet"


def test_json_is_alone_on_standard_output(commands, capsys):
    assert app.main(["demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "runs/demo/run/model" and [gain["share"] for gain in found["gains"]] == [100, 30, 10]
    assert len(commands) == 11


def test_a_step_that_fails_ends_it(commands, monkeypatch, capsys):
    real = app.call
    monkeypatch.setattr(app, "call", lambda words: 3 if words[0] == "tokenizer" else real(words))
    assert app.main(["demo"]) == 2
    assert "tokenizer train" in capsys.readouterr().err.splitlines()[-1]
    assert [words[0] for words in commands] == ["corpus"]


@pytest.mark.usefixtures("commands")
def test_copies_the_library_without_packages_and_broken_files(tmp_path):
    files, size = copy_library(tmp_path / "copy")
    assert files == 4 and size > 1_260_000
    assert {path.name for path in (tmp_path / "copy").rglob("*.py")} == {"a.py", "c.py", "mill.py", "river.py"}


def test_a_python_without_its_library_as_text(tmp_path):
    with pytest.raises(DataError, match="without its library"):
        copy_library(tmp_path / "copy", tmp_path / "nothing")


def test_free_name(tmp_path):
    assert free_name(tmp_path / "x") == tmp_path / "x"
    (tmp_path / "x").mkdir()
    assert free_name(tmp_path / "x") == tmp_path / "x-2"
