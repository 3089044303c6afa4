"""From files as they are to an answer for a new text: lines written, commands typed, minutes and scores of wordmill, spaCy and flair.

Repeat it (DATA holds the folders sst2 and wnut17; PEERS is the bin folder of an environment in which spaCy and flair are installed):
    python benchmarks/convenience.py DATA --peers PEERS --minutes 4
Needs: spacy and flair in an environment of their own; nothing is downloaded while it runs.

Two tasks, a classifier (SST-2, tab-separated, no header line) and a named-entity tagger (WNUT17, a word and its tag a line), each from
new weights: no vectors or models from elsewhere. For each tool, `WAYS` holds what a user writes (files) and types (commands) as its own
documentation recommends where there is no network. The benchmark writes those files into an empty folder, where DATA is a link to the
data, runs the commands one after the other, and counts lines from the very text that it ran: blank lines and comments don't count,
nor do files that a command wrote and nobody edited. A training that is still running after `--minutes` gets what Ctrl-C sends, and its
best weights until then are used; wordmill is told that time by `--time`. Time is the wall-clock of each command (typing isn't counted)
and, since other work may run beside it, the processor's time of the same commands. Scores are the tool's own on the same test file:
accuracy, and F1 of whole entities, each entity's words and label being right or not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _common as common

NEW = {"classify": "a warm , funny film that never talks down to anyone", "tag": "Emma Watson flew from Lisbon to New York on Friday"}
GRACE = 240.0  # seconds that a training has after Ctrl-C to save, and to judge the test file where it does that by itself


@dataclass(frozen=True)
class Way:
    """What one tool asks for on the way from the files to an answer: the files that are written, the commands that are typed."""

    commands: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    trains: int = 0  # which command trains
    score: str = ""  # the name of the score in what the tool leaves

    def lines(self) -> int:
        """Lines that someone has to write: neither blank nor a comment."""
        return sum(bool(line.strip()) and not line.strip().startswith("#") for text in self.files.values() for line in text.splitlines())


SST2 = "DATA/sst2/train.tsv --validation DATA/sst2/dev.tsv --test DATA/sst2/test.tsv"
WNUT17 = "DATA/wnut17/wnut17train.conll --validation DATA/wnut17/emerging.dev.conll --test DATA/wnut17/emerging.test.annotated"


def ours(task: str, data: str, model: str, score: str) -> Way:
    return Way((f"wordmill finetune {task} {data} --model {model} --time {{minutes}}m -o run",
                f"echo '{NEW[task]}' | wordmill predict run/model -"), score=score)  # fmt: skip


SPACY_CLASSIFY_DATA = """
import spacy
from spacy.tokens import DocBin

nlp = spacy.blank("en")
for name in ("train", "dev", "test"):
    docs = DocBin()
    with open(f"DATA/sst2/{name}.tsv", encoding="utf-8") as file:
        for line in file:
            text, label = line.rstrip("\\n").split("\\t")
            doc = nlp.make_doc(text)
            doc.cats = {"0": float(label == "0"), "1": float(label == "1")}
            docs.add(doc)
    docs.to_disk(f"{name}.spacy")
"""

SPACY_CLASSIFY_ASK = """
import sys

import spacy

nlp = spacy.load("run/model-best")
for text in sys.stdin:
    print(nlp(text.strip()).cats)
"""

SPACY_TAG_DATA = """
import re

import spacy
from spacy.tokens import Doc, DocBin

FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
nlp = spacy.blank("en")
for name, file in FILES.items():
    docs = DocBin()
    with open(f"DATA/wnut17/{file}", encoding="utf-8") as rows:
        for block in re.split(r"\\n\\s*\\n", rows.read().strip()):
            words, tags = zip(*(row.split("\\t") for row in block.split("\\n")))
            docs.add(Doc(nlp.vocab, words=words, ents=tags))
    docs.to_disk(f"{name}.spacy")
"""

SPACY_TAG_ASK = """
import sys

import spacy

nlp = spacy.load("run/model-best")
for text in sys.stdin:
    for entity in nlp(text.strip()).ents:
        print(entity.start_char, entity.end_char, entity.label_, entity.text)
