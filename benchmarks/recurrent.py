"""LSTM and GRU language models: wordmill beside pytorch/examples' word_language_model, the same shape, words and epochs.

Repeat it:
    python benchmarks/recurrent.py speed   --peer ~/src/examples/word_language_model --data wikitext2/ --rounds 3
    python benchmarks/recurrent.py speed   --peer … --data … --width 650
    python benchmarks/recurrent.py quality --peer … --data … --epochs 1 --lines 9000
Needs: a checkout of github.com/pytorch/examples, a folder with train.txt, valid.txt and test.txt whose words are separated by
blanks (WikiText-2). `speed` gives tokens a second and peak memory; `quality` trains both sides for the same epochs by the
example's own recipe (SGD, rate 20 that is quartered when validation does not improve, clipping at 0.25, batch 20, 35 steps
back in time, dropout 0.2) and gives the perplexity per word of the test text. Both sides use one vocabulary: every word of the
three files, and <eos> at the end of a line.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _common as common
import throughput

BATCH, BACK, LAYERS, DROPOUT, RATE, CLIP = 20, 35, 2, 0.2, 20.0, 0.25
WARM_UP = 4
PEERS = {
    f"example-{cell}-{name}": (cell, settings)
    for cell in ("lstm", "gru")
    for name, settings in {"fp32": set(), "bf16": {"bf16"}, "fp32-tuned": {"memory", "precision"}}.items()
}


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process: step times of the example's model, trained as its script does."""
    cell, settings = PEERS[options.worker]
    if "memory" in settings:
        throughput.keep_memory()
    sys.path.insert(0, str(options.peer))
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if "precision" in settings:
        torch.set_float32_matmul_precision("medium")
    with contextlib.redirect_stdout(sys.stderr):
        import data  # type: ignore[import-not-found]
        import model as example  # type: ignore[import-not-found]
    vocabulary, ids = words(options.data, data)
    model = example.RNNModel(cell.upper(), vocabulary, options.width, options.width, LAYERS, DROPOUT)
    columns = ids[: len(ids) // BATCH * BATCH].view(BATCH, -1).t().contiguous()
    loss_of = torch.nn.NLLLoss()
    state, seconds = model.init_hidden(BATCH), []
    for step in range(options.steps + WARM_UP):
        start = time.perf_counter()
        chunk = columns[step * BACK : (step + 1) * BACK + 1]
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if "bf16" in settings else contextlib.nullcontext():
            output, state = model(chunk[:-1], state)
            loss = loss_of(output.float(), chunk[1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=-RATE)
        loss.item()
        seconds.append(time.perf_counter() - start)
    common.print_json({"seconds": seconds[WARM_UP:]})


def words(folder: Path, data: Any) -> tuple[int, Any]:
    """Size of the vocabulary and the ids of the training text, read by the example's own reader."""
    corpus = data.Corpus(str(folder))
    return len(corpus.dictionary), corpus.train


def peer(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measured process of the example."""
    arguments = ["--peer", str(options.peer), "--data", str(options.data), "--width", str(options.width)]
    arguments += ["--steps", str(options.steps), "--threads", str(options.threads)]
    measured = common.measure([sys.executable, __file__, "speed", "--worker", name, *arguments])
    return {"seconds": measured.json()["seconds"], "peak_bytes": measured.peak_bytes}


def word_tokenizer(data: Path, path: Path) -> int:
    """A tokenizer folder whose tokens are the words of the three files, with <eos> for each line's end; returns its size."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"<end>": 0, "<pad>": 1}  # <end>: of a document, which the example does not mark
    for name in ("train", "valid", "test"):
        for line in (data / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            for word in [*line.split(), "<eos>"]:
                vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\n"), " <eos> ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>", "<pad>"])
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}))
    return len(vocabulary)


def pretrain(cell: str, run: Path, tokenizer: Path, options: argparse.Namespace, *length: str) -> common.Measured:
    """`wordmill pretrain` in the example's shape and by its recipe."""
    shape = [f"model.embedding_size={options.width}", f"model.hidden_size={options.width}", f"model.layers={LAYERS}"]
    shape += [f"model.dropout={DROPOUT}", "model.tie_embeddings=false"]
    recipe = ["train.optim.kind=sgd", "train.optim.momentum=0", f"train.optim.lr={RATE}", f"train.clip={CLIP}"]
    recipe += ["train.schedule.kind=constant", "train.schedule.warmup=0", f"train.rows={BATCH}", f"train.context={BACK}"]
    recipe += ["train.evaluations=1", "train.ema=0"]
    text = [str(options.data / "train.txt"), "--validation", str(options.data / "valid.txt"), "corpus.split_text=file"]
    return common.wordmill(
        "pretrain", *text, "-o", str(run), "--tokenizer", str(tokenizer), "--model", cell, *length, *shape, *recipe,
        "--json", "--quiet", env={"OMP_NUM_THREADS": str(options.threads)},
    )  # fmt: skip


def ours(cell: str, tokenizer: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Step times of one short wordmill run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        measured = pretrain(cell, run, tokenizer, options, "--steps", str(options.steps + WARM_UP))
        records = [r for r in common.read_metrics(run) if "tokens_per_second" in r]
    seconds = [BATCH * BACK / r["tokens_per_second"] for r in records][WARM_UP:]
    return {"seconds": seconds, "peak_bytes": measured.peak_bytes}


def speed(options: argparse.Namespace) -> None:
    """Interleave all cases and write benchmarks/results/recurrent_speed_WIDTH.{json,md}."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        cases: dict[str, Callable[[], dict[str, Any]]] = {}
        if not options.peers_only:
            word_tokenizer(options.data, tokenizer)
            cases = {f"wordmill-{cell}": functools.partial(ours, cell, tokenizer, options) for cell in ("lstm", "gru")}
        cases |= {name: functools.partial(peer, name, options) for name in PEERS}
        results = common.interleave(cases, options.rounds)
    summary: dict[str, Any] = {}
    for name, rounds in results.items():
        speeds = [BATCH * BACK / common.median(r["seconds"]) for r in rounds]
        summary[name] = {"tokens_per_second": common.median(speeds), "spread": common.spread(speeds),
                         "peak_bytes": max(r["peak_bytes"] for r in rounds)}  # fmt: skip
    common.save(f"recurrent_speed_{options.width}", {"summary": summary, "raw": results}, speed_table(summary))


def speed_table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """The table, each case beside wordmill's model with the same cell."""
    rows = []
    for name, s in summary.items():
        own = summary.get(f"wordmill-{name.split('-')[1]}")
        ratio = f"{own['tokens_per_second'] / s['tokens_per_second']:.2f} ×" if own else "–"
        rows.append([name, f"{s['tokens_per_second']:,.0f}", f"±{s['spread']:.0%}", ratio, f"{s['peak_bytes'] / 2**30:.2f} GiB"])
    return common.table(["case", "tokens/s", "rounds", "wordmill is faster by", "peak memory"], rows)


def quality(options: argparse.Namespace) -> None:
    """Train both sides for the same epochs and compare the perplexity per word on the test text."""
    rows, records = [], []
    if options.lines:
        options.data = first_lines(options.data, Path(tempfile.mkdtemp()), options.lines)
    for cell in options.cells:
        for side in ("example", *([] if options.peers_only else ["wordmill"])):
            side_of, found = example_quality if side == "example" else our_quality, []
            for seed in options.seeds:
                common.log(f"{side} {cell}, seed {seed}")
                with tempfile.TemporaryDirectory() as folder:
                    found.append({"side": side, "cell": cell, "epochs": options.epochs, "seed": seed,
                                  **side_of(cell, seed, Path(folder), options)})  # fmt: skip
                common.log(f"  perplexity {found[-1]['perplexity']:.1f} after {found[-1]['seconds']:.0f} s")
            records += found
            every = [record["perplexity"] for record in found]
            spread = f" ± {statistics.stdev(every):.1f}" if len(every) > 1 else ""
            seconds = common.median([record["seconds"] for record in found])
            told = " ".join(f"{one:.1f}" for one in every)
            rows.append([side, cell, options.epochs, f"{statistics.fmean(every):.1f}{spread}", told, f"{seconds:.0f} s"])
    text = common.table(["side", "cell", "epochs", "test perplexity per word", "of each seed", "time, all included"], rows)
    common.save(f"recurrent_quality_{options.width}", {"seeds": options.seeds, "records": records}, text)


def first_lines(data: Path, folder: Path, lines: int) -> Path:
    """A copy of the three files in which the training text has only its first lines."""
    for name in ("valid", "test"):
        shutil.copyfile(data / f"{name}.txt", folder / f"{name}.txt")
    with (data / "train.txt").open(encoding="utf-8", newline="") as file:
        (folder / "train.txt").write_text("".join(itertools.islice(file, lines)), encoding="utf-8")
    return folder


def example_quality(cell: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The example's own script, as it comes."""
    shape = ["--emsize", str(options.width), "--nhid", str(options.width), "--nlayers", str(LAYERS), "--dropout", str(DROPOUT)]
    measured = common.measure(
        [sys.executable, str(options.peer / "main.py"), "--data", str(options.data.resolve()), "--model", cell.upper(), *shape,
         "--epochs", str(options.epochs), "--seed", str(seed), "--save", str(folder / "model.pt")],
        env={"OMP_NUM_THREADS": str(options.threads)}, timeout=4 * 3600,
    )  # fmt: skip
    found = re.search(r"test loss\s+([\d.]+).*?test ppl\s+([\d.]+)", measured.stdout)
    if not found:
        raise common.BenchmarkError(f"the example printed no test perplexity:\n{measured.stdout[-2000:]}")
    return {"perplexity": float(found[2]), "seconds": measured.seconds, "peak_bytes": measured.peak_bytes}


def our_quality(cell: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`wordmill pretrain`, then `wordmill evaluate` on the test text; the nats are shared out over the example's words."""
    tokenizer = folder / "tokenizer"
    word_tokenizer(options.data, tokenizer)
    run = folder / cell
    measured = pretrain(cell, run, tokenizer, options, "--epochs", str(options.epochs), "--seed", str(seed))
    test = options.data / "test.txt"
    evaluated = common.wordmill("evaluate", str(run / "model"), str(test), "--json").json()
    lines = test.read_text(encoding="utf-8").splitlines()
    targets = sum(len(line.split()) + 1 for line in lines)
    nats = evaluated["bits_per_byte"] * math.log(2) * evaluated["bytes"]
    if options.keep:
        shutil.copytree(run, options.keep / cell, dirs_exist_ok=True)
    return {"perplexity": math.exp(nats / targets), "seconds": measured.seconds, "peak_bytes": measured.peak_bytes, "evaluation": evaluated}


def main() -> None:
    """Parse the command line and run one of the two actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["speed", "quality"])
    parser.add_argument("--peer", type=Path, required=True, help="folder of word_language_model")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.txt, valid.txt, test.txt")
    parser.add_argument("--width", type=int, default=200, help="embedding and state (the example's default)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lines", type=int, help="train on so many lines of the text only, both sides (quality)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a run of each side with each (quality)")
    parser.add_argument("--cells", nargs="+", choices=["lstm", "gru"], default=["lstm", "gru"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep wordmill's runs here (quality)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
    else:
        {"speed": speed, "quality": quality}[options.action](options)


if __name__ == "__main__":
    main()
