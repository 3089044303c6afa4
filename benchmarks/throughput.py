"""Training throughput and peak memory of one model in wordmill, nanoGPT and the Hugging Face Trainer.

The model: GPT-2 shape, 6 layers, width 384, 6 heads, context 256, vocabulary 8192, batch 16, no dropout, AdamW. Every case is
a process of its own; the cases run in turn, round after round, and the table gives the median step of all rounds.

Repeat it:
    python benchmarks/throughput.py --nanogpt ~/src/nanoGPT --text wiki.train.txt --rounds 3
Needs: torch, a checkout of github.com/karpathy/nanoGPT; `transformers` and `accelerate` for the Trainer (left out where they are
missing); a text file of some megabytes for wordmill, which trains on real text through its command line.

The cases:
    nanogpt-fp32            as it comes on a CPU
    nanogpt-fp32-best       the settings of bf16-best, in float32: the faster of the two on a CPU whose bfloat16 products are slow
    nanogpt-bf16            autocast
    nanogpt-bf16-memory     with huge pages and a C allocator that keeps its memory
    nanogpt-bf16-compiled   with torch.compile, without the memory settings
    nanogpt-bf16-best       everything: memory, torch.compile, attention by matrix products (faster than torch's CPU flash
                            attention at this size), fused AdamW, torch.set_float32_matmul_precision("medium")
    wordmill                wordmill's command line as it comes (its own dtype and memory settings), AdamW; also compiled
    trainer-fp32            transformers.Trainer as it comes; trainer-bf16 with bf16=True
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.util
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY, BATCH = 6, 384, 6, 256, 8192, 16
WARM_UP = 4  # steps that are run but not counted: allocation, compilation, caches
PEERS: dict[str, tuple[str, ...]] = {
    "nanogpt-fp32": (),
    "nanogpt-fp32-best": ("memory", "compile", "no-flash", "fused", "precision"),
    "nanogpt-bf16": ("bf16",),
    "nanogpt-bf16-memory": ("bf16", "memory"),
    "nanogpt-bf16-compiled": ("bf16", "compile"),
    "nanogpt-bf16-best": ("bf16", "memory", "compile", "no-flash", "fused", "precision"),
    "trainer-fp32": (),
    "trainer-bf16": ("bf16",),
}


def keep_memory() -> None:
    """The memory settings of a tuned peer: huge pages in torch's allocator, and a C library that never gives memory back.

    Must run before torch is imported.
    """
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def nanogpt_model(folder: Path, *, dropout: float = 0.0) -> Any:
    """nanoGPT's own model in the benchmark's shape, imported from its checkout."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    return GPT(
        GPTConfig(block_size=CONTEXT, vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, dropout=dropout, bias=False)
    )


