"""Corpus building and token encoding: megabytes a second per core, wordmill beside `datasets` + `tokenizers` doing the same job.

Repeat it:
    python benchmarks/tokenizing.py --text wiki.train.txt --megabytes 60 --rounds 3
Needs: tokenizers, datasets (left out where it is missing), a text file. The input is one JSONL file of documents cut from that
text; copies differ in their first words, and every twentieth document comes twice, so that deduplication has something to do.

The job `build`: read the JSONL, normalise to NFC without control characters, drop empty and duplicate documents by hash, split
by hash, write Parquet. The job `encode`: the training documents into one file of token ids, with an end-of-text token after each, by a
byte-level BPE that both sides share. Both sides use all cores (`--threads`); the figure is divided by their number.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
HELD_OUT = 20  # one document in this many is for validation


def write_input(text: Path, path: Path, megabytes: int) -> int:
    """Write the JSONL of documents of about 2,000 characters; returns the bytes of text in it."""
    source = text.read_text(encoding="utf-8", errors="strict")
    documents = [source[i : i + 2000] for i in range(0, len(source), 2000)]
    total = number = 0
    with path.open("w", encoding="utf-8") as file:
        while total < megabytes * 1_000_000:
            document = f"Document {number}. {documents[number % len(documents)]}"
            for _ in range(2 if number % 20 == 0 else 1):
                file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                total += len(document.encode())
            number += 1
    return total


def train_tokenizer(source: Path, path: Path, vocabulary: int) -> None:
    """A byte-level BPE on the first megabytes of the input, for both sides."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"], show_progress=False,
    )  # fmt: skip
    with source.open(encoding="utf-8") as file:
        lines = [json.loads(line)["text"] for _, line in zip(range(5000), file, strict=False)]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.save(str(path))


def clean(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    """NFC, no control characters, a hash: what a careful user of `datasets` maps over the documents."""
    texts = [CONTROL.sub("", unicodedata.normalize("NFC", text)) for text in batch["text"]]
    return {"text": texts, "hash": [hashlib.sha256(text.encode()).hexdigest() for text in texts]}


def worker_datasets(options: argparse.Namespace) -> dict[str, float]:
    """Both jobs with `datasets` and `tokenizers`; seconds of each."""
    import datasets
    import numpy as np
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=str(options.input), split="train", cache_dir=cache)
        workers = options.threads if options.threads > 1 else None
        data = data.map(clean, batched=True, num_proc=workers)
        seen: set[str] = set()

        def fresh(text: str, digest: str) -> bool:
            if not text.strip() or digest in seen:
                return False
            seen.add(digest)
            return True

        data = data.filter(fresh, input_columns=["text", "hash"])
        held_out = [int(digest[:8], 16) % HELD_OUT == 0 for digest in data["hash"]]
        parts = {"train": [i for i, held in enumerate(held_out) if not held], "validation": [i for i, held in enumerate(held_out) if held]}
        for name, rows in parts.items():
            data.select(rows).to_parquet(str(options.folder / f"{name}.parquet"))
        built = time.perf_counter() - start
        start = time.perf_counter()
        tokenizer = Tokenizer.from_file(str(options.tokenizer))
        end = tokenizer.token_to_id("<|endoftext|>")

        def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
            return {"ids": [[*encoding.ids, end] for encoding in tokenizer.encode_batch_fast(batch["text"])]}

        train = datasets.load_dataset("parquet", data_files=str(options.folder / "train.parquet"), split="train", cache_dir=cache)
        # encode_batch_fast already runs on every core
        tokens = train.map(encode, batched=True, remove_columns=train.column_names)
        with (options.folder / "train.bin").open("wb") as file:
            for batch in tokens.with_format("arrow").iter(batch_size=1000):
                file.write(batch["ids"].combine_chunks().flatten().to_numpy().astype(np.uint16).tobytes())
        return {"build": built, "encode": time.perf_counter() - start}


def worker_wordmill(options: argparse.Namespace) -> dict[str, float]:
    """`encode` by wordmill's Python API on a corpus that is built already."""
    import wordmill as wm
    from wordmill.batches.store import encode_corpus

    start = time.perf_counter()
    corpus, tokenizer = wm.Corpus.open(options.folder / "corpus"), wm.Tokenizer.load(options.tokenizer)
    encode_corpus(corpus, tokenizer, options.folder / "tokens", splits=["train"], threads=options.threads)
    return {"encode": time.perf_counter() - start}


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process."""
    with contextlib.redirect_stdout(sys.stderr):
        seconds = worker_datasets(options) if options.worker == "datasets" else worker_wordmill(options)
    common.print_json(seconds)


def run(side: str, source: Path, tokenizer: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One round of one side: seconds of both jobs and peak memory."""
    env = {"RAYON_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--folder", folder, "--input", str(source), "--tokenizer", str(tokenizer), "--threads", str(options.threads)]
        result: dict[str, Any] = {"peak_bytes": 0}
        if side == "wordmill":
            built = common.wordmill(
                "corpus", "build", str(source), "-o", str(Path(folder) / "corpus"), "--validation", str(1 / HELD_OUT), "--quiet", env=env
            )
            result = {"build": built.seconds, "peak_bytes": built.peak_bytes}
        measured = common.child(__file__, side, *arguments, env=env)
        return {**result, **measured.json(), "peak_bytes": max(result["peak_bytes"], measured.peak_bytes)}


def main() -> None:
    """Parse the command line, run the rounds, write benchmarks/results/tokenizing.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="where the documents are cut from")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers-only", action="store_true")
    for hidden in ("--folder", "--input", "--tokenizer"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    if not options.text:
        parser.error("--text is needed")
    with tempfile.TemporaryDirectory() as name:
        source, tokenizer = Path(name) / "input.jsonl", Path(name) / "tokenizer.json"
        size = write_input(options.text, source, options.megabytes)
        train_tokenizer(source, tokenizer, options.vocab)
        sides = ([] if options.peers_only else ["wordmill"]) + (["datasets"] if importlib.util.find_spec("datasets") else [])
        cases: dict[str, Callable[[], dict[str, Any]]] = {side: functools.partial(run, side, source, tokenizer, options) for side in sides}
        results = common.interleave(cases, options.rounds)
    rows, summary = [], {}
    for job, parts in {"build": ["build"], "encode": ["encode"], "both": ["build", "encode"]}.items():
        seconds = {side: common.median([sum(r[part] for part in parts) for r in rounds]) for side, rounds in results.items()}
        summary[job] = speeds = {side: size / 1e6 / each / options.threads for side, each in seconds.items()}
        for side, speed in speeds.items():
            ratio = f"{speeds['wordmill'] / speed:.2f} ×" if "wordmill" in speeds else "–"
            memory = max(r["peak_bytes"] for r in results[side]) / 2**30
            rows.append([job, side, f"{speed:.2f}", ratio, f"{memory:.2f} GiB"])
    text = common.table(["job", "side", "MB/s a core", "wordmill is faster by", "peak memory, both jobs"], rows)
    common.save("tokenizing", {"bytes": size, "threads": options.threads, "megabytes_per_second_per_core": summary, "raw": results}, text)


if __name__ == "__main__":
    main()
