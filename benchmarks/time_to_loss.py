"""Time to loss on one text: what do nanoGPT and nanochat learn from it, and how soon is wordmill there?

Every model reads the same text through the same byte-level BPE and is judged by its loss on the whole validation text: nats a
token, and bits per byte = all nats / ln 2 / bytes of the text, in windows of the context length that do not overlap and in a
sliding window of half its length. A loss after N tokens does not depend on speed, so a peer's run may be slow; the seconds that
belong to it are N / the tokens per second that `throughput.py` measured on the quiet machine.

Repeat it:
    python benchmarks/time_to_loss.py prepare  --data wikitext2/ -o work/
    python benchmarks/time_to_loss.py nanogpt  --peer ~/src/nanoGPT  --work work/ --tokens 2040000 --rate 2e-3
    python benchmarks/time_to_loss.py nanochat --peer ~/src/nanochat --work work/ --tokens 1500000
    python benchmarks/time_to_loss.py wordmill --work work/ --time 2m            # also: --model gpt2 --adamw
    python benchmarks/time_to_loss.py report   --work work/
Needs: a folder with train.txt and valid.txt; checkouts of github.com/karpathy/nanoGPT and github.com/karpathy/nanochat.

The peers are given: nanoGPT its model without dropout, bf16 autocast, its AdamW (decay 0.1, betas 0.9 and 0.95), clipping at 1,
a warm-up over 5 % of the steps and a cosine to a tenth; run it with several --rate and keep the best. nanochat its model, its
Muon and AdamW groups, its rule for learning rates and decay at another batch size (`--scaling none` takes the optimiser's plain
defaults instead), warm-up of 40 steps, 65 % warm-down.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common as common
import throughput

CONTEXT, VOCABULARY = throughput.CONTEXT, throughput.VOCABULARY
POINTS = 10  # how often a curve is measured
SAMPLE = 5  # a point of the curve uses every 5th window; the end uses all


@dataclass
class Contestant:
    """One model under training: `step(inputs, targets, i)` returns the loss, `logits(inputs)` serves the evaluation."""

    step: Callable[[Any, Any, int], float]
    logits: Callable[[Any], Any]
    settings: dict[str, Any]


def prepare(options: argparse.Namespace) -> None:
    """Train the tokenizer on the training text, encode both texts, check that decoding gives them back."""
    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"], show_progress=False,
    )  # fmt: skip
    sizes: dict[str, Any] = {"data": str(options.data.resolve())}
    for name in ("train", "valid"):
        text = (options.data / f"{name}.txt").read_bytes().decode()
        lines = text.splitlines(keepends=True)
        if name == "train":
            tokenizer.train_from_iterator(lines, trainer)
            folder = options.work / "tokenizer"
            folder.mkdir(exist_ok=True)
            tokenizer.save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
        ids = [i for encoding in tokenizer.encode_batch(lines) for i in encoding.ids]
        if tokenizer.decode(ids) != text:
            raise SystemExit(f"{name}.txt does not survive encoding and decoding")
        np.save(options.work / f"{name}.npy", np.array(ids, dtype=np.uint16))
        sizes[name] = {"bytes": len(text.encode()), "tokens": len(ids)}
    (options.work / "sizes.json").write_text(json.dumps(sizes, indent=1))
    common.log(str(sizes))


def windows(length: int, stride: int) -> list[tuple[int, int]]:
    """(start, first target that counts) of every window; together they score each token but the first exactly once."""
    last = length - 1 - CONTEXT
    starts = [*range(0, last + 1, stride)]
    if starts[-1] < last:
        starts.append(last)
    scored, result = 0, []
    for start in starts:
        result.append((start, max(0, scored - start)))
        scored = start + CONTEXT
    return result


def evaluate(logits: Callable[[Any], Any], ids: Any, *, stride: int = CONTEXT, every: int = 1) -> tuple[float, int]:
    """(sum of the losses in nats, number of targets) over the validation ids."""
    import torch
    from torch.nn import functional

    chosen = windows(len(ids), stride)[::every]
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(chosen), 16):
            group = chosen[first : first + 16]
            inputs = torch.stack([ids[s : s + CONTEXT] for s, _ in group])
            targets = torch.stack([ids[s + 1 : s + CONTEXT + 1] for s, _ in group])
            losses = functional.cross_entropy(logits(inputs).flatten(0, 1).float(), targets.flatten(), reduction="none")
            for row, (_, skip) in zip(losses.view(len(group), CONTEXT), group, strict=True):
                total += row[skip:].double().sum().item()
                count += CONTEXT - skip
    return total, count


def nanogpt(options: argparse.Namespace, steps: int) -> Contestant:
    """nanoGPT, in bf16 autocast unless --fp32; products instead of torch's CPU flash attention and compiled: the same function, sooner."""
    import torch

    model = throughput.nanogpt_model(options.peer)
    optimizer = model.configure_optimizers(0.1, options.rate, (0.9, 0.95), "cpu")
    for block in model.transformer.h:
        block.attn.flash = False
        block.attn.register_buffer("bias", torch.tril(torch.ones(CONTEXT, CONTEXT))[None, None], persistent=False)
    forward = torch.compile(model) if options.compile else model
    warm_up = max(10, steps // 20)

    def step(inputs: Any, targets: Any, i: int) -> float:
        along = (i - warm_up) / (steps - warm_up)
        factor = (i + 1) / warm_up if i < warm_up else 0.1 + 0.45 * (1 + math.cos(math.pi * along))
        for group in optimizer.param_groups:
            group["lr"] = options.rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    def logits(inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            return model(inputs, inputs)[0]  # with targets it gives every position's logits

    return Contestant(step, logits, {"rate": options.rate, "warm_up": warm_up})


def nanochat(options: argparse.Namespace, steps: int) -> Contestant:
    """nanochat's model and optimiser with full-context attention (it has no windowed kernel on a CPU)."""
    os.environ["NANOCHAT_DTYPE"] = "float32" if options.fp32 else "bfloat16"
    sys.path.insert(0, str(options.peer))
    import torch
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    def shape(layers: int, width: int, heads: int) -> Any:
        return GPTConfig(
            sequence_len=CONTEXT, vocab_size=VOCABULARY, n_layer=layers, n_head=heads, n_kv_head=heads, n_embd=width,
            window_pattern="L",
        )  # fmt: skip

    model = GPT(shape(throughput.LAYERS, throughput.WIDTH, throughput.HEADS))
    model.init_weights()
    decay, rates = 0.0, {}
    if options.scaling == "rule":
        # its rule: rates grow with the root of the batch in tokens from 2^19; decay also with the reference's horizon over ours,
        # and a horizon is proportional to matrix and head parameters (reference: 12 layers of width 768)
        def horizon(m: Any) -> int:
            counts = m.num_scaling_params()
            return int(counts["transformer_matrices"] + counts["lm_head"])

        with torch.device("meta"):
            reference = GPT(shape(12, 768, 12))
        root = math.sqrt(options.batch * CONTEXT / 2**19)
        rates = {"unembedding_lr": 0.008 * root, "embedding_lr": 0.3 * root, "scalar_lr": 0.5 * root, "matrix_lr": 0.02 * root}
        decay = 0.28 * root * horizon(reference) / horizon(model)
    optimizer = model.setup_optimizer(**rates, weight_decay=decay)
    forward = torch.compile(model, dynamic=False) if options.compile else model
    warm_up, down = 40, round(0.65 * steps)

    def step(inputs: Any, targets: Any, i: int) -> float:
        left = min(1.0, (steps - i) / down)  # 1 until the warm-down, then falling to 0
        factor = (i + 1) / warm_up if i < warm_up else left + (1 - left) * 0.05
        momentum = 0.85 + 0.12 * i / 400 if i < 400 else 0.90 + 0.07 * left
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * i / steps))
        loss = forward(inputs, targets)
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return float(loss.item())

    settings = {"scaling": options.scaling, "weight_decay": decay, "rates": rates}
    return Contestant(step, model, settings)