def worker_nanogpt(folder: Path, settings: set[str], steps: int) -> list[float]:
    """Seconds of each step of nanoGPT: forward, backward, clipping, its AdamW."""
    import torch

    model = nanogpt_model(folder)
    if "no-flash" in settings:
        for block in model.transformer.h:
            block.attn.flash = False
            block.attn.register_buffer("bias", torch.tril(torch.ones(CONTEXT, CONTEXT))[None, None], persistent=False)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    if "fused" in settings:
        for group in optimizer.param_groups:
            group["fused"] = True
    forward = torch.compile(model) if "compile" in settings else model
    ids = torch.randint(VOCABULARY, (steps + WARM_UP + 1, BATCH, CONTEXT))
    seconds = []
    for step in range(steps + WARM_UP):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if "bf16" in settings else contextlib.nullcontext():
            _, loss = forward(ids[step], ids[step + 1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def worker_trainer(settings: set[str], steps: int) -> list[float]:
    """Seconds of each step of transformers.Trainer on a GPT2LMHeadModel."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    ids = torch.randint(VOCABULARY, (BATCH * (steps + WARM_UP + 1), CONTEXT))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    moments: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=steps + WARM_UP, save_strategy="no", report_to=[],
            bf16="bf16" in settings, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        Trainer(GPT2LMHeadModel(config), arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return [b - a for a, b in itertools.pairwise(moments)][WARM_UP - 1 :]


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process: run one peer's case and print its step times."""
    settings = set(PEERS[options.worker])
    if "memory" in settings:
        keep_memory()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if "precision" in settings:
        torch.set_float32_matmul_precision("medium")
    with contextlib.redirect_stdout(sys.stderr):  # peers print; standard output is for the result
        if options.worker.startswith("trainer"):
            seconds = worker_trainer(settings, options.steps)
        else:
            seconds = worker_nanogpt(options.nanogpt, settings, options.steps)
    common.print_json({"seconds": seconds})


def peer(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measured process of a peer."""
    measured = common.child(
        __file__, name, "--nanogpt", str(options.nanogpt), "--steps", str(options.steps), "--threads", str(options.threads)
    )
    return {"seconds": measured.json()["seconds"], "peak_bytes": measured.peak_bytes}


def wordmill(compiled: str, options: argparse.Namespace, prepared: Path) -> dict[str, Any]:
    """One `wordmill pretrain` of the same shape, compiled "on" or "off"; the step times come from its run folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        measured = common.wordmill(
            "pretrain", str(prepared / "corpus"), "-o", str(run), "--tokenizer", str(prepared / "tokenizer"), "--model", "gpt2",
            "--steps", str(options.steps + WARM_UP), f"model.layers={LAYERS}", f"model.width={WIDTH}", f"model.heads={HEADS}",
            f"train.context={CONTEXT}", f"train.rows={BATCH}", "train.optim.kind=adamw", "train.evaluations=1", "--compile", compiled,
            "--json", "--quiet", env={"OMP_NUM_THREADS": str(options.threads)},
        )  # fmt: skip
        records = [r for r in common.read_metrics(run) if "tokens_per_second" in r]
    seconds = [BATCH * CONTEXT / r["tokens_per_second"] for r in records][WARM_UP:]
    return {"seconds": seconds, "peak_bytes": measured.peak_bytes}


def prepare(text: Path, folder: Path) -> None:
    """The corpus and the tokenizer of wordmill's side, made once and outside the measured time."""
    common.wordmill("corpus", "build", str(text), "-o", str(folder / "corpus"))
    common.wordmill("tokenizer", "train", str(folder / "corpus"), "-o", str(folder / "tokenizer"), "--vocab", str(VOCABULARY))


def report(results: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, Any], str]:
    """Medians over all rounds, and the ratio of the faster wordmill case to each peer."""
    tokens = BATCH * CONTEXT
    summary: dict[str, Any] = {}
    for name, rounds in results.items():
        speeds = [tokens / common.median(r["seconds"]) for r in rounds]
        summary[name] = {
            "tokens_per_second": common.median(speeds),
            "spread": common.spread(speeds),
            "peak_bytes": max(r["peak_bytes"] for r in rounds),
            "rounds": speeds,
        }
    own = [summary[name]["tokens_per_second"] for name in ("wordmill", "wordmill-compiled") if name in summary]
    ours = max(own) if own else None
    rows = []
    for name, s in summary.items():
        ratio = f"{ours / s['tokens_per_second']:.2f} ×" if ours else "–"
        rows.append([name, f"{s['tokens_per_second']:,.0f}", f"±{s['spread']:.0%}", ratio, f"{s['peak_bytes'] / 2**30:.2f} GiB"])
    return summary, common.table(["case", "tokens/s", "rounds", "wordmill is faster by", "peak memory"], rows)


def main() -> None:
    """Parse the command line, run the rounds, write benchmarks/results/throughput.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="text for wordmill's side; without it only the peers are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="counted steps a case and round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cases", nargs="*", default=None, help="a choice of cases; default: all")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: functools.partial(peer, name, options) for name in PEERS}
        if importlib.util.find_spec("accelerate") is None:
            common.log("no accelerate: the Trainer is left out (pip install transformers accelerate)")
            cases = {name: case for name, case in cases.items() if not name.startswith("trainer")}
        if options.text:
            prepare(options.text, Path(folder))
            sides = {"wordmill": "off", "wordmill-compiled": "on"}
            cases = {name: functools.partial(wordmill, on, options, Path(folder)) for name, on in sides.items()} | cases
        if options.cases:
            cases = {name: case for name, case in cases.items() if name in options.cases}
        results = common.interleave(cases, options.rounds)
    summary, text = report(results)
    common.save("throughput", {"summary": summary, "raw": results}, text)


if __name__ == "__main__":
    main()
