"""Masked language modelling: wordmill beside the Hugging Face Trainer, BERT shape, 6 layers, width 384, 6 heads, context 256, batch 16.

Repeat it:
    python benchmarks/masked.py speed --text wiki.train.txt --rounds 3
    python benchmarks/masked.py loss  --text wiki.train.txt --valid wiki.valid.txt --minutes 6
Needs: torch, transformers, accelerate, a training and a validation text.

`speed`: tokens a second and peak memory; every case is a process of its own, the cases run in turn, the table gives the median step.
`loss`: the Trainer with its defaults (AdamW, 5e-5, linear, batch 8) for so many minutes, wordmill for a third of them, once with the
same shape and once with the size that it chooses; all models are then scored by the same program on the same hidden words of the
validation text. Both sides use one tokenizer, made by wordmill.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY, BATCH, RATE = 6, 384, 6, 256, 8192, 16, 0.15
WARM_UP = 4
PEERS: dict[str, tuple[str, ...]] = {"trainer-fp32": (), "trainer-bf16": ("bf16",)}
SHAPE = [f"model.layers={LAYERS}", f"model.width={WIDTH}", f"train.context={CONTEXT}"]


def worker(options: argparse.Namespace) -> None:
    """Inside the measured process: transformers.Trainer on a BertForMaskedLM, for some steps or for some seconds."""
    import numpy as np
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.prepared / "tokenizer")
    ids = torch.from_numpy(np.load(options.prepared / "ids.npy").astype(np.int64))
    rows = [{"input_ids": row} for row in ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)]
    moments: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())
            if options.seconds and moments[-1] - began > options.seconds:
                control.should_training_stop = True

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=options.batch, max_steps=options.steps + WARM_UP, save_strategy="no", report_to=[],
            bf16="bf16" in PEERS[options.worker], use_cpu=True, disable_tqdm=True, logging_steps=10**6,
        )  # fmt: skip
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE)
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[Clock()])
        began = time.perf_counter()
        trainer.train()
    if options.save:
        model.save_pretrained(options.save)
        tokenizer.save_pretrained(options.save)
    seconds = [b - a for a, b in itertools.pairwise(moments)]
    common.print_json({"seconds": seconds[WARM_UP - 1 :], "steps": len(moments)})


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Corpus and tokenizer by wordmill, and the training ids for the peer."""
    common.wordmill("corpus", "build", str(options.text), "-o", str(folder / "corpus"), "--validation", "0.01")
    common.wordmill(
        "tokenizer", "train", str(folder / "corpus"), "-o", str(folder / "tokenizer"), "--vocab", str(VOCABULARY), "--purpose", "masked"
    )
    import numpy as np

    from wordmill.corpus import Corpus
    from wordmill.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer")
    arrays = tokenizer.encode_arrays(list(Corpus.open(folder / "corpus").texts("train")))
    np.save(folder / "ids.npy", np.concatenate(arrays).astype(np.uint16))


def peer(name: str, options: argparse.Namespace, prepared: Path, *more: str) -> dict[str, Any]:
    """One measured process of the Trainer."""
    measured = common.child(__file__, name, "--prepared", str(prepared), "--steps", str(options.steps), *more)
    return {**measured.json(), "peak_bytes": measured.peak_bytes}


