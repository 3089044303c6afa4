"""Instruction tuning of a decoder that was pretrained here: what the assistant's words cost on held-out conversations, before and after,
with all weights, with an adapter, and from new weights; and what it then says.

Repeat it (DATA has wikitext2/train.txt and alpaca_5000/alpaca_5000.json):
    python benchmarks/chat.py DATA --pretrain 10m --time 8m
The last 500 conversations are held out, and nothing is chosen by them; a part of the others is set aside for that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import _common as common

HELD_OUT = 500
ARMS: dict[str, list[str]] = {"all weights": [], "adapter of rank 16": ["--lora", "16"], "from new weights": ["--fresh"]}
ASKED = ("Name three animals that live in the sea.", "What is the capital of France?", "Write a sentence about the rain.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pretrain", default="10m", help="Time for the decoder.")
    parser.add_argument("--time", default="8m", help="Time for each way of tuning.")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="chat")
    options = parser.parse_args()
    env = {"OMP_NUM_THREADS": str(options.threads)}

    def work(*words: str) -> Any:
        done = common.wordmill(*words, "--json", "--quiet", env=env, timeout=36_000)
        common.log(f"{' '.join(words[:2])}: {done.seconds:.0f} s")
        return done.json()

    rows, found, said = [], {}, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        talks = json.loads((options.data / "alpaca_5000" / "alpaca_5000.json").read_text(encoding="utf-8"))
        train, test, asked = folder / "train.json", folder / "test.json", folder / "asked.jsonl"
        train.write_text(json.dumps(talks[:-HELD_OUT]), encoding="utf-8")
        test.write_text(json.dumps(talks[-HELD_OUT:]), encoding="utf-8")
        turns = ([{"role": "user", "content": one}] for one in ASKED)
        asked.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns), encoding="utf-8")
        base = folder / "base"
        text = options.data / "wikitext2" / "train.txt"
        pretrained = work("pretrain", str(text), "--time", options.pretrain, "--seed", str(options.seed), "-o", str(base))
        for arm in options.arms:
            run = folder / arm.replace(" ", "-")
            metrics = work("finetune", "chat", str(train), "--test", str(test), "--model", str(base), *ARMS[arm], "task.skip_bad=true",
                           "--time", options.time, "--seed", str(options.seed), "-o", str(run))  # fmt: skip
            judged = metrics["test"]
            low, high = judged["intervals"]["bits_per_byte"]
            finished = [one["finished"] for one in judged["samples"]]
            for split in ("validation", "test"):
                metrics[split].pop("samples")  # sentences of the data, which stay where they are
            found[arm] = {name: value for name, value in metrics.items() if name not in ("run", "model", "report", "adapter")}
            scores = judged["metrics"]
            rows.append([arm, f"{scores['bits_per_byte']:.3f} ({low:.3f} … {high:.3f})", f"{scores['perplexity']:.1f}", metrics["step"],
                         f"{sum(finished)} of {len(finished)}"])  # fmt: skip
            told = common.wordmill("predict", str(run / "model"), str(asked), "task.answer_tokens=60", "--quiet", env=env)
            answers = [json.loads(line)["answer"] for line in told.stdout.splitlines() if line.startswith("{")]
            said += [f"- {arm}. {question} — {' '.join(answer.split())!r}" for question, answer in zip(ASKED, answers, strict=True)]
        before = found[options.arms[0]]["test"]["baselines"].get("before fine-tuning")
    if before:
        rows.insert(0, ["before, pretrained alone", f"{before['bits_per_byte']:.3f}", f"{before['perplexity']:.1f}", 0, ""])
    head = ["what learned", "bits per byte of the answers (95 % interval)", "perplexity of a token", "steps", "samples that came to an end"]
    text = common.table(head, rows) + (
        f"\n\n{pretrained['parameters'] / 1e6:.1f} M weights, pretrained for {options.pretrain} on WikiText-2, tuned for {options.time} on "
        f"{len(talks) - HELD_OUT:,} conversations of Alpaca; {HELD_OUT} others judge. Greedy answers:\n\n" + "\n".join(said) + "\n"
    )
    settings = {**vars(options), "data": options.data.name}
    common.save(options.name, {"settings": settings, "runs": found, "said": said}, text)


if __name__ == "__main__":
    main()
