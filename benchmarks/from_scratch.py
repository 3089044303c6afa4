"""Classifying and tagging without any weights from elsewhere: what an encoder learns in minutes from the task's own text and labels,
beside the same encoder without pretraining, a BiLSTM (with a CRF for tagging), and what is had without a network.

Repeat it (DATA holds the folders sst2, chnsenticorp, cluener, wnut17 and peoples_daily_ner):
    python benchmarks/from_scratch.py DATA --sets cluener --seeds 0
Needs: scikit-learn for the baselines of classifying.

For each data set: a tokenizer and an encoder are trained on the texts of its training file alone (masked language modelling, for the
time that `--pretrain` gives), then fine-tuned on its labels; the same shape is fine-tuned from new weights (`--fresh`); and a BiLSTM.
The best weights are chosen by validation examples (the set's dev file, or a tenth of the training file where that dev file is what
published figures are told on); the test file is looked at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

SETS: dict[str, dict[str, Any]] = {
    "sst2": {"task": "classify", "train": "sst2/train.tsv", "dev": "sst2/dev.tsv", "test": "sst2/test.tsv",
             "published": "CNN 83.5–87.0 with word vectors from elsewhere"},
    "chnsenticorp": {"task": "classify", "train": "chnsenticorp/train.tsv", "dev": "chnsenticorp/dev.tsv", "test": "chnsenticorp/test.tsv",
                     "published": "BERT 95.0"},
    "cluener": {"task": "tag", "train": "cluener/train.json", "test": "cluener/dev.json", "characters": True,
                "published": "BiLSTM-CRF 70.00, BERT 78.82 (on the same dev file)"},
    "wnut17": {"task": "tag", "train": "wnut17/wnut17train.conll", "dev": "wnut17/emerging.dev.conll",
               "test": "wnut17/emerging.test.annotated", "published": "Flair 49.59, with embeddings from elsewhere"},
    "peoples_daily": {"task": "tag", "train": "peoples_daily_ner/train.txt", "test": "peoples_daily_ner/dev.txt", "characters": True,
                      "published": ""},
}  # fmt: skip
ARMS = ("pretrained", "fresh", "lstm")
HEADLINE = {"classify": "accuracy", "tag": "f1"}


def write_texts(task: str, path: Path, out: Path) -> None:
    """The texts of a training file, a document each."""
    from wordmill.core.progress import SILENT
    from wordmill.tasks.examples import read_examples
    from wordmill.tasks.task import task_class

    records = read_examples([path])
    work = task_class(task)()
    work.look({"train": records}, SILENT)
    lines = (json.dumps({"text": " ".join(work.texts(record))}, ensure_ascii=False) for record in records.records)
    out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def one_set(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All arms of one data set."""
    facts, data = SETS[name], Path(options.data)
    env = {"OMP_NUM_THREADS": str(options.threads)}
    timed: dict[str, float] = {}

    def work(label: str, *words: str) -> Any:
        begun = time.perf_counter()
        done = common.wordmill(*words, "--json", "--quiet", env=env, timeout=36_000)
        timed[label] = time.perf_counter() - begun
        common.log(f"{name}: {label} took {timed[label]:.0f} s")
        return done

    texts, corpus, tokenizer, model = (folder / part for part in ("texts.jsonl", "corpus", "tokenizer", "pretrained"))
    write_texts(facts["task"], data / facts["train"], texts)
    work("corpus", "corpus", "build", str(texts), "-o", str(corpus))
    kind = ["--kind", "char", "--vocab", "8192"] if facts.get("characters") else ["--vocab", "4096"]
    work("tokenizer", "tokenizer", "train", str(corpus), "-o", str(tokenizer), "--purpose", "masked", *kind)
    if options.arms != ["lstm"]:
        work("pretraining", "pretrain", str(corpus), "--tokenizer", str(tokenizer), "--model", options.family, "--objective", "mlm",
             "--time", options.pretrain, "-o", str(model), *options.set)  # fmt: skip
    files = [facts["task"], str(data / facts["train"]), "--test", str(data / facts["test"])]
    files += options.tune
    files += ["--validation", str(data / facts["dev"])] if "dev" in facts else []
    crf = ["task.crf=true"] if facts["task"] == "tag" else []
    arms = {"encoder, pretrained on the training text": ["--model", str(model / "model"), *crf, *options.pretrained],
            "the same encoder, not pretrained": ["--model", str(model / "model"), "--fresh", *crf],
            "BiLSTM-CRF" if crf else "BiLSTM": ["--model", "lstm", *crf, *options.lstm]}  # fmt: skip
    arms = {arm: words for kind, (arm, words) in zip(ARMS, arms.items(), strict=True) if kind in options.arms}
    found: dict[str, Any] = {}
    baselines: dict[str, float] = {}
    for arm, words in arms.items():
        scores: list[dict[str, float]] = []
        for seed in options.seeds:
            out = folder / f"run-{len(found)}-{seed}"
            metrics = work(f"{arm}, seed {seed}", "finetune", *files, *words, "--seed", str(seed), "-o", str(out)).json()
            score = HEADLINE[facts["task"]]
            scores.append({split: metrics[split]["metrics"][score] for split in ("validation", "test")})
            baselines = {key: value[score] for key, value in metrics["test"]["baselines"].items()}
        found[arm] = scores
    return {"scores": found, "baselines": baselines, "seconds": timed, "published": facts["published"], "score": HEADLINE[facts["task"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain", default="6m", help="Time for the encoder.")
    parser.add_argument("--family", default="modernbert")
    parser.add_argument("--set", nargs="*", default=[], help="Further settings of pretraining.")
    parser.add_argument("--tune", nargs="*", default=[], help="Further settings of all fine-tuning, such as task.r_drop=1.")
    parser.add_argument("--pretrained", nargs="*", default=[], help="Further settings of the pretrained arm, such as lr=1e-3.")
    parser.add_argument("--lstm", nargs="*", default=[], help="Further settings of the BiLSTM.")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="from_scratch")
    options = parser.parse_args()
    results = {}
    rows = []
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = found = one_set(name, options, Path(folder))
        before = sum(found["seconds"].get(part, 0.0) for part in ("corpus", "tokenizer", "pretraining"))
        for arm, scores in found["scores"].items():
            test, dev = ([100 * each[split] for each in scores] for split in ("test", "validation"))
            spread = f" ± {statistics.stdev(test):.2f}" if len(test) > 1 else ""
            runs = common.median([value for label, value in found["seconds"].items() if label.startswith(arm)])
            minutes = (runs + before * arm.endswith("training text")) / 60
            rows.append([name, arm, f"{statistics.fmean(dev):.2f}", f"{statistics.fmean(test):.2f}{spread}", f"{minutes:.1f}"])
        rows += [[name, baseline, "", f"{100 * value:.2f}", ""] for baseline, value in found["baselines"].items()]
    head = ["data", "model", "validation, %", "test, %", "minutes, pretraining included"]
    told = "; ".join(f"{name}: {found['published']}" for name, found in results.items() if found["published"])
    text = common.table(head, rows) + f"\n\nAccuracy for classifying, F1 of whole entities for tagging; mean over seeds {options.seeds}."
    common.save(options.name, {"settings": vars(options), "results": results}, text + (f" Published: {told}." if told else ""))


if __name__ == "__main__":
    main()