"""

FLAIR_CLASSIFY_TRAIN = """
from flair.datasets import CSVClassificationCorpus
from flair.embeddings import DocumentRNNEmbeddings, OneHotEmbeddings
from flair.models import TextClassifier
from flair.trainers import ModelTrainer

corpus = CSVClassificationCorpus(
    "DATA/sst2",
    {0: "text", 1: "label_topic"},
    label_type="sentiment",
    train_file="train.tsv",
    dev_file="dev.tsv",
    test_file="test.tsv",
    delimiter="\\t",
)
words = OneHotEmbeddings.from_corpus(corpus, min_freq=2, embedding_length=100)
embeddings = DocumentRNNEmbeddings([words], hidden_size=256, bidirectional=True)
classifier = TextClassifier(embeddings, label_dictionary=corpus.make_label_dictionary("sentiment"), label_type="sentiment")
ModelTrainer(classifier, corpus).train("run", learning_rate=0.1, mini_batch_size=32, max_epochs=150)
"""

FLAIR_CLASSIFY_ASK = """
import sys

from flair.data import Sentence
from flair.models import TextClassifier

classifier = TextClassifier.load("run/final-model.pt")
for text in sys.stdin:
    sentence = Sentence(text.strip())
    classifier.predict(sentence)
    print(sentence.labels)
"""

FLAIR_TAG_TRAIN = """
from flair.data import Dictionary
from flair.datasets import ColumnCorpus
from flair.embeddings import CharacterEmbeddings, OneHotEmbeddings, StackedEmbeddings
from flair.models import SequenceTagger
from flair.trainers import ModelTrainer

corpus = ColumnCorpus(
    "DATA/wnut17",
    {0: "text", 1: "ner"},
    train_file="wnut17train.conll",
    dev_file="emerging.dev.conll",
    test_file="emerging.test.annotated",
)
characters = Dictionary()
for sentence in corpus.train:
    for character in sentence.to_plain_string():
        characters.add_item(character)
words = OneHotEmbeddings.from_corpus(corpus, min_freq=2, embedding_length=100)
embeddings = StackedEmbeddings([words, CharacterEmbeddings(characters)])
tags = corpus.make_label_dictionary("ner", add_unk=False)
tagger = SequenceTagger(hidden_size=256, embeddings=embeddings, tag_dictionary=tags, tag_type="ner")
ModelTrainer(tagger, corpus).train("run", learning_rate=0.1, mini_batch_size=32, max_epochs=150)
"""

FLAIR_TAG_ASK = """
import sys

from flair.data import Sentence
from flair.models import SequenceTagger

tagger = SequenceTagger.load("run/final-model.pt")
for text in sys.stdin:
    sentence = Sentence(text.strip())
    tagger.predict(sentence)
    for entity in sentence.get_spans("ner"):
        print(entity.start_position, entity.end_position, entity.tag, entity.text)
