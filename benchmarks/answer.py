"""Answering questions: exact match and F1 of a model that is trained on a part of XQuAD (English), and on CMRC 2018 (dev → trial).

Repeat it:
    python benchmarks/answer.py DATA --model runs/mine/model --time 10m
DATA holds xquad/ and cmrc2018/ as their authors publish them; a family's name as --model starts from scratch. A tenth of the contexts, with
all their questions, is held out and chooses the best weights. XQuAD's scores are of that tenth, so they are a little too good; CMRC's of
its trial file, by which nothing was chosen (its training file is not taken: its dev file is what is learned).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import _common as common

CMRC = "cmrc2018/squad-style-data/cmrc2018"
SETS = {"xquad-en": ("xquad/xquad.en.json", None), "cmrc2018": (f"{CMRC}_dev.json", f"{CMRC}_trial.json")}
"""What is learned, and what is judged (None: a tenth set aside)."""
METRICS = ("f1", "exact_match")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with xquad/ and cmrc2018/")
    parser.add_argument("--model", required=True, help="model folder, or a family's name: from scratch")
    parser.add_argument("--size", help="weights of a model from scratch, such as 5m")
    parser.add_argument("--time", default="10m", help="time for each set")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, record = [], []
    for name in options.sets:
        with tempfile.TemporaryDirectory(prefix="wordmill-") as folder:
            common.log(name)
            size = ["--size", options.size] if options.size else []
            learned, other = SETS[name]
            test = ["--test", str(options.data / other)] if other else []
            run = common.wordmill("finetune", "answer", str(options.data / learned), *test, "--model", options.model, *size, "--time",
                                  options.time, "--seed", str(options.seed), "-o", f"{folder}/run", "task.skip_bad=true", "--json")
            found = run.json()
        judged = found["test" if other else "validation"]
        for metric in METRICS:
            low, high = judged["intervals"][metric]
            rows.append([name, judged["examples"], metric.replace("_", " "), f"{judged['metrics'][metric]:.3f} ({low:.3f} … {high:.3f})",
                         *(f"{other[metric]:.3f}" for other in judged["baselines"].values())])  # fmt: skip
        record.append({"set": name, "parameters": found["parameters"], "steps": found["step"], "seconds": run.seconds, **judged})
    heads = ["set", "questions", "score", "model (95 % interval)", *judged["baselines"]]
    text = common.table(heads, rows) + (
        f"\n\nModel: {Path(options.model).name}, {record[0]['parameters'] / 1e6:.1f} M weights, {options.time} a set in all, seed "
        f"{options.seed}. CMRC is counted by\ncharacters, XQuAD by words.\n"
    )
    common.save("answer", {"settings": {**vars(options), "data": options.data.name}, "sets": record}, text)


if __name__ == "__main__":
    main()
