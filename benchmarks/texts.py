"""Summaries and translations on real data: scores after a given time, beside copying and the first sentences.

Repeat it:
    python benchmarks/texts.py DATA                        all tasks, 20 minutes each (DATA holds multi30k, tatoeba_cmn_eng, dialogsum, csl)
    python benchmarks/texts.py DATA --only en-de --model t5 qwen3 --time 20m --threads 2

Each run is one `wordmill finetune` from scratch, in a process of its own; --time is all of it (reading, tokenizer, training, judging),
but for the answers to the test examples, which are timed apart. Multi30k: its 29,000 training pairs, val to choose the weights by,
test_2016_flickr to judge. Tatoeba: the pairs in a fixed shuffled order, sources that stand several times on one side, 500 to choose by,
1,000 to judge. DialogSum and CSL have no training part in DATA: of their dev part 80 are kept to choose the weights by and the rest is
learned, and the test part judges (of DialogSum's three summaries the first). So little text teaches a model from scratch the form of a
summary, no more.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common

SEED = 0
TRANSFORMER = ("--size", "10m")
SHAPES = {"t5": TRANSFORMER, "bart": TRANSFORMER, "qwen3": TRANSFORMER, "lstm": ("model.hidden_size=512", "model.layers=2")}
"""What each kind of model is, unless --size says otherwise."""
Files = dict[str, list[Path]]


def multi30k(data: Path, place: Path, source: str, target: str) -> Files:
    raw = data / "multi30k" / "data" / "task1" / "raw"
    found: Files = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test_2016_flickr")):
        found[split] = []
        for language in (source, target):
            path = place / f"{split}.{language}"
            path.write_bytes(gzip.decompress((raw / f"{name}.{language}.gz").read_bytes()))
            found[split].append(path)
    return found


def tatoeba(data: Path, place: Path) -> Files:
    groups: dict[str, list[str]] = {}
    for line in (data / "tatoeba_cmn_eng" / "cmn.txt").read_text(encoding="utf-8").splitlines():
        english, chinese = line.split("\t")[:2]
        groups.setdefault(chinese, []).append(english)
    sources = sorted(groups)
    random.Random(SEED).shuffle(sources)
    parts = {"test": sources[:1000], "validation": sources[1000:1500], "train": sources[1500:]}
    rows = {split: [{"zh": source, "en": text} for source in some for text in groups[source]] for split, some in parts.items()}
    return {split: [_jsonl(place / f"{split}.jsonl", some)] for split, some in rows.items()}


def dialogsum(data: Path, place: Path) -> Files:
    def rows(name: str, summary: str) -> list[dict[str, str]]:
        lines = (data / "dialogsum" / f"dialogsum.{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [{"dialogue": row["dialogue"], "summary": row[summary]} for row in map(json.loads, lines)]

    return _from_dev(place, rows("dev", "summary"), rows("test", "summary1"))


def csl(data: Path, place: Path) -> Files:
    def rows(name: str) -> list[dict[str, str]]:
        lines = (data / "csl" / "ts" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        return [dict(zip(("abstract", "title"), line.split("\t")[1:3], strict=True)) for line in lines]

    return _from_dev(place, rows("dev"), rows("test"))


def _from_dev(place: Path, dev: list[dict[str, str]], test: list[dict[str, str]]) -> Files:
    parts = {"train": dev[80:], "validation": dev[:80], "test": test}
    return {split: [_jsonl(place / f"{split}.jsonl", rows)] for split, rows in parts.items()}


def _jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


CASES: dict[str, tuple[str, Callable[[Path, Path], Files]]] = {
    "en-de": ("translate", lambda data, place: multi30k(data, place, "en", "de")),
    "de-en": ("translate", lambda data, place: multi30k(data, place, "de", "en")),
    "zh-en": ("translate", tatoeba),
    "dialogsum": ("summarize", dialogsum),
    "csl": ("summarize", csl),
}


def one(case: str, model: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Train, then judge on the test examples in a second process."""
    task, make = CASES[case]
    place.mkdir()
    files = make(Path(options.data), place)
    shape = ("--size", options.size) if options.size and model != "lstm" else SHAPES[model]
    validation = [word for path in files["validation"] for word in ("--validation", str(path))]
    env = {"OMP_NUM_THREADS": str(options.threads)}
    trained = common.wordmill("finetune", task, *map(str, files["train"]), "--model", model, "-o", str(place / "run"), *validation, *shape,
                              "--time", options.time, "--seed", str(SEED), "--max-tokens", str(options.max_tokens), "--quiet", "--json",
                              *options.setting, env=env, timeout=36_000)  # fmt: skip
    tested = common.wordmill("evaluate", str(place / "run"), *map(str, files["test"]), "--json", "--quiet", env=env, timeout=36_000)
    judged = tested.json()
    facts = trained.json()
    row = {"case": case, "model": model, "parameters": facts["parameters"], "training_examples": facts["examples"], "steps": facts["step"],
           "seconds": round(trained.seconds, 1), "seconds_judging": round(tested.seconds, 1),
           **{name: judged[name] for name in ("headline", "metrics", "intervals", "baselines", "examples", "cut", "remarks")},
           "details": judged["details"]}  # fmt: skip
    common.log(f"{case} {model}: {judged['metrics']}, {facts['step']:,} steps, {trained.seconds:.0f} s")
    return row


HEAD = ("task", "model", "weights", "steps", "s", "score", "", "95 % interval", "without a model")


def lines(row: dict[str, Any]) -> list[list[object]]:
    """A line of the table for each score."""
    found: list[list[object]] = []
    for name, value in row["metrics"].items():
        low, high = row["intervals"][name]
        beside = ", ".join(f"{other} {scores[name]:.3f}" for other, scores in row["baselines"].items())
        found.append([row["case"], row["model"], f"{row['parameters']:,}", row["steps"], row["seconds"], name, f"{value:.3f}",
                      f"{low:.3f} … {high:.3f}", beside])  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--model", nargs="+", choices=list(SHAPES), default=["t5", "qwen3"])
    parser.add_argument("--size")
    parser.add_argument("--time", default="20m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--setting", action="append", default=[], help="a further setting, such as train.rows=64 (repeatable)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="wordmill-texts-") as folder:
        for case in options.only:
            for model in options.model:
                rows.append(one(case, model, options, Path(folder) / f"{case}-{model}"))
    settings = {name: value for name, value in vars(options).items() if name != "data"}
    common.save("texts", {"settings": settings, "rows": rows}, common.table(HEAD, [line for row in rows for line in lines(row)]))


if __name__ == "__main__":
    main()