"""


def spacy(task: str, component: str, data: str, ask: str, score: str) -> Way:
    return Way((
        "python convert.py",
        f"python -m spacy init config config.cfg --lang en --pipeline {component}",
        "python -m spacy train config.cfg --output run --paths.train train.spacy --paths.dev dev.spacy",
        "python -m spacy evaluate run/model-best test.spacy --output scores.json",
        f"echo '{NEW[task]}' | python ask.py",
    ), {"convert.py": data, "ask.py": ask}, trains=2, score=score)  # fmt: skip


def flair(task: str, train: str, ask: str, score: str) -> Way:
    return Way(("python train.py", f"echo '{NEW[task]}' | python ask.py"), {"train.py": train, "ask.py": ask}, score=score)


WAYS: dict[str, dict[str, Way]] = {
    "classify": {"wordmill, BiLSTM": ours("classify", SST2, "lstm", "test_accuracy"),
                 "wordmill, ModernBERT": ours("classify", SST2, "modernbert", "test_accuracy"),
                 "wordmill, ModernBERT with n-grams": ours("classify", SST2, "modernbert task.ngrams=true", "test_accuracy"),
                 "spaCy, textcat": spacy("classify", "textcat", SPACY_CLASSIFY_DATA, SPACY_CLASSIFY_ASK, "cats_micro_f"),
                 "flair, BiGRU": flair("classify", FLAIR_CLASSIFY_TRAIN, FLAIR_CLASSIFY_ASK, "Accuracy")},
    "tag": {"wordmill, BiLSTM": ours("tag", WNUT17, "lstm", "test_f1"),
            "wordmill, ModernBERT": ours("tag", WNUT17, "modernbert", "test_f1"),
            "spaCy, ner": spacy("tag", "ner", SPACY_TAG_DATA, SPACY_TAG_ASK, "ents_f"),
            "flair, BiLSTM-CRF": flair("tag", FLAIR_TAG_TRAIN, FLAIR_TAG_ASK, "F-score (micro)")},
}  # fmt: skip

# What each tool gives without a further line: from its documentation, and seen in these runs.
EXTRAS: tuple[tuple[str, str, str, str], ...] = (
    ("reads these files as they are", "yes", "no: `convert.py` makes its own format of them", "yes, told the separator and the columns"),
    ("finds separator, header line, columns, labels, tag scheme", "all, and says what it took", "no", "labels and scheme"),
    ("sets validation examples aside where there is no file", "yes, the same share of each label", "no", "yes"),
    ("names what looks wrong in the data", "yes, before training", "`spacy debug data`, a command more", "no"),
    ("a time limit", "`--time`", "no: steps, epochs, patience", "no: epochs, patience"),
    ("score on the test file", "yes", "`spacy evaluate`, a command more", "yes"),
    ("its interval", "95 %, bootstrap", "no", "no"),
    ("beside it, what is had without a model", "majority class, TF-IDF + logistic regression; most frequent tag", "no", "no"),
    ("a page with curves and errors", "`report.html`", "no", "no; a log, and the test file with predictions"),
    ("answers at the command line", "`wordmill predict`, JSON", "`spacy apply` writes its own format; `ask.py` for text", "no: `ask.py`"),
    ("spans with offsets into the text", "yes", "yes", "yes"),
    ("opens in transformers", "the Transformers; not the BiLSTM, nor with n-grams", "no", "no"),
    ("what the model is kept in", "safetensors", "msgpack and a config", "a pickle"),
)


def run(command: str, folder: Path, env: dict[str, str], limit: float | None) -> dict[str, Any]:
    """Run one command as it is typed; where it takes longer than `limit` seconds, Ctrl-C.

    Raises BenchmarkError where it fails by itself, or goes on for too long after Ctrl-C.
    """
    with tempfile.TemporaryFile("w+b") as out:
        start = time.perf_counter()
        child = subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        stopped = False
        try:
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    break
                spent = time.perf_counter() - start
                if limit and spent > limit and not stopped:
                    os.killpg(child.pid, signal.SIGINT)
                    stopped = True
                if limit and spent > limit + GRACE:
                    raise common.BenchmarkError(f"went on after Ctrl-C: {command}")
                time.sleep(0.05)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        said = out.read().decode(errors="replace")
    if child.returncode and not stopped:
        raise common.BenchmarkError(f"{command}\nexit code {child.returncode}\n{said[-3000:]}")
    return {"command": command, "seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "stopped": stopped, "said": said}


def read_score(way: Way, folder: Path) -> float:
    """The score on the test file, from where the tool leaves it."""
    if (facts := folder / "run" / "run.json").exists():
        return float(json.loads(facts.read_text())["results"][way.score])
    if (facts := folder / "scores.json").exists():
        return float(json.loads(facts.read_text())[way.score])
    found = re.findall(rf"{re.escape(way.score)}:? ([0-9.]+)", (folder / "run" / "training.log").read_text())
    return float(found[-1])


def answer(said: str) -> str:
    """What a command printed, without lines of a log."""
    return "\n".join(line for line in said.strip().splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:", line))


def one_way(tool: str, way: Way, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole way of one tool, in an empty folder."""
    (folder / "DATA").symlink_to(Path(options.data).resolve())
    for name, text in way.files.items():
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")
    where = str(Path(sys.executable).parent) if tool.startswith("wordmill") else str(Path(options.peers).resolve())
    env = {**os.environ, "PATH": f"{where}:{os.environ['PATH']}", "OMP_NUM_THREADS": str(options.threads)}
    steps = []
    for number, command in enumerate(way.commands):
        # wordmill ends on time by itself; a limit for it as well, only so that nothing runs for ever
        limit = 60 * options.minutes * (2 if tool.startswith("wordmill") else 1) if number == way.trains else None
        steps.append(run(command.format(minutes=f"{options.minutes:g}"), folder, env, limit))
        common.log(f"{tool}: {command[:60]} … took {steps[-1]['seconds']:.0f} s{', stopped' if steps[-1]['stopped'] else ''}")
    trained = steps[way.trains]
    return {"files": list(way.files), "lines": way.lines(), "commands": len(way.commands), "score": read_score(way, folder),
            "training": trained["seconds"], "training_cpu": trained["cpu"], "stopped": trained["stopped"],
            "all": sum(step["seconds"] for step in steps), "all_cpu": sum(step["cpu"] for step in steps),
            "answer": answer(steps[-1]["said"]), "steps": steps}  # fmt: skip


