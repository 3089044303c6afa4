"""Corpus building beside `datasets` (Hugging Face) doing load + filter + exact dedupe + split + write, on the same files.

    python benchmarks/corpus.py FILES… [--site FOLDER]     # --site: where `datasets` is installed, when it's not in this environment

Each runs in a process of its own, in turn, three times; medians of wall and CPU time (imports included), and peak memory.
`datasets` does less here: it doesn't
detect encodings, normalise, or hash its sources.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def with_wordmill(files: list[str], out: Path) -> int:
    from wordmill.corpus import CorpusConfig, build_corpus

    corpus = build_corpus(files, out / "corpus", CorpusConfig(split_text="line"))
    return corpus.count("train") + corpus.count("validation")


def with_datasets(files: list[str], out: Path) -> int:
    import hashlib

    import datasets

    datasets.disable_progress_bars()
    kind = {"jsonl": "json", "csv": "csv", "parquet": "parquet"}.get(files[0].rsplit(".", 1)[-1], "text")
    data = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(out / "cache"))
    data = data.remove_columns([name for name in data.column_names if name != "text"])
    data = data.filter(lambda texts: [bool(text) and not text.isspace() for text in texts], input_columns="text", batched=True)
    seen: set[bytes] = set()

    def fresh(texts: list[str]) -> list[bool]:
        answers = []
        for text in texts:
            key = hashlib.sha256(text.encode()).digest()[:16]
            answers.append(key not in seen)
            seen.add(key)
        return answers

    data = data.filter(fresh, input_columns="text", batched=True)
    parts = data.train_test_split(0.05, seed=0)
    for name, part in parts.items():
        part.to_parquet(str(out / f"{name}.parquet"))
    return len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--site", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=["wordmill", "datasets"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            count = {"wordmill": with_wordmill, "datasets": with_datasets}[options.one](options.files, Path(folder))
            seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        print(json.dumps({"documents": count, "seconds": seconds, "cpu": cpu, "memory": memory}))
        return
    size = sum(os.path.getsize(file) for file in options.files)
    results: dict[str, list[dict[str, float]]] = {"wordmill": [], "datasets": []}
    for _ in range(options.runs):
        for name, rows in results.items():
            path = [str(Path(__file__).parent.parent), *filter(None, [options.site])]
            command = [sys.executable, __file__, "--one", name, *options.files]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}
            rows.append(json.loads(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout))
    for name, rows in results.items():
        seconds = statistics.median(row["seconds"] for row in rows)
        memory = max(row["memory"] for row in rows) / 1e6
        cpu = statistics.median(row["cpu"] for row in rows)
        count = rows[0]["documents"]
        rates = f"{size / seconds / 1e6:7.1f} MB/s  {size / cpu / 1e6:7.1f} MB per CPU second  {count / seconds:9,.0f} documents/s"
        print(f"{name:9} {rates}  {memory:6,.0f} MB peak  {count:,} documents")


if __name__ == "__main__":
    main()
