"""A small task that writes, and examples to translate and to summarise, for the tests of generative fine-tuning."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from wordmill.core.progress import SILENT
from wordmill.models.folder import read_config
from wordmill.tasks.examples import Record
from wordmill.tasks.task import Tools
from wordmill.tasks.written import Written, WrittenConfig
from wordmill.tokenizer import Tokenizer

FAMILIES = ("t5", "qwen3", "lstm")
RECORDS = [Record({"q": "the mill river grain", "a": "grain river"}, "f:1"), Record({"q": "flour stone", "a": "stone"}, "f:2"),
           Record({"q": "wheel water day night", "a": "night day water wheel"}, "f:3")]  # fmt: skip
WORDS = dict(zip("river mill stone water grain flour".split(), "fluss muehle stein wasser korn mehl".split(), strict=True))


class Echo(Written):
    name, Settings = "echo", WrittenConfig

    def source(self, record: Record) -> str:
        return str(record.values["q"])

    def target(self, record: Record) -> str:
        return str(record.values["a"])


def settled(folder: Path, most: int = 40, **settings: Any) -> tuple[Echo, Tools]:
    """The task as it is for a model folder, and its tools."""
    tools = Tools(Tokenizer.load(folder), read_config(folder), most)
    task = Echo(settings)
    task.settle(tools, RECORDS, SILENT)
    return task, tools


def write_pairs(folder: Path) -> Path:
    """train.tsv and test.tsv: some words, and the same in another language; no source stands in both."""
    generator = random.Random(0)
    seen: set[str] = set()
    for name, n in (("test", 24), ("train", 150)):
        rows: list[str] = []
        while len(rows) < n:
            words = generator.choices(list(WORDS), k=generator.choice((2, 3, 4)) if name == "train" else 4)
            source = " ".join(words)
            if source not in seen:
                seen.add(source)
                rows.append(f"{source}\t{' '.join(WORDS[word] for word in words)}")
        (folder / f"{name}.tsv").write_text("\n".join(["en\tde", *rows]) + "\n", encoding="utf-8")
    return folder
