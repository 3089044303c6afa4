"""The rules of this repository, as tests: import directions, dependencies, sizes, documentation, types."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wordmill
from wordmill.cli import app
from wordmill.cli.app import Command
from wordmill.core.config import Config, read_yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wordmill"
RECIPES = sorted((ROOT / "recipes").glob("**/*.yaml"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 80

EXTRAS = """
transformers peft accelerate fastwarc resiliparse trafilatura mwparserfromhell ftfy py3langid rensa opencc seqeval sacrebleu rouge_score
sklearn fastapi uvicorn llguidance lm_eval captum torchao gguf onnx tensorboard wandb ray optuna codecarbon soundfile
jiwer jieba sentencepiece google pytest hypothesis datasets tqdm pandas matplotlib scipy
""".split()
"""Packages that only an extra (or nobody) installs."""


def _modules() -> list[str]:
    return [
        "wordmill",
        *(found.name for found in pkgutil.walk_packages(wordmill.__path__, "wordmill.") if not found.name.endswith("__main__")),
    ]


def _sources(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_packages_import_only_from_those_above_them():
    done = _run("-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_imports_without_any_extra():
    code = f"""
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        # Others may look for a package that they can do without, as huggingface_hub does for tqdm; we may not.
        caller, frame = "", sys._getframe()
        while frame is not None:
            caller = frame.f_globals.get("__name__", "")
            if not caller.startswith(("importlib", "_frozen_importlib", "__main__")):
                break
            frame = frame.f_back
        if name.partition(".")[0] in {EXTRAS!r} and caller.startswith("wordmill"):
            raise ModuleNotFoundError(f"{{caller}} imports {{name}}, which only an extra installs")
sys.meta_path.insert(0, Blocker())
for name in {_modules()!r}:
    importlib.import_module(name)
"""
    done = _run("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package", ["wordmill", "wordmill.core", "wordmill.corpus", "wordmill.tokenizer", "wordmill.cli.app", "wordmill.cli.common"]
)
def test_torch_is_imported_only_when_work_starts(package):
    done = _run("-c", f"import sys, {package}; print([name for name in ('torch', 'transformers') if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = "torch", "typer", "pyarrow", "numpy"
    code = f"import sys; from wordmill.cli.app import main; main(['--help']); print([name for name in {heavy} if name in sys.modules])"
    times = []
    for _ in range(3):
        before = os.times()
        done = _run("-c", code)
        after = os.times()
        # What it costs, not how long it took: other work on the machine does not count.
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(times) < 0.3


def _commands() -> list[tuple[str, Command]]:
    from wordmill.cli.docs import all_commands

    return all_commands()


@pytest.mark.parametrize(("name", "command"), _commands())
def test_the_table_of_commands_repeats_their_docstrings(name, command):
    module, function = command.place.split(":")
    docstring = getattr(importlib.import_module(f"wordmill.cli.{module}"), function).__doc__
    assert docstring.splitlines()[0] == command.help


def test_the_reference_of_the_command_line_is_current():
    from wordmill.cli.docs import reference

    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference(), "run: python -m wordmill.cli.docs > docs/cli.md"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds(path):
    tasks = pytest.importorskip("wordmill.tasks.pretrain", reason="no training task yet")
    assert tasks.PretrainConfig.of(read_yaml(path), where=str(path))


def _configs(cls: type[Config] = Config) -> Iterator[type[Config]]:
    for below in cls.__subclasses__():
        if below.__module__.startswith("wordmill."):
            yield below
        yield from _configs(below)


def test_every_setting_is_documented():
    for name in _modules():
        importlib.import_module(name)
    bare = [
        f"{cls.__module__}.{cls.__name__}.{name}" for cls in _configs() for name, field in cls.model_fields.items() if not field.description
    ]
    assert not bare, "put a docstring under each of these fields"


def test_every_public_name_exists():
    assert [name for name in wordmill.__all__ if not hasattr(wordmill, name)] == []


def test_files_and_functions_stay_short():
    long = []
    for path in [*_sources(PACKAGE), *_sources(ROOT / "tests"), *_sources(ROOT / "benchmarks")]:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if text.count("\n") > MAX_FILE_LINES:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{name}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_every_test_asserts_something():
    empty = []
    for path in _sources(ROOT / "tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not _asserts(node):
                empty.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not empty


def _asserts(function: ast.FunctionDef) -> bool:
    """Whether it asserts, expects an exception or a warning, or calls a helper whose name says that it checks."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("raises", "warns", "fail") or name.lstrip("_").startswith(("assert", "check", "expect")):
                return True
    return False


def test_library_code_does_not_print():
    found = []
    for path in _sources(PACKAGE):
        if "cli" in path.relative_to(PACKAGE).parts or path.name == "progress.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_types():
    done = _run("-m", "mypy")
    assert done.returncode == 0, done.stdout


def test_style():
    done = _run("-m", "ruff", "check", "--no-cache", "--output-format", "concise", ".")
    assert done.returncode == 0, done.stdout


def _commands_in(path: Path) -> Iterator[list[str]]:
    """The wordmill commands in a page's code blocks."""
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and line.removeprefix("$ ").startswith("wordmill ") and "…" not in line and "[" not in line:
            for part in line.removeprefix("$ ").split(" ; "):
                words = shlex.split(part.partition("  #")[0])
                yield words[1 : words.index("<")] if "<" in words else words[1:]


PAGES = [path for path in [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))] if path.name != "cli.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documentation_are_understood(path):
    for words in _commands_in(path):
        if words == ["--help"]:
            continue
        name, command, rest = app._find(words)
        assert isinstance(command, Command), words
        app.build(name, command).make_context(name, rest)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_the_documentation_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []
