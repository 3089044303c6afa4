"""One budget, every kind of model: decoder, encoder, encoder–decoder, LSTM and GRU trained for the same time on the same text.

Repeat it:
    python benchmarks/families.py --name wikitext2 --train wiki.train.txt --valid wiki.valid.txt --blimp blimp/data --time 5m
    python benchmarks/families.py --name poetry --train poems.jsonl --time 5m
Needs: wordmill; poems.jsonl: a line {"text": …} for each of the 21,000 Song ci of github.com/chinese-poetry/chinese-poetry; for --blimp
the 67 files of github.com/alexwarstadt/blimp (CC BY), English. Takes (number of kinds) × (time + a minute or two) of a quiet machine. Runs
are kept in --work, and a run that is there is not repeated.

What the columns mean: *bits per byte* is a likelihood and compares decoder, LSTM and GRU. An encoder has none: *pseudo* bits per byte
(each token hidden once, all others shown) are lower by construction, and compare with other encoders only. For an encoder–decoder the
column holds each token hidden behind a sentinel and written by the decoder. *BLiMP*: the share of minimal pairs in which the grammatical
sentence is the likelier one, a fair game for all (50 % is chance; its paper has 5-grams at 61.2, an LSTM at 69.8, GPT-2 at 83.0, people
at 96.4, all trained on far more text).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _common as common

KINDS = {
    "decoder": ("qwen3", []), "encoder": ("modernbert", ["--objective", "mlm", "corruption.rate=0.3"]),
    "encoder-decoder": ("t5", ["--objective", "denoise"]), "lstm": ("lstm", []), "gru": ("gru", []),
}  # fmt: skip
SENTENCES, PAIRS = 300, 50


def train(kind: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One run, and what the model makes of the validation text and of the pairs."""
    kept = work / f"{kind}.json"
    if kept.exists():
        record: dict[str, Any] = json.loads(kept.read_text())
        return record
    family, more = KINDS[kind]
    validation = ["--validation", str(options.valid)] if options.valid else []
    done = common.wordmill(
        "pretrain", *map(str, options.train), "-o", str(work / kind), *validation, "--model", family, "--time", options.time, *more,
        "--seed", str(options.seed), "--json", "--quiet",
    )  # fmt: skip
    answer = done.json()
    arguments = ["--worker", str(work / kind), "--work", str(work)]
    arguments += ["--blimp", str(options.blimp)] if options.blimp else []
    scores = common.measure([sys.executable, __file__, "--name", options.name, *arguments]).json()
    record = {"kind": kind, "family": family, "seconds": done.seconds, "peak_bytes": done.peak_bytes, "answer": answer, **scores}
    kept.write_text(json.dumps(record, indent=1))
    return record


