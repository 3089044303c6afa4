"""Fine-tuning beside Hugging Face's Trainer: the same pretrained weights, examples, hyperparameters and seeds; accuracy and time.

Repeat it (DATA has train.tsv, dev.tsv and test.tsv of SST-2; MODEL is a folder with the weights of a small BERT, such as all-MiniLM-L6-v2):
    python benchmarks/finetune.py DATA MODEL --seeds 0 1 2
Needs: transformers, accelerate.

Each run is a process of its own, and the two take turns, so that a busy machine slows both alike. Both train with AdamW (0.9, 0.999,
weight decay 0.01), a linear schedule with a tenth of warm-up, clipping at 1, dropout 0.1, in the numbers that the tool chooses by itself;
judge the dev examples after each epoch, keep the best weights by them, and judge the test examples once. What differs: the Trainer pads
each batch to its longest text, as it does when nothing else is asked for; wordmill packs texts into rows. The time is the wall-clock of
the whole process; beside it that of training alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common


def trainer(options: argparse.Namespace) -> None:
    """The peer: what the documentation of `transformers` shows for text classification."""
    import numpy as np
    import torch
    from torch.utils.data import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)

    class Examples(Dataset):  # type: ignore[type-arg]
        def __init__(self, name: str) -> None:
            lines = [line.split("\t") for line in (Path(options.data) / f"{name}.tsv").read_text().splitlines()[: options.limit]]
            self.encoded = tokenizer([text for text, _ in lines], truncation=True, max_length=512)["input_ids"]
            self.labels = [int(label) for _, label in lines]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"input_ids": self.encoded[i], "labels": self.labels[i]}

    train, dev, test = (Examples(name) for name in ("train", "dev", "test"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=options.epochs, learning_rate=options.lr, per_device_train_batch_size=options.rows,
            per_device_eval_batch_size=options.rows, weight_decay=0.01, warmup_steps=0.1, lr_scheduler_type="linear", seed=options.seed,
            eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="accuracy",
            report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
        )  # fmt: skip
        work = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), train, dev, processing_class=tokenizer,
                       compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())})  # fmt: skip
        found = work.train()
        accuracy = {name: work.evaluate(examples)["eval_accuracy"] for name, examples in (("dev", dev), ("test", test))}
    common.print_json({**accuracy, "training": found.metrics["train_runtime"], "inside": time.perf_counter() - started})


def ours(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """wordmill, as a command."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(options.data) / f"{name}.tsv" for name in ("train", "dev", "test")}
        if options.limit:
            for name, path in files.items():
                files[name] = Path(folder) / f"{name}.tsv"
                files[name].write_text("\n".join(path.read_text().splitlines()[: options.limit]) + "\n")
        run = Path(folder) / "run"
        done = common.wordmill(
            "finetune", "classify", str(files["train"]), "--validation", str(files["dev"]), "--test", str(files["test"]),
            "--model", options.model, "--epochs", str(options.epochs), "--lr", str(options.lr), f"train.rows={options.rows}",
            f"train.evaluations={round(options.epochs)}", "patience=0", "--seed", str(seed), "--json", "--quiet", "-o", str(run),
            env={"OMP_NUM_THREADS": str(options.threads)}, timeout=36_000,
        )  # fmt: skip
        metrics = done.json()
        timings = json.loads((run / "timings.json").read_text())
        beside = {name: scores["accuracy"] for name, scores in metrics["test"]["baselines"].items()}
        return {"dev": metrics["validation"]["metrics"]["accuracy"], "test": metrics["test"]["metrics"]["accuracy"],
                "training": timings["training"] + timings["validation"], "seconds": done.seconds, "cpu": done.cpu,
                "peak_bytes": done.peak_bytes, "baselines": beside}  # fmt: skip


def theirs(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The Trainer, in a process of its own."""
    words = [options.data, options.model, "--seed", str(seed)]
    for name in ("epochs", "lr", "rows", "threads", "limit"):
        words += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    done = common.child(__file__, *words, env={"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}, timeout=36_000)
    return {**done.json(), "seconds": done.seconds, "cpu": done.cpu, "peak_bytes": done.peak_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="Examples of each file: for a quick look.")
    parser.add_argument("--name", default="finetune_sst2")
    options = parser.parse_args()
    if options.worker:
        trainer(options)
        return
    runs: dict[str, list[dict[str, Any]]] = {"wordmill": [], "Trainer": []}
    for number, seed in enumerate(options.seeds):
        cases = {"wordmill": functools.partial(ours, options, seed), "Trainer": functools.partial(theirs, options, seed)}
        for name in cases if number % 2 == 0 else reversed(cases):
            runs[name].append(cases[name]())
            common.log(f"seed {seed}, {name}: {json.dumps(runs[name][-1])}")
    ratios = {of: [a[of] / b[of] for a, b in zip(runs["wordmill"], runs["Trainer"], strict=True)] for of in ("seconds", "cpu")}
    rows = []
    for name, found in runs.items():
        dev, test = ([100 * run[split] for run in found] for split in ("dev", "test"))
        spread = f" ± {statistics.stdev(test):.2f}" if len(test) > 1 else ""
        seconds, cpu, training, peak = (common.median([run[key] for run in found]) for key in ("seconds", "cpu", "training", "peak_bytes"))
        rows.append([name, f"{statistics.fmean(dev):.2f}", f"{statistics.fmean(test):.2f}{spread}", f"{seconds:.0f} s", f"{cpu:.0f} s",
                     f"{training:.0f} s", f"{peak / 2**30:.2f} GiB"])  # fmt: skip
    head = ["", "dev accuracy, %", "test accuracy, %", "whole process", "its processor's time", "training with evaluation", "peak memory"]
    text = common.table(head, rows)
    beside = ", ".join(f"{name} {100 * value:.2f}" for name, value in runs["wordmill"][0]["baselines"].items())
    shares, of_cpu = (", ".join(f"{ratio:.2f}" for ratio in found) for found in ratios.values())
    text += (f"\n\nwordmill's wall-clock as a share of the Trainer's, seed by seed (they took turns): {shares}; of processor time "
             f"{of_cpu}. Test accuracy without a model: {beside}. Each figure is the median, accuracies the mean (± standard deviation) "
             f"over seeds {', '.join(map(str, options.seeds))}.")  # fmt: skip
    settings = {name: getattr(options, name) for name in ("epochs", "lr", "rows", "threads", "seeds", "limit")}
    common.save(options.name, {"settings": settings, "runs": runs, "ratios": ratios}, text)


if __name__ == "__main__":
    main()
