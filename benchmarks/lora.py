"""LoRA beside training all weights: peak memory and time a step of a Llama of 135 million weights (SmolLM's shape).

Repeat it:
    python benchmarks/lora.py --context 256 512 --rows 1 --steps 4
Needs nothing from elsewhere: weights and tokens are drawn at random, which changes neither memory nor time.

Each case runs in a process of its own, whose peak resident memory the kernel counts. An "idle" process, which imports the same and does
nothing, says how much of it is Python and PyTorch. Also measured: how far merging moves the logits, in float32.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from typing import Any

import _common as common

SHAPE: dict[str, Any] = {
    "family": "llama", "vocab_size": 49_152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_size": 64, "ffn_size": 1536,
    "max_positions": 2048, "tie_embeddings": True, "qk_norm": False,
}  # fmt: skip
CASES = ("idle", "full", "lora", "lora+recompute")


def worker(options: argparse.Namespace) -> None:
    import torch

    from wordmill.batches.batch import Batch
    from wordmill.core.device import tune_float32, tune_memory
    from wordmill.models.adapters import add_lora
    from wordmill.models.config import TransformerConfig
    from wordmill.models.folder import build_model, recompute_blocks
    from wordmill.models.lora import LoraConfig, lora_layers, merge_lora
    from wordmill.train.objectives import causal
    from wordmill.train.optim import OptimConfig, Optimizer

    tune_memory()
    torch.set_num_threads(options.threads)
    if options.worker == "idle":
        common.print_json({})
        return
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    if dtype == torch.float32:
        tune_float32()
    torch.set_default_dtype(dtype)
    model = build_model(TransformerConfig(**SHAPE))
    torch.set_default_dtype(torch.float32)
    model.initialise(0, zero_outputs=False)
    if options.worker.endswith("recompute"):
        recompute_blocks(model)
    if options.worker.startswith("lora"):
        add_lora(model, LoraConfig(rank=options.rank), 0)
    optimizer = Optimizer(model, OptimConfig(kind="adamw", lr=1e-4))
    ids = torch.randint(0, SHAPE["vocab_size"], (options.rows, options.context + 1), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(options.context).expand(options.rows, -1).contiguous()
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions, None)
    model.train()
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        found = causal(model, batch)
        (found.loss_sum / found.n_targets).backward()
        optimizer.collect()
        optimizer.step(1.0)
        times.append(time.perf_counter() - start)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result = {"seconds": common.median(times[1:]), "loss": float(found.loss_sum.detach()) / found.n_targets, "learning": learning}
    if options.merge:
        with torch.no_grad():
            for layer in lora_layers(model).values():
                for pair in layer.pairs("default"):
                    pair.b.normal_(std=0.02)
            few = ids[:, :64]
            before = model.logits(model.eval()(few)[0])
            merge_lora(model)
            result["moved"] = float((model.logits(model(few)[0]) - before).abs().max())
            result["largest"] = float(before.abs().max())
    common.print_json(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=CASES)
    parser.add_argument("--merge", action="store_true", help="also merge and compare (a worker's option)")
    parser.add_argument("--context", type=int, nargs="*", default=[256, 512], help="tokens in a row")
    parser.add_argument("--rows", type=int, default=1, help="rows that go through the model at once")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="*", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    options = parser.parse_args()
    if options.worker:
        options.dtype, options.context = options.dtype[0], options.context[0]
        worker(options)
        return
    rows, record = [], []
    for dtype, context in itertools.product(options.dtype, options.context):
        settings = ["--dtype", dtype, "--context", str(context)]
        for name in ("rows", "rank", "steps", "threads"):
            settings += [f"--{name}", str(getattr(options, name))]
        runs = common.interleave({case: functools.partial(common.child, __file__, case, *settings) for case in CASES}, options.rounds)
        peak = {case: common.median([run.peak_bytes for run in found]) for case, found in runs.items()}
        seconds = {case: common.median([run.json()["seconds"] for run in runs[case]]) for case in CASES[1:]}
        for case in CASES[1:]:
            own = 100 * (peak[case] - peak["idle"]) / (peak["full"] - peak["idle"])
            learning = runs[case][0].json()["learning"]
            rows.append([dtype, options.rows * context, case, f"{learning / 1e6:.1f} M", f"{peak[case] / 2**30:.2f} GiB",
                         f"{100 * peak[case] / peak['full']:.0f} %", f"{own:.0f} %", f"{seconds[case]:.2f} s",
                         f"{seconds['full'] / seconds[case]:.2f} ×"])  # fmt: skip
            record.append({"dtype": dtype, "context": context, "case": case, "peak_bytes": peak[case], "idle_bytes": peak["idle"],
                           "seconds": seconds[case]})  # fmt: skip
    common.log("merging, float32")
    merged = common.child(__file__, "lora", "--dtype", "fp32", "--context", "64", "--steps", "2", "--merge").json()
    heads = ["numbers", "tokens a step", "what learns", "weights that learn", "peak memory", "of full", "less Python and PyTorch",
             "a step", "speed"]  # fmt: skip
    text = common.table(heads, rows) + (
        f"\n\nRank {options.rank} on all linear layers, AdamW, {options.threads} thread(s), {options.rounds} round(s). Merging an adapter "
        f"moved no logit\nby more than {merged['moved']:.1e} in float32 (the largest logit was {merged['largest']:.1f}).\n"
    )
    common.save("lora", {"settings": json.loads(json.dumps(vars(options))), "cases": record, "merging": merged}, text)


if __name__ == "__main__":
    main()
