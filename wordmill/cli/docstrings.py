"""The demo's task: which package of Python's library a docstring comes from. Labels made from the library itself, the runs that show what
pretraining brings, their table and their picture."""

from __future__ import annotations

import ast
import json
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wordmill.core.errors import DataError
from wordmill.core.files import write_text
from wordmill.core.progress import plural
from wordmill.core.svg import line_plot

PACKAGES = 10
"""Labels: the packages and modules with the most docstrings."""
MOST, MOST_CHARACTERS = 2500, 300
"""Docstrings to train on, at most; and of each as many characters."""
EPOCHS = {100: 5, 30: 9, 10: 15}
"""Percent of the labels, and how often they are gone over: more often the fewer there are, with and without pretraining alike."""


@dataclass(frozen=True)
class Docstring:
    """A docstring, and the package that it stands in."""

    text: str
    label: str


def docstrings(library: Path) -> Iterator[Docstring]:
    """Those of all modules, classes and functions below a folder of .py files, cut to `MOST_CHARACTERS`; the label is the folder, or the
    module, right below it. Files that Python can't parse and docstrings of one word are passed over."""
    for path in sorted(library.rglob("*.py")):
        label = path.relative_to(library).parts[0].removesuffix(".py")
        if label in ("test", "tests"):  # tests of all other packages
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in the library's own strings
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())[:MOST_CHARACTERS]
                if len(text.split()) > 1:
                    yield Docstring(text, label)


def write_examples(library: Path, folder: Path, seed: int) -> dict[str, int]:
    """Write test.jsonl, validation.jsonl and, for each share of `EPOCHS`, train-SHARE.jsonl into `folder`; the smaller training files are
    the beginnings of the larger. Returns the number of examples by file.

    Equal docstrings are kept once; those of several packages are left out. Raises `DataError` where there are too few.
    """
    owners: dict[str, set[str]] = {}
    for found in docstrings(library):
        owners.setdefault(found.text, set()).add(found.label)
    single = {text: next(iter(labels)) for text, labels in owners.items() if len(labels) == 1}
    kept = {label for label, _ in Counter(single.values()).most_common(PACKAGES)}
    examples = [Docstring(text, label) for text, label in single.items() if label in kept]
    if len(kept) < 2 or len(examples) < 200:
        raise DataError(f"only {plural(len(examples), 'docstring')} of {plural(len(kept), 'package')}: too few to learn "
                        f"from", where=library)
    random.Random(seed).shuffle(examples)
    held, checked = len(examples) // 5, len(examples) // 10
    train = examples[held + checked :][:MOST]
    files = {"test": examples[:held], "validation": examples[held : held + checked],
             **{f"train-{share}": train[: len(train) * share // 100] for share in EPOCHS}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in files.items():
        lines = (json.dumps({"text": one.text, "label": one.label}, ensure_ascii=False) for one in part)
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    return {name: len(part) for name, part in files.items()}


def finetune_words(share: int, fresh: bool, folder: Path, model: Path, seed: int) -> list[str]:
    """The command that learns from one share of the labels."""
    data = folder / "docstrings"
    words = ["finetune", "classify", str(data / f"train-{share}.jsonl"), "--validation", str(data / "validation.jsonl"), "--test",
             str(data / "test.jsonl"), "--model", str(model), "--epochs", str(EPOCHS[share]), "--seed", str(seed),
             "-o", str(folder / f"{'fresh' if fresh else 'tuned'}-{share}")]  # fmt: skip
    return [*words, "--fresh"] if fresh else words


@dataclass(frozen=True)
class Gain:
    """What came out for one share of the labels: accuracies on the held-out docstrings."""

    share: int
    examples: int
    pretrained: float
    fresh: float
    baselines: Mapping[str, float]


def read_gain(share: int, examples: int, folder: Path) -> Gain:
    """From the two finished runs."""
    pretrained, fresh = (json.loads((folder / f"{kind}-{share}" / "run.json").read_text(encoding="utf-8"))["metrics"]["test"]
                         for kind in ("tuned", "fresh"))  # fmt: skip
    baselines = {name: scores["accuracy"] for name, scores in pretrained["baselines"].items()}
    return Gain(share, examples, pretrained["metrics"]["accuracy"], fresh["metrics"]["accuracy"], baselines)


def gain_text(gains: Sequence[Gain]) -> str:
    """A table for the terminal."""
    names = list(gains[0].baselines)
    head = ["labels", "examples", "pretrained", "from scratch", *names]
    rows = [[f"{g.share} %", f"{g.examples:,}", *(f"{100 * value:.1f} %" for value in (g.pretrained, g.fresh, *g.baselines.values()))]
            for g in gains]  # fmt: skip
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])


def gain_plot(gains: Sequence[Gain]) -> str:
    """Accuracy by number of labelled examples, as an SVG element."""
    series = {"pretrained": [(float(g.examples), 100 * g.pretrained) for g in gains],
              "from scratch": [(float(g.examples), 100 * g.fresh) for g in gains]}  # fmt: skip
    series |= {name: [(float(g.examples), 100 * g.baselines[name]) for g in gains] for name in gains[0].baselines}
    return line_plot(series, title="Which package is this docstring from?", x_label="labelled docstrings", y_label="right, %", log_x=True,
                     marks=True, y_from_zero=True, y_format=lambda value: f"{value:.0f}")  # fmt: skip


def gain_page(gains: Sequence[Gain]) -> str:
    """Table and picture, as HTML for the report."""
    names = ["pretrained", "from scratch", *gains[0].baselines]
    head = "".join(f'<th class="number">{name}</th>' for name in ("labels", "examples", *names))
    rows = "".join(
        f'<tr><td class="number">{g.share} %</td><td class="number">{g.examples:,}</td>'
        + "".join(f'<td class="number">{100 * value:.1f} %</td>' for value in (g.pretrained, g.fresh, *g.baselines.values())) + "</tr>"
        for g in gains
    )  # fmt: skip
    told = ("The same network learned from the same labelled docstrings, once from what pretraining left and once from new weights. "
            "Held-out docstrings; pretraining had read all of the library, without labels.")  # fmt: skip
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return (f"<h2>What pretraining bought</h2><p class=sub>{told}</p>"
            f'<div class="card"><div style="max-width:760px">{gain_plot(gains)}</div>{table}</div>')  # fmt: skip