def peer_versions(peers: str) -> str:
    ask = "import importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in ('spacy', 'flair', 'torch')))"
    return subprocess.run([f"{peers}/python", "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def tables(results: dict[str, dict[str, Any]]) -> str:
    """What was counted and measured, what comes without a further line, and the answers; ways that didn't run are counted all the same."""
    rows, answers = [], []
    for task, ways in WAYS.items():
        for tool, way in ways.items():
            found = results.get(task, {}).get(tool)
            row = [task, tool, way.lines(), len(way.commands)]
            if not found:
                rows.append([*row, "not run", "", "", ""])
                continue
            minutes = [f"{found[part] / 60:.1f} ({found[f'{part}_cpu'] / 60:.1f})" for part in ("training", "all")]
            rows.append([*row, *minutes, "Ctrl-C" if found["stopped"] else "by itself", f"{100 * found['score']:.2f}"])
            said = " ; ".join(found["answer"].splitlines()[-6:])
            answers.append([task, tool, f"`{said[:160]}{' …' * (len(said) > 160)}`" if said else "(no entity)"])
    head = ["task", "tool", "lines written", "commands typed", "training, min (processor)", "files to answer, min (processor)"]
    counted = common.table([*head, "training ended", "test score, %"], rows)
    extras = common.table(["without a further line", "wordmill", "spaCy", "flair"], EXTRAS)
    told = common.table(["task", "tool", "the answer to the new text, as it was printed"], answers)
    return f"{counted}\n\nAccuracy on SST-2 (classify), F1 of whole entities on WNUT17 (tag); one seed.\n\n{extras}\n\n{told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--peers", required=True, help="The bin folder of the environment with spaCy and flair.")
    parser.add_argument("--tasks", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--only", nargs="+", default=[""], help="Tools whose names begin so.")
    parser.add_argument("--minutes", type=float, default=4.0, help="Most time for each training.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="A folder with a result a way: those that are there aren't run again.")
    parser.add_argument("--report", action="store_true", help="Run nothing: tables of what --keep holds.")
    parser.add_argument("--name", default="convenience")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored, and commands would inherit that
    results: dict[str, dict[str, Any]] = {}
    for task in options.tasks:
        for tool, way in WAYS[task].items():
            if not tool.startswith(tuple(options.only)):
                continue
            kept = options.keep / f"{task}-{tool.replace(', ', '-')}.json" if options.keep else None
            if kept and kept.exists():
                results.setdefault(task, {})[tool] = json.loads(kept.read_text())
                continue
            if options.report:
                continue
            try:
                with tempfile.TemporaryDirectory() as folder:
                    found = one_way(tool, way, options, Path(folder))
            except common.BenchmarkError as error:
                common.log(f"{task}, {tool}: failed: {error}")
                continue
            results.setdefault(task, {})[tool] = found
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(found, indent=1))
    text = f"{peer_versions(options.peers)}\n\n" + tables(results)
    settings = {"tasks": options.tasks, "only": options.only, "minutes": options.minutes, "threads": options.threads}
    for tools in results.values():
        for found in tools.values():
            for step in found["steps"]:
                step.pop("said")  # progress, and names of folders
    common.save(options.name, {"settings": settings, "results": results}, text, options.results)


if __name__ == "__main__":
    main()
