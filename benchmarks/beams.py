"""Beam search in an encoder–decoder: tokens a second, wordmill beside `transformers`, with the same weights and sources.

Repeat it:
    python benchmarks/beams.py --rounds 3
    python benchmarks/beams.py --rounds 3 --before OTHER        beside another version of wordmill, whose checkout is OTHER
Needs: transformers. A T5 of random weights (speed doesn't depend on them), saved by transformers in bf16; sources of random tokens; every
answer is as long as may be, so that both sides write as much. The sides take turns, each in a process of its own; loading doesn't count,
and a first answer warms up. The tokens counted are those of the best answers.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

SHAPE: dict[str, Any] = {"vocab_size": 4096, "d_model": 256, "d_kv": 64, "d_ff": 704, "num_layers": 4, "num_heads": 4,
                         "feed_forward_proj": "gated-gelu"}  # fmt: skip
NUMBERS = ("texts", "source", "tokens", "beams", "threads")
"""Options that a worker is told, and that the result keeps."""


def build(folder: Path) -> None:
    """Save the model."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(**SHAPE, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    transformers.T5ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process: seconds of writing all answers."""
    import torch

    torch.set_num_threads(options.threads)
    draw = random.Random(0)
    sources = [[draw.randrange(2, SHAPE["vocab_size"]) for _ in range(options.source)] for _ in range(options.texts)]
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    if options.side == "transformers":
        import transformers

        transformers.logging.set_verbosity_error()
        theirs = transformers.T5ForConditionalGeneration.from_pretrained(options.model, dtype=dtype).eval()

        def write(some: list[list[int]], tokens: int) -> int:
            length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
            found = theirs.generate(torch.tensor(some), num_beams=options.beams, do_sample=False, **length)
            return int((found.shape[1] - 1) * len(some))
    else:
        from wordmill.generate import BeamConfig, beam_search
        from wordmill.models.folder import load_model

        ours = load_model(options.model, dtype=dtype).eval()

        def write(some: list[list[int]], tokens: int) -> int:
            found = beam_search(ours, [[0]] * len(some), BeamConfig(beams=options.beams, max_tokens=tokens), eos=[], sources=some)
            return sum(len(answers[0].ids) for answers in found)

    write(sources[:1], 4)
    start = time.perf_counter()
    tokens = write(sources, options.tokens)
    seconds = time.perf_counter() - start
    assert tokens == options.tokens * options.texts, tokens
    common.print_json({"seconds": seconds, "tokens": tokens})


def run(side: str, dtype: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One round of one side."""
    words = ["--side", side, "--dtype", dtype, "--model", str(model)]
    words += [word for name in NUMBERS for word in (f"--{name}", str(getattr(options, name)))]
    env = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    if side == "before":
        env["PYTHONPATH"] = str(options.before)
    measured = common.child(__file__, *words, env=env)
    return {**measured.json(), "peak_bytes": measured.peak_bytes}


def main() -> None:
    """Parse the command line, run the rounds, write benchmarks/results/beams.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--source", type=int, default=300, help="tokens of a source")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--before", type=Path, help="a checkout of another version of wordmill")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    for hidden in ("--side", "--dtype", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    sides = ["wordmill", *(["before"] if options.before else []), "transformers"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        cases = {f"{side} | {dtype}": functools.partial(run, side, dtype, folder, options) for dtype in options.dtypes for side in sides}
        results = common.interleave(cases, options.rounds)
    rows = []
    for case, found in results.items():
        side, dtype = case.split(" | ")
        seconds = common.median([one["seconds"] for one in found])
        ours = common.median([one["seconds"] for one in results[f"wordmill | {dtype}"]])
        peak = max(one["peak_bytes"] for one in found) / 2**30
        rows.append([dtype, side, f"{found[0]['tokens'] / seconds:.0f}", f"{seconds / ours:.2f} ×", f"{peak:.2f} GiB"])
    text = common.table(["numbers", "side", "tokens/s", "wordmill is faster by", "peak memory"], rows)
    text += f"\n\n{options.texts} sources of {options.source} tokens, answers of {options.tokens}, {options.beams} beams, threads: "
    text += f"{options.threads}; seconds: median of {options.rounds}."
    common.save("beams", {"settings": {name: getattr(options, name) for name in (*NUMBERS, "rounds", "dtypes")}, "raw": results}, text)


if __name__ == "__main__":
    main()