class Scorer:
    """−log p in nats of sentences, in each kind of model's own way."""

    def __init__(self, folder: Path) -> None:
        import wordmill
        from wordmill.batches.vocabulary import Vocabulary

        self.loaded = wordmill.load(folder)
        self.kind = getattr(self.loaded.config, "kind", "decoder")
        self.vocabulary = Vocabulary.of(self.loaded.tokenizer)

    def __call__(self, texts: Sequence[str]) -> Iterator[tuple[float, int]]:
        """(nats, tokens) of each text."""
        from wordmill.generate.pseudo import pseudo_log_likelihood
        from wordmill.generate.score import score_documents

        tokenizer, model = self.loaded.tokenizer, self.loaded.model
        if self.kind == "encoder-decoder":
            yield from map(self._spans, texts)
        elif self.kind == "encoder":
            wrapped = [tokenizer.wrap(tokenizer.encode(text)).ids for text in texts]
            for found in pseudo_log_likelihood(model, wrapped, self.vocabulary):
                yield found.nats, found.tokens
        else:
            for found in score_documents(model, self.loaded.encode_documents(texts), context=self.loaded.trained_context):
                yield found.nats, found.tokens

    def _spans(self, text: str) -> tuple[float, int]:
        """Each token behind the first sentinel, written by the decoder."""
        import torch

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        ids, eos, sentinel = tokenizer.encode(text), tokenizer.required("eos"), tokenizer.sentinel_ids[0]
        sources = torch.tensor([[*ids[:i], sentinel, *ids[i + 1 :], eos] for i in range(len(ids))])
        targets = torch.tensor([[model.config.decoder_start_id, sentinel]]).expand(len(ids), 2)
        with torch.no_grad():
            hidden, _ = model(targets, memory=model.encode(sources))
            logits = model.logits(hidden[:, 1]).double().log_softmax(-1)
        return -float(logits.gather(1, torch.tensor(ids)[:, None]).sum()), len(ids)


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Inside a process of its own: the numbers of one run."""
    import torch

    from wordmill.corpus import Corpus

    torch.set_num_threads(os.cpu_count() or 1)
    scorer = Scorer(options.worker / "model")
    found: dict[str, Any] = {}
    texts = Corpus.open(options.worker / "corpus").texts("validation")
    sentences = [line.strip() for text in texts for line in text.splitlines() if 40 <= len(line.strip().encode()) <= 400]
    some = sentences[:: max(1, len(sentences) // SENTENCES)][:SENTENCES]
    start = time.perf_counter()
    nats, tokens = (sum(column) for column in zip(*scorer(some), strict=True))
    size = sum(len(text.encode()) for text in some)
    found |= {"sentences": len(some), "sentence_bits_per_byte": nats / math.log(2) / size, "sentence_perplexity": math.exp(nats / tokens),
              "scored_tokens_per_second": tokens / (time.perf_counter() - start)}  # fmt: skip
    if options.blimp:
        found["blimp"] = blimp(scorer, options.blimp)
        found["blimp_accuracy"] = sum(found["blimp"].values()) / len(found["blimp"])
    return found


def blimp(scorer: Scorer, folder: Path) -> dict[str, float]:
    """Accuracy on the first `PAIRS` pairs of every paradigm."""
    result = {}
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            pairs = [json.loads(line) for line in itertools.islice(file, PAIRS)]
        good, bad = ([nats for nats, _ in scorer([pair[key] for pair in pairs])] for key in ("sentence_good", "sentence_bad"))
        result[path.stem] = sum(a < b for a, b in zip(good, bad, strict=True)) / len(pairs)
    return result


def report(records: Sequence[dict[str, Any]]) -> str:
    """The table."""
    rows = []
    for r in records:
        answer = r["answer"]
        whole = answer.get("validation_bits_per_byte")
        accuracy = f"{100 * r['blimp_accuracy']:.1f} %" if "blimp_accuracy" in r else "–"
        rows.append([r["kind"], r["family"], f"{answer['parameters'] / 1e6:.2f}M", f"{answer['tokens'] / 1e6:.2f}M",
                     f"{answer['tokens'] / r['seconds']:,.0f}", f"{whole:.3f}" if whole else "–",
                     f"{r['sentence_bits_per_byte']:.3f}" + ("" if whole else " (pseudo)"), accuracy])  # fmt: skip
    headers = ["kind", "family", "weights", "tokens read", "tokens/s, all included", "bits per byte, validation text",
               "bits per byte, single sentences", "BLiMP"]  # fmt: skip
    return common.table(headers, rows)


def main() -> None:
    """Parse the command line, train and score every kind, write benchmarks/results/families_NAME.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the text, for the result's file name")
    parser.add_argument("--train", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--valid", type=Path)
    parser.add_argument("--blimp", type=Path, help="folder of BLiMP's .jsonl files")
    parser.add_argument("--time", default="5m")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep the runs here, and go on from those that are there")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        common.print_json(score(options))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        records = []
        for kind in options.kinds:
            common.log(kind)
            try:
                records.append(train(kind, options, work))
            except common.BenchmarkError as error:
                common.log(f"  failed: {error}")
    common.save(f"families_{options.name}", {"records": records}, report(records))


if __name__ == "__main__":
    main()
