"""Tokens a second when one sequence is generated: wordmill beside `transformers`' generate, and the share of memory bandwidth.

Repeat it:
    python benchmarks/generation.py --rounds 3
    python benchmarks/generation.py --shapes llama-135m --tokens 256
Needs: transformers. The weights are random (speed does not depend on them), saved by transformers itself in bf16, and both sides
open the same folder. A token's time is the difference between a long and a short answer to the same prompt, divided by the
difference in length, so that loading, prefill and compilation do not count. The bandwidth is measured in the same round by
reading a buffer that is far larger than the caches; the bytes a token reads are those of the weights in matrix products.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common

SHORT = 8  # tokens of the short answer
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-124m": {"class": "GPT2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
    "llama-135m": {
        "class": "Llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "max_position_embeddings": 2048,
    },
    "qwen3-135m": {
        "class": "Qwen3", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    },
}  # fmt: skip


def build(shape: str, folder: Path) -> int:
    """Save a model with random weights and a byte-level tokenizer; returns the bytes of weights that one token reads."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    values = dict(SHAPES[shape])
    name = values.pop("class")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**values, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    for i in range(len(vocabulary), values["vocab_size"]):
        vocabulary[f"<{i}>"] = i  # the vocabulary must be as large as the model's, so that every id can be printed
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and not n.endswith("wpe.weight"))
    return matrices * 2


def worker_transformers(folder: Path, prompt: str, lengths: tuple[int, int], dtype: str) -> list[float]:
    """Seconds of a short and of a long greedy answer by `transformers`' generate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    ids = tokenizer(prompt, return_tensors="pt")
    seconds = []
    for length in (SHORT, *lengths):  # the first one warms up
        start = time.perf_counter()
        out = model.generate(**ids, max_new_tokens=length, min_new_tokens=length, do_sample=False, pad_token_id=0)
        seconds.append(time.perf_counter() - start)
        if out.shape[1] - ids["input_ids"].shape[1] != length:
            raise SystemExit("transformers stopped early")
    return seconds[1:]


def worker_wordmill(folder: Path, prompt: str, lengths: tuple[int, int]) -> list[float]:
    """The same by wordmill's Python API."""
    import wordmill as wm

    model = wm.load(folder, dtype="bf16")
    model.eos = frozenset()  # random weights end where they like; the peer is told to go on as well
    seconds = []
    for length in (SHORT, *lengths):
        start = time.perf_counter()
        answer = model.generations([prompt], max_tokens=length, temperature=0.0)[0]
        seconds.append(time.perf_counter() - start)
        if len(answer.ids) != length:
            raise SystemExit(f"wordmill stopped early: {answer.reason}")
    return seconds[1:]


def worker_bandwidth(threads: int) -> float:
    """Bytes a second when a buffer of 1 GiB is read by all threads; the best of several passes."""
    import torch

    torch.set_num_threads(threads)
    buffer = torch.ones(2**28, dtype=torch.float32)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        buffer.sum().item()
        best = min(best, time.perf_counter() - start)
    return buffer.numel() * 4 / best


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process."""
    import torch

    torch.set_num_threads(options.threads)
    lengths = (SHORT, SHORT + options.tokens)
    with contextlib.redirect_stdout(sys.stderr):
        if options.worker == "bandwidth":
            answer: dict[str, Any] = {"bytes_per_second": worker_bandwidth(options.threads)}
        elif options.worker == "wordmill":
            answer = {"seconds": worker_wordmill(options.folder, options.prompt, lengths)}
        else:
            dtype = {"bf16": "bfloat16", "fp32": "float32"}[options.worker.split("-")[1]]
            answer = {"seconds": worker_transformers(options.folder, options.prompt, lengths, dtype)}
    common.print_json(answer)


def run(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One measured process; tokens a second from the difference of the two answers."""
    arguments = ["--folder", str(folder), "--tokens", str(options.tokens), "--threads", str(options.threads), "--prompt", options.prompt]
    measured = common.child(__file__, name, *arguments, env={"OMP_NUM_THREADS": str(options.threads)})
    answer = measured.json()
    if "seconds" in answer:
        short, long = answer["seconds"]
        answer["tokens_per_second"] = options.tokens / (long - short)
    return {**answer, "peak_bytes": measured.peak_bytes}


def main() -> None:
    """Parse the command line, run the rounds for each shape, write benchmarks/results/generation.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["gpt2-124m", "qwen3-135m", "llama-135m"], choices=list(SHAPES))
    parser.add_argument("--tokens", type=int, default=128, help="tokens that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", default="Once upon a time there was a mill that ground words.")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    rows, records = [], []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            read = build(shape, folder)
            sides = ["bandwidth", *([] if options.peers_only else ["wordmill"]), "transformers-bf16", "transformers-fp32"]
            cases: dict[str, Callable[[], dict[str, Any]]] = {side: functools.partial(run, side, folder, options) for side in sides}
            results = common.interleave(cases, options.rounds)
        bandwidth = max(r["bytes_per_second"] for r in results.pop("bandwidth"))
        speeds = {side: common.median([r["tokens_per_second"] for r in rounds]) for side, rounds in results.items()}
        for side, speed in speeds.items():
            width = 2 if side == "transformers-fp32" else 1
            ratio = f"{speeds['wordmill'] / speed:.2f} ×" if "wordmill" in speeds else "–"
            memory = max(r["peak_bytes"] for r in results[side]) / 2**30
            rows.append([shape, side, f"{speed:.1f}", ratio, f"{speed * read * width / bandwidth:.0%}", f"{memory:.2f} GiB"])
        records.append({"shape": shape, "bytes_per_token": read, "bandwidth": bandwidth, "tokens_per_second": speeds, "raw": results})
    headers = ["shape", "side", "tokens/s", "wordmill is faster by", "share of memory bandwidth", "peak memory"]
    common.save("generation", {"records": records}, common.table(headers, rows))


if __name__ == "__main__":
    main()
