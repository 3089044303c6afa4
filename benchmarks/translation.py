"""Translation from scratch in a fixed time: wordmill beside a plain PyTorch script around `torch.nn.Transformer`, the same pairs and test.

Repeat it:
    python benchmarks/translation.py DATA --time 20m
DATA holds multi30k/ as its authors publish it (29,000 German–English pairs; val chooses the weights, test_2016_flickr judges).

The peer is what one writes after PyTorch's tutorials: three layers on each side, width 512, feed-forward part 512, dropout 0.1, sinusoidal
positions, batches of 128 pairs padded to the longest, Adam (0.9, 0.98) at 1e-4; "tuned" with bfloat16 autocast, warm-up to 7e-4, a decay to
zero at the end of its time, and label smoothing. Its tokens are byte-level BPE, 8,192 for both languages. It looks at the validation loss
after each epoch, and translates greedily. wordmill gets the time and the pairs, nothing else. Each side is a process of its own; the time
is all of it but for the answers to the test sentences.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common as common
from texts import multi30k

if TYPE_CHECKING:
    import torch
    from torch import nn

WIDTH, HEADS, LAYERS, FFN, VOCABULARY, ROWS, LONGEST = 512, 8, 3, 512, 8192, 128, 100
PAD, BEGIN, END = 0, 1, 2
Pair = tuple[list[int], list[int]]


def seq2seq() -> nn.Module:
    """`torch.nn.Transformer` with embeddings, positions and an output layer."""
    import torch
    from torch import nn

    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target = (nn.Embedding(VOCABULARY, WIDTH, padding_idx=PAD) for _ in range(2))
            self.transformer = nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, FFN, dropout=0.1, batch_first=True)
            self.output = nn.Linear(WIDTH, VOCABULARY)
            self.dropout = nn.Dropout(0.1)
            at, rate = torch.arange(1024)[:, None], torch.exp(torch.arange(0, WIDTH, 2) * -math.log(10_000) / WIDTH)
            self.register_buffer("places", torch.stack([(at * rate).sin(), (at * rate).cos()], -1).flatten(1))
            for weight in self.parameters():
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight)

        def place(self, embedding: nn.Module, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.dropout(embedding(ids) * math.sqrt(WIDTH) + self.places[: ids.shape[1]])
            return found

        def read(self, source: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.transformer.encoder(self.place(self.source, source), src_key_padding_mask=source == PAD)
            return found

        def write(self, memory: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
            found: torch.Tensor = self.transformer.decoder(
                self.place(self.target, target), memory, tgt_mask=causal, tgt_key_padding_mask=target == PAD,
                memory_key_padding_mask=source == PAD)  # fmt: skip
            return found

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.output(self.write(self.read(source), source, target))
            return logits

    return Seq2Seq()


def padded(rows: list[list[int]]) -> torch.Tensor:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


def batches(pairs: list[Pair], order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first in range(0, len(order), ROWS):
        rows = [pairs[i] for i in order[first : first + ROWS]]
        yield padded([source for source, _ in rows]), padded([target for _, target in rows])


def translate(model: Any, sources: list[list[int]]) -> list[list[int]]:
    """Greedily, many sentences at once."""
    import torch

    found: list[list[int]] = []
    for first in range(0, len(sources), ROWS):
        source = padded(sources[first : first + ROWS])
        memory, target = model.read(source), torch.full((len(source), 1), BEGIN)
        for _ in range(LONGEST):
            best = model.output(model.write(memory, source, target)[:, -1]).argmax(-1, keepdim=True)
            target = torch.cat([target, best], 1)
            if (target == END).any(1).all():
                break
        found += [row[1 : row.index(END)] if END in row else row[1:] for row in target.tolist()]
    return found


def worker(options: argparse.Namespace) -> None:
    """The peer: reads, trains until its time is up, translates the test sentences."""
    import sacrebleu
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from torch.nn import functional

    begun = time.perf_counter()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.backends.mha.set_fastpath_enabled(False)  # it doesn't know of autocast
    languages = [options.source, {"de": "en", "en": "de"}[options.source]]
    texts: dict[str, list[tuple[str, ...]]] = {}
    for split in ("train", "validation", "test"):
        sides = [(Path(options.data) / f"{split}.{language}").read_text(encoding="utf-8").splitlines() for language in languages]
        texts[split] = list(zip(*sides, strict=True))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = ["<pad>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text for pair in texts["train"] for text in pair), trainer)

    def encoded(pair: tuple[str, ...]) -> Pair:
        source, target = (tokenizer.encode(text).ids for text in pair)
        return [*source, END], [BEGIN, *target, END]

    pairs = {split: [encoded(pair) for pair in found] for split, found in texts.items()}
    model = seq2seq()
    peak = 7e-4 if options.tuned else 1e-4
    optimizer = torch.optim.Adam(model.parameters(), lr=peak, betas=(0.9, 0.98), eps=1e-9)
    smoothing = 0.1 if options.tuned else 0.0

    def cast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if options.tuned else contextlib.nullcontext()

    def loss(source: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
        with cast():
            logits = model(source, target[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=smoothing)

    def validation() -> float:
        model.eval()
        with torch.no_grad():
            found = [float(loss(*batch, 0.0)) for batch in batches(pairs["validation"], list(range(len(pairs["validation"]))))]
        model.train()
        return sum(found) / len(found)

    best, kept, steps, epochs, draw = math.inf, copy.deepcopy(model.state_dict()), 0, 0, random.Random(options.seed)
    while (spent := time.perf_counter() - begun) < options.seconds:
        order = list(range(len(pairs["train"])))
        draw.shuffle(order)
        for batch in batches(pairs["train"], order):
            spent = time.perf_counter() - begun
            if spent >= options.seconds:
                break
            if options.tuned:
                optimizer.param_groups[0]["lr"] = peak * min((steps + 1) / 400, max(0.0, 1 - spent / options.seconds))
            loss(*batch, smoothing).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        epochs += 1
        if (now := validation()) < best:
            best, kept = now, copy.deepcopy(model.state_dict())
        common.log(f"epoch {epochs}, {spent:.0f} s: validation loss {now:.3f}")
    trained = time.perf_counter() - begun
    model.load_state_dict(kept)
    model.eval()
    with torch.no_grad(), cast():
        answers = [tokenizer.decode(ids) for ids in translate(model, [source for source, _ in pairs["test"]])]
    references = [[target for _, target in texts["test"]]]
    common.print_json({
        "bleu": sacrebleu.corpus_bleu(answers, references).score, "chrf": sacrebleu.corpus_chrf(answers, references).score, "steps": steps,
        "epochs": epochs, "validation_loss": best, "seconds": trained, "judging": time.perf_counter() - begun - trained,
        "parameters": sum(p.numel() for p in model.parameters()), "samples": answers[:3],
    })  # fmt: skip


def wordmill(options: argparse.Namespace, files: dict[str, list[Path]], place: Path) -> dict[str, Any]:
    """wordmill on the same files: trained in one process, judged in a second."""
    env = {"OMP_NUM_THREADS": str(options.threads)}
    validation = [word for path in files["validation"] for word in ("--validation", str(path))]
    words = ["--model", options.model, "--time", options.time, "--seed", str(options.seed), "-o", str(place / "run"), *options.setting]
    trained = common.wordmill("finetune", "translate", *map(str, files["train"]), *validation, *words, "--quiet", "--json", env=env)
    tested = common.wordmill("evaluate", str(place / "run"), *map(str, files["test"]), "--json", "--quiet", env=env)
    facts, judged = trained.json(), tested.json()
    return {**{name: judged["metrics"][name] for name in ("bleu", "chrf")}, "steps": facts["step"], "seconds": trained.seconds,
            "judging": tested.seconds, "parameters": facts["parameters"], "judged": judged}  # fmt: skip


def compare(options: argparse.Namespace) -> None:
    """Each side in turn, and the table."""
    from wordmill.tasks.plan import parse_time

    seconds = parse_time(options.time)
    results: dict[str, dict[str, Any]] = {}
    target = {"de": "en", "en": "de"}[options.source]
    with tempfile.TemporaryDirectory(prefix="wordmill-translation-") as folder:
        files = multi30k(Path(options.data), Path(folder), options.source, target)
        for name in options.only:
            common.log(name)
            if name == "wordmill":
                results[name] = wordmill(options, files, Path(folder))
            else:
                run = common.child(__file__, folder, "--source", options.source, "--seconds", str(seconds), "--seed", str(options.seed),
                                   "--threads", str(options.threads), *(["--tuned"] if name == "tuned" else []))  # fmt: skip
                results[name] = run.json()
            common.log(f"  {results[name]['bleu']:.2f} BLEU")
    told = {"wordmill": f"wordmill, {options.model}", "plain": "nn.Transformer", "tuned": "nn.Transformer, tuned"}
    rows = [[told[name], f"{one['parameters']:,}", one["steps"], f"{one['seconds']:.0f}", f"{one['judging']:.0f}", f"{one['bleu']:.2f}",
             f"{one['chrf']:.2f}"] for name, one in results.items()]  # fmt: skip
    head = ["", "weights", "steps", "s", "s for the answers", "BLEU", "chrF"]
    settings = {name: value for name, value in vars(options).items() if name in ("source", "model", "time", "seed", "threads", "setting")}
    common.save(f"translation_{options.source}", {"settings": settings, "results": results}, common.table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--source", choices=["de", "en"], default="de")
    parser.add_argument("--model", default="t5", help="wordmill's family")
    parser.add_argument("--time", default="20m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=["wordmill", "plain", "tuned"], default=["wordmill", "plain", "tuned"])
    parser.add_argument("--setting", action="append", default=[], help="a further setting for wordmill (repeatable)")
    for hidden, kind in (("--worker", None), ("--tuned", None), ("--seconds", float)):
        parser.add_argument(hidden, help=argparse.SUPPRESS, **({"type": kind} if kind else {"action": "store_true"}))  # type: ignore[arg-type]
    options = parser.parse_args()
    if options.worker:
        worker(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