def train_peer(options: argparse.Namespace) -> None:
    """Train one peer on exactly --tokens tokens and write its record, updated at every point of the curve."""
    if options.memory:
        throughput.keep_memory()
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train = torch.from_numpy(np.load(options.work / "train.npy").astype(np.int64))
    valid = torch.from_numpy(np.load(options.work / "valid.npy").astype(np.int64))
    total_bytes = json.loads((options.work / "sizes.json").read_text())["valid"]["bytes"]
    steps = options.tokens // (options.batch * CONTEXT)
    with contextlib.redirect_stdout(sys.stderr):  # peers print; standard output is for the result
        contestant = {"nanogpt": nanogpt, "nanochat": nanochat}[options.action](options, steps)
    name = f"{options.action}-{options.rate:g}" if options.action == "nanogpt" else f"{options.action}-{options.scaling}"
    name += f"-{options.tokens / 1e6:g}m"
    path = options.work / f"{name}-seed{options.seed}.json"
    record: dict[str, Any] = {
        "name": name, "tokens": steps * options.batch * CONTEXT, "batch": options.batch, "seed": options.seed,
        "threads": options.threads, **contestant.settings, "curve": [],
    }  # fmt: skip
    generator = torch.Generator().manual_seed(options.seed)
    points, seconds = {round(steps * k / POINTS) for k in range(1, POINTS)}, 0.0
    for i in range(steps):
        start = time.perf_counter()
        offsets = torch.randint(len(train) - CONTEXT - 1, (options.batch, 1), generator=generator)
        rows = train[offsets + torch.arange(CONTEXT + 1)]
        contestant.step(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), i)
        seconds += time.perf_counter() - start
        if i + 1 in points:
            nats, count = evaluate(contestant.logits, valid, every=SAMPLE)
            point = {"tokens": (i + 1) * options.batch * CONTEXT, "nats_per_token": nats / count, "seconds": seconds}
            point["bits_per_byte"] = nats / count * (len(valid) - 1) / math.log(2) / total_bytes
            record["curve"].append(point)
            path.write_text(json.dumps(record, indent=1))
            common.log(f"{name} {point}")
    for key, stride in (("", CONTEXT), ("sliding_", CONTEXT // 2)):
        nats, count = evaluate(contestant.logits, valid, stride=stride)
        record |= {f"{key}nats_per_token": nats / count, f"{key}bits_per_byte": nats / math.log(2) / total_bytes}
    record["seconds"] = seconds
    path.write_text(json.dumps(record, indent=1))
    common.print_json(record)


def train_wordmill(options: argparse.Namespace) -> None:
    """`wordmill pretrain` on the training text with the same tokenizer, then `wordmill evaluate` on the validation text.

    The seconds are those of the whole process: start-up, encoding, compilation, training, evaluation and saving.
    """
    data = Path(json.loads((options.work / "sizes.json").read_text())["data"])
    name = options.name or "-".join(["wordmill", options.model or "default", options.time or f"{options.tokens}"])
    run = options.work / name
    length = ["--time", options.time] if options.time else ["--tokens", str(options.tokens)]
    model = ["--model", options.model] if options.model else []
    shape = []
    if options.model == "gpt2":
        shape = [f"model.layers={throughput.LAYERS}", f"model.width={throughput.WIDTH}", f"model.heads={throughput.HEADS}"]
    method = []
    if options.adamw:
        method = ["train.optim.kind=adamw", f"train.optim.lr={options.rate}", "train.optim.beta1=0.9", "train.optim.weight_decay=0.1"]
        method += ["train.schedule.kind=cosine", "train.schedule.warmup=0.05", "train.schedule.floor=0.1", f"train.rows={options.batch}"]
    trained = common.wordmill(
        "pretrain", str(data / "train.txt"), "-o", str(run), "--tokenizer", str(options.work / "tokenizer"),
        "--validation", str(data / "valid.txt"), *model, *length,
        *shape, *method, *options.override, "--seed", str(options.seed), "--json",
    )  # fmt: skip
    answer = trained.json()
    record: dict[str, Any] = {"name": name, "seconds": trained.seconds, "peak_bytes": trained.peak_bytes, "tokens": answer["tokens"]}
    for key, stride in (("", CONTEXT), ("sliding_", CONTEXT // 2)):
        window = ["--context", str(CONTEXT), "--stride", str(stride)]
        score = common.wordmill("evaluate", str(run / "model"), str(data / "valid.txt"), *window, "--json").json()
        record[f"{key}bits_per_byte"] = score["bits_per_byte"]
        record[f"{key}nats_per_token"] = math.log(score["perplexity_per_token"])
        record[f"{key}bytes"] = score["bytes"]
    record |= {"answer": answer, "curve": [r for r in common.read_metrics(run) if "validation_loss" in r]}
    (options.work / f"{name}.json").write_text(json.dumps(record, indent=1))
    common.print_json(record)


def report(options: argparse.Namespace) -> None:
    """Collect the records of the work folder into benchmarks/results/time_to_loss.{json,md}."""
    records = []
    for path in sorted(options.work.glob("*.json")):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and "bits_per_byte" in record:
            records.append(record)
    rows = []
    for r in sorted(records, key=lambda r: float(r["bits_per_byte"])):
        tokens = f"{r['tokens'] / 1e6:.2f}M" if "tokens" in r else "–"
        peer = r["name"].startswith(("nanogpt", "nanochat"))
        seconds = "at its own speed" if peer else f"{r['seconds']:.0f} s, all included"
        nats, sliding = r.get("nats_per_token"), r.get("sliding_bits_per_byte")
        rows.append(
            [r["name"], tokens, seconds, f"{nats:.3f}" if nats else "–", f"{r['bits_per_byte']:.4f}",
             f"{sliding:.4f}" if sliding else "–"]
        )  # fmt: skip
    headers = ["run", "tokens", "time", "nats a token", "bits per byte", "sliding window"]
    common.save("time_to_loss", {"records": records}, common.table(headers, rows))


def main() -> None:
    """Parse the command line and do one of the five actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "nanogpt", "nanochat", "wordmill", "report"])
    parser.add_argument("--data", type=Path, help="folder with train.txt and valid.txt (prepare)")
    parser.add_argument("--work", "-o", type=Path, required=True, help="folder for tokenizer, tokens and records")
    parser.add_argument("--peer", type=Path, help="the peer's checkout")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--time", help="wordmill's budget, such as 2m, instead of --tokens")
    parser.add_argument("--rate", type=float, default=2e-3, help="nanoGPT's peak learning rate, and that of --adamw")
    parser.add_argument("--scaling", choices=["rule", "none"], default="rule", help="nanochat's learning rates")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--fp32", action="store_true", help="peers in float32: the faster way on a CPU whose bfloat16 products are slow")
    parser.add_argument("--model", help="wordmill's family; default: its own choice")
    parser.add_argument("--adamw", action="store_true", help="wordmill with AdamW and a cosine, for method against speed")
    parser.add_argument("--name", help="name of wordmill's run")
    parser.add_argument("--set", nargs="*", default=[], dest="override", help="more for wordmill, such as model.layers=8")
    options = parser.parse_args()
    actions = {"prepare": prepare, "wordmill": train_wordmill, "report": report}
    actions.get(options.action, train_peer)(options)


if __name__ == "__main__":
    main()