def wordmill(options: argparse.Namespace, prepared: Path) -> dict[str, Any]:
    """One `wordmill pretrain` of the same shape; the step times come from its run folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        measured = common.wordmill(
            "pretrain", str(prepared / "corpus"), "-o", str(run), "--tokenizer", str(prepared / "tokenizer"), "--model", "bert",
            "--steps", str(options.steps + WARM_UP), *SHAPE, f"train.rows={BATCH}", "train.optim.kind=adamw", "train.evaluations=1",
            "--json", "--quiet",
        )  # fmt: skip
        records = [r for r in common.read_metrics(run) if "tokens_per_second" in r]
    seconds = [BATCH * CONTEXT / r["tokens_per_second"] for r in records][WARM_UP:]
    return {"seconds": seconds, "peak_bytes": measured.peak_bytes}


def speed(options: argparse.Namespace, prepared: Path) -> None:
    """Rounds of every case, and the table of medians."""
    cases: dict[str, Any] = {"wordmill": functools.partial(wordmill, options, prepared)}
    cases |= {name: functools.partial(peer, name, options, prepared, "--batch", str(BATCH)) for name in PEERS}
    results = common.interleave(cases, options.rounds)
    speeds = {name: [BATCH * CONTEXT / common.median(r["seconds"]) for r in rounds] for name, rounds in results.items()}
    rows = [
        [name, f"{common.median(s):,.0f}", f"±{common.spread(s):.0%}", f"{common.median(speeds['wordmill']) / common.median(s):.2f} ×",
         f"{max(r['peak_bytes'] for r in results[name]) / 2**30:.2f} GiB"]
        for name, s in speeds.items()
    ]  # fmt: skip
    common.save("masked_speed", {"speeds": speeds, "raw": results},
                common.table(["case", "tokens/s", "rounds", "wordmill is faster by", "peak memory"], rows))  # fmt: skip


def loss(options: argparse.Namespace, prepared: Path) -> None:
    """The Trainer for --minutes, wordmill for a third, scored on the same hidden words."""
    seconds = 60.0 * options.minutes
    theirs = options.work / "trainer"
    if not theirs.exists():
        options.steps = 10**6
        found = peer("trainer-fp32", options, prepared, "--batch", "8", "--seconds", str(seconds), "--save", str(theirs))
        common.log(f"Trainer: {found['steps']} steps")
    folders = {"trainer": theirs}
    for name, shape in (("wordmill", SHAPE), ("wordmill, a bert of its own size", SHAPE[2:])):
        run = options.work / name.replace(", ", "-").replace(" ", "-")
        if not run.exists():
            common.wordmill("pretrain", str(prepared / "corpus"), "-o", str(run), "--tokenizer", str(prepared / "tokenizer"),
                            "--model", "bert", "--time", f"{seconds / 3:.0f}s", *shape, "--json", "--quiet")  # fmt: skip
        folders[name] = run / "model"
    text = options.valid.read_text(encoding="utf-8")
    scores = {name: score(folder, text) for name, folder in folders.items()}
    rows = [[name, f"{options.minutes / (1 if name == 'trainer' else 3):g}", f"{s['loss']:.3f}", f"{100 * s['accuracy']:.2f} %"]
            for name, s in scores.items()]  # fmt: skip
    common.save("masked_loss", {"scores": scores, "minutes": options.minutes},
                common.table(["side", "minutes", "masked loss, nats", "hidden words right"], rows))  # fmt: skip


def score(folder: Path, text: str) -> dict[str, float]:
    """Loss and accuracy of a model folder on the hidden words of a text, the same words for every model with this tokenizer."""
    from wordmill.batches.corrupted import objective_rows
    from wordmill.batches.store import encode_corpus
    from wordmill.corpus import CorpusConfig, build_corpus
    from wordmill.evaluate import evaluate_rows
    from wordmill.models.folder import load_model
    from wordmill.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "valid.txt"
        source.write_text(text, encoding="utf-8")
        corpus = build_corpus([source], Path(temporary) / "corpus", CorpusConfig(validation=0.0))
        store = encode_corpus(corpus, tokenizer, Path(temporary) / "tokens", splits=["train"])["train"]
        found = evaluate_rows(load_model(folder), objective_rows("mlm", store, CONTEXT, 32, 0, tokenizer, {"rate": RATE}))
    return {"loss": found.loss, "accuracy": found.accuracy, "targets": found.targets}


def main() -> None:
    """Parse the command line and do one of the two actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["speed", "loss"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--valid", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="counted steps a case and round")
    parser.add_argument("--minutes", type=float, default=6.0, help="for the Trainer; wordmill gets a third")
    parser.add_argument("--work", type=Path, help="keep what is made here (loss: what is there is not repeated)")
    for hidden in ("--worker", "--prepared", "--save", "--seconds", "--batch"):
        kind = {"--prepared": Path, "--save": Path, "--seconds": float, "--batch": int}.get(hidden, str)
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("the Trainer needs accelerate: pip install accelerate")
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        prepared = options.work / "prepared"
        if not (prepared / "ids.npy").exists():
            prepare(options, prepared)
        {"speed": speed, "loss": loss}[options.action](options, prepared)


if __name__ == "__main__":
    main()
