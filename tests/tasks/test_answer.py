"""Answering: files and their mistakes, windows and places, scores, the loss, and the whole way from questions to spans."""

from __future__ import annotations

import json
import math
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wordmill
from tests.tuning import FILL, make_folder
from wordmill.batches.batch import ASKED, IGNORE
from wordmill.batches.examples import in_pieces, pack
from wordmill.cli.app import main
from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import SILENT, Reporter
from wordmill.evaluate.bootstrap import paired
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.answer import NO_ANSWER, Answer
from wordmill.tasks.answer_scores import AnswerOutcomes, common_run, exact, f1, is_chinese
from wordmill.tasks.aside import set_aside
from wordmill.tasks.baselines import shared_words
from wordmill.tasks.examples import Record, Records, read_examples
from wordmill.tasks.finetune import FinetuneConfig
from wordmill.tasks.task import Tools, restore
from wordmill.tasks.windows import NOWHERE, best_span, covering, trimmed, windows
from wordmill.tokenizer import Tokenizer

DATA = Path(os.environ.get("WORDMILL_TEST_DATA", "nowhere"))
NAMES, TOWNS = "anna boris clara".split(), "york delft bruges".split()


def question(generator: random.Random, number: int, *, long: bool = False) -> dict:
    """Who, or where: the person stands before `went`, the town behind `to`."""
    name, town = generator.choice(NAMES), generator.choice(TOWNS)
    around = [" ".join(generator.choices(FILL, k=generator.randint(0, 40 if long else 4))) for _ in range(2)]
    context = f"{around[0]} {name} went to {town} {around[1]}".strip()
    asked, text = ("who went ?", name) if generator.random() < 0.5 else ("where to ?", town)
    return {"id": f"q{number}", "question": asked, "context": context, "answers": [{"text": text, "answer_start": context.index(text)}]}


def write_squad(path: Path, n: int, seed: int, *, none: float = 0.0, long: bool = False) -> Path:
    generator = random.Random(seed)
    data = []
    for number in range(n):
        one = question(generator, number, long=long)
        context = one.pop("context")
        if generator.random() < none:
            context = " ".join(generator.choices(FILL, k=8))
            one |= {"answers": [], "is_impossible": True}
        data.append({"title": "t", "paragraphs": [{"context": context, "qas": [one]}]})
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squad")
    for seed, (name, n) in enumerate({"train": 160, "dev": 40, "test": 40}.items()):
        write_squad(folder / f"{name}.json", n, seed, none=0.25)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory):
    """Small models whose vocabulary has the words of these questions."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_folder(tmp_path_factory.mktemp(name), name, [" ".join([*NAMES, *TOWNS, *FILL, "who where went to ?"])] * 3)
        return made[name]

    return folder


def rows(path: Path, *values: dict) -> Path:
    path.write_text("".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values), encoding="utf-8")
    return path


def unfolded(path: Path, *, learn: bool = True, reporter: Reporter = SILENT, **options) -> Records:
    return Answer(options).unfold(read_examples([path]), reporter, learn=learn)


# ── the whole way ───────────────────────────────────────────────────────────────────────────────────────────────


def test_from_questions_to_spans(squad, models, tmp_path, capsys):
    files = [str(squad / "train.json"), "--validation", str(squad / "dev.json"), "--test", str(squad / "test.json")]
    more = ["--steps", "300", "--lr", "0.006", "train.rows=16", "train.evaluations=5", "--quiet", "--json"]
    run = tmp_path / "run"
    assert main(["finetune", "answer", *files, "--model", str(models("bert")), "-o", str(run), *more]) == 0
    judged = json.loads(capsys.readouterr().out)["test"]
    assert judged["metrics"]["f1"] > 0.8 and judged["cut"] == 0
    assert judged["metrics"]["no_answer_right"] > 0.8 and judged["metrics"]["has_answer_f1"] > 0.7
    assert {"no answer", "sentence with most shared words", "words beside shared words"} == set(judged["baselines"])
    assert judged["metrics"]["f1"] > max(other["f1"] for other in judged["baselines"].values())
    assert "Most wrong" in (run / "report.html").read_text(encoding="utf-8") or judged["metrics"]["f1"] == 1.0
    assert main(["predict", str(run / "model"), str(squad / "test.json"), "-o", str(tmp_path / "out.jsonl"), "--quiet"]) == 0
    for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert 0 <= row["probability"] <= 1 and 0 <= row["no_answer_probability"] <= 1
        if row["answer"]:
            assert row["input"]["context"][row["start"] : row["end"]] == row["answer"]
        else:
            assert row["start"] is None and row["end"] is None
    model = wordmill.load(run)
    found = model.predict({"question": "who went ?", "context": "the mill river anna went to york bread"})
    assert found["answer"] == "anna" and found["start"] == 15
    assert main(["evaluate", str(run / "model"), str(squad / "test.json"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == judged["metrics"]
    assert main(["compare", str(run), str(run), "--data", str(squad / "test.json"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0


def test_long_contexts_are_learned_and_answered_in_windows(models, tmp_path, capsys):
    files = [str(write_squad(tmp_path / f"{name}.json", n, n, long=True)) for name, n in (("train", 300), ("test", 60))]
    run = tmp_path / "run"
    code = main(["finetune", "answer", files[0], "--test", files[1], "--model", str(models("bert")), "-o", str(run), "--steps", "300",
                 "--lr", "0.003", "train.rows=16", "--max-tokens", "24", "task.stride=6", "train.evaluations=4", "--json"])  # fmt: skip
    assert code == 0
    out = capsys.readouterr()
    judged = json.loads(out.out)["test"]
    assert judged["metrics"]["f1"] > 0.7 and judged["cut"] == 0
    assert judged["details"]["in_several_windows"] > 30 and judged["details"]["windows"] > 100
    assert "read in pieces that overlap" in out.err
    assert re.search(r", 270 \([\d,]+ pieces\) training and 30 validation examples, ", out.err)
    assert main(["finetune", "answer", files[0], "--model", str(models("bert")), "--preview", "--max-tokens", "24"]) == 0
    assert "pieces that overlap" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["qwen3", "t5", "lstm"])
def test_other_models_write_their_answers(family, squad, models, tmp_path, capsys):
    files = [str(squad / "train.json"), "--validation", str(squad / "dev.json"), "--test", str(squad / "test.json")]
    more = ["--steps", "40", "--lr", "0.006", "train.rows=16", "train.evaluations=2", "task.beams=2", "--quiet", "--json"]
    run = tmp_path / "run"
    assert main(["finetune", "answer", *files, "--model", str(models(family)), "-o", str(run), *more]) == 0
    judged = json.loads(capsys.readouterr().out)["test"]
    assert {"f1", "exact_match", "no_answer_right", "has_answer_f1", "has_answer_exact_match"} == set(judged["metrics"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < 0.8 * math.log(420), "far better than any token"
    assert judged["details"]["measure"] == "squad" and "answers_without_end" in judged["details"]
    model = wordmill.load(run)
    found = model.predict([{"question": "who went ?", "context": "the mill anna went to york bread"}])[0]
    assert isinstance(found["answer"], str) and (found["start"] is None or found["end"] - found["start"] == len(found["answer"]))
    assert model.task.spec["way"] == "write" and model.task.generative and model.generate("mill", max_tokens=2) is not None
    assert main(["compare", str(run), str(run), "--data", str(squad / "test.json"), "--quiet"]) == 0


def test_a_written_answer_has_its_prompt_and_its_end(models):
    folder = models("qwen3")
    tokenizer = Tokenizer.load(folder)
    task = Answer.suited("decoder", {"prompt": "{question} | {source} |"})
    values = {"question": "who {source} ?", "context": "anna went {question}", "answers": [{"text": "anna", "answer_start": 0}]}
    records = [Record(values, "f"), Record({**values, "answers": []}, "f")]
    task.look({"train": Records(records, list(values), "json", files=["f"])}, SILENT)
    tools = Tools(tokenizer, read_config(folder), 64)
    task.settle(tools, records, SILENT)
    for record, text in zip(records, ("anna", "")):
        one = task.encode(record, tools, answer=True)
        learned = one.targets[one.targets != IGNORE].tolist()
        assert learned == [*tokenizer.encode(text), tokenizer.eos_id]
        prompt = [index for index in one.ids.tolist()[: len(one.ids) - len(learned) + 1] if index != tokenizer.start_id]
        assert tokenizer.decode(prompt) == "who {source} ? | anna went {question} |"
    with pytest.raises(wordmill.WordmillError, match=r"holds \{question\} once"):
        Answer.suited("decoder", {"prompt": "{source}"})
    with pytest.raises(wordmill.WordmillError, match="stride"):
        Answer.suited("decoder", {"stride": 4})
    assert Answer.suited("decoder", {"way": "span"}).way == "span" == Answer.suited("encoder", {}).way  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["qwen3", "t5", "lstm"])
def test_other_models_learn_spans_too(family, squad, models):
    task, folder = Answer(), models(family)
    records = unfolded(squad / "train.json")
    task.look({"train": records}, SILENT)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 64)
    model = task.build(load_base(folder).requires_grad_(True), 0)
    batch, _ = pack(in_pieces([task.encode(record, tools, answer=True) for record in records.records[:24]])[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        found = task.objective(model, batch)
        (found.loss_sum / found.n_targets).backward()
        optimizer.step()
        losses.append(float(found.loss_sum.detach()) / found.n_targets)
    assert losses[-1] < 0.6 * losses[0]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("language", "ar de el en es hi ro ru th tr vi zh".split())
def test_xquad_loads_in_every_language(language, tmp_path):
    path = DATA / "xquad" / f"xquad.{language}.json"
    if not path.exists():
        pytest.skip("no real data: WORDMILL_TEST_DATA names no folder that holds them")
    records = unfolded(path)
    assert len(records) == 1190
    for record in records.records:
        for answer in record.values["answers"]:
            start = answer["answer_start"]
            assert record.values["context"][start : start + len(answer["text"])] == answer["text"]
    task = Answer()
    task.look({"train": records}, SILENT)
    assert task.spec["measure"] == ("cmrc" if language == "zh" else "squad") and not task.spec["unanswerable"]


def test_cmrc_in_both_layouts():
    folder = DATA / "cmrc2018"
    if not folder.exists():
        pytest.skip("no real data: WORDMILL_TEST_DATA names no folder that holds them")
    reporter = Reporter(quiet=True)
    path = folder / "squad-style-data" / "cmrc2018_trial.json"
    with pytest.raises(DataError, match=r"cmrc2018_trial.json, record \d+, question TRIAL_\d+_QUERY_\d: .*does not stand at"):
        unfolded(path)
    records = unfolded(path, reporter=reporter, skip_bad=True)
    assert len(records) == 997 and "5 questions are left out" in "\n".join(reporter.warnings)
    own = unfolded(folder / "data" / "cmrc2018_trial.json", skip_bad=True)
    assert len(own) > 990 and own.records[0].values["question"] == records.records[0].values["question"]


CONTEXT = "anna went to york and boris went to delft"


def test_flat_files(tmp_path):
    wanted = [{"text": "york", "answer_start": 13}]
    forms = [wanted, {"text": ["york"], "answer_start": [13]}, ["york"], "york"]
    for answers in forms:
        path = rows(tmp_path / "a.jsonl", {"question": "where?", "context": CONTEXT, "answers": answers})
        assert unfolded(path).records[0].values["answers"] == wanted, answers
    table = tmp_path / "a.csv"
    table.write_text(f"question,context,answer,answer_start\nwhere?,{CONTEXT},york,13\nwho?,{CONTEXT},,\n", encoding="utf-8")
    records = unfolded(table).records
    assert records[0].values["answers"] == wanted and records[1].values["answers"] == []
    table.write_text(f"frage;text;antwort\nwhere?;{CONTEXT};york\n", encoding="utf-8")
    found = unfolded(table, question="frage", answers="antwort").records
    assert found[0].values["answers"] == wanted and found[0].where == f"{table}:2, question 1"
    reporter = Reporter(quiet=True)
    unfolded(rows(tmp_path / "b.jsonl", {"question": "what?", "context": CONTEXT, "answer": "went"}), reporter=reporter)
    assert "1 answer stands several times in its context" in "\n".join(reporter.warnings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"answers": ["paris"]}, r"a.jsonl:2, question x: the answer 'paris' does not stand in its context"),
        ({"answers": [{"text": "york", "answer_start": 12}]}, r"question x: .* does not stand at 12, where ' yor' is; it stands at 13"),
        ({"answers": [{"text": "york", "answer_start": "b"}]}, "answer_start is 'b', not a whole number"),
        ({"answers": [{"text": "york", "answer_start": -1}]}, "does not stand at -1"),
        ({"answers": ["york"], "is_impossible": True}, "marked as impossible, and has an answer"),
        ({"answers": [["york"]]}, r"can't read the answer \['york'\]"),
        ({"answers": {"text": ["york"], "answer_start": [1, 2]}}, "lists of the same length"),
        ({"context": None}, "question x: there is no context here"),
        ({"context": ["anna", "went"]}, r"a.jsonl:2, question x: the context is a list: \['anna', 'went'\]. Each needs"),
        ({"context": "🌾é york", "answers": [{"text": "york", "answer_start": 7}]}, "these starts count bytes"),
        ({"context": "🌾é york", "answers": [{"text": "york", "answer_start": 4}]}, "these starts count UTF-16 units"),
    ],
)
def test_bad_questions(values, words, tmp_path):
    good = {"id": "y", "question": "who?", "context": CONTEXT, "answers": ["anna"]}
    path = rows(tmp_path / "a.jsonl", good, {**good, "id": "x", **values})
    with pytest.raises(DataError, match=words):
        unfolded(path)
    if "stand" in words:
        reporter = Reporter(quiet=True)
        assert len(unfolded(path, skip_bad=True, reporter=reporter)) == 1
        assert "1 question is left out: its answer doesn't stand where the file says" in "\n".join(reporter.warnings)
        task = Answer()
        task.look({"train": unfolded(path, skip_bad=True)}, SILENT)
        task.check(unfolded(path, learn=False), reporter)
        assert "counted all the same" in "\n".join(reporter.warnings)


def test_answers_that_tear_a_word_are_counted(tmp_path):
    text = "the party was art"
    torn = {"question": "what?", "context": text, "answers": [{"text": "art", "answer_start": 5}]}
    chinese = {"question": "谁？", "context": "安娜去约克", "answers": [{"text": "约克", "answer_start": 3}]}
    reporter = Reporter(quiet=True)
    path = rows(tmp_path / "a.jsonl", chinese, torn, {**torn, "answers": [{"text": "part", "answer_start": 4}]})
    unfolded(path, reporter=reporter)
    (said,) = reporter.warnings
    assert f"2 answers begin or end inside a word (first: {path}:2, question 2, 'art')" in said
    whole = unfolded(rows(path, {"question": "what?", "context": text, "answers": ["art"]})).records[0]
    assert whole.values["answers"] == [{"text": "art", "answer_start": 14}], "as a whole word where it stands as one"


def test_bad_commands(models, tmp_path, capsys):
    model, out = str(models("bert")), str(tmp_path / "run")

    def refused(words: str, path: Path, *more: str) -> None:
        assert main(["finetune", "answer", str(path), "--model", model, "-o", out, "--steps", "1", "--quiet", *more]) == 2
        assert words in capsys.readouterr().err
        assert not Path(out).exists()

    good = [{"id": str(n), "question": "who went ?", "context": f"anna went {n}", "answers": ["anna"]} for n in range(12)]
    path = tmp_path / "a.jsonl"
    path.write_text("")
    refused("this file is empty", path)
    for frame in ('{"data": []}', '{"version": "1.1", "data": []}'):
        (tmp_path / "frame.json").write_text(frame)
        refused("frame.json: there is no question in this file", tmp_path / "frame.json")
    refused("a.jsonl: no column holds the answers; columns: question, context. Call it answers",
            rows(path, {"question": "a", "context": "b"}))  # fmt: skip
    refused("no question has an answer", rows(path, *[{**one, "answers": []} for one in good]))
    refused("a.jsonl: no column holds the question; columns: context, answers. Call it question, or name it in training: "
            "task.question=NAME",
            rows(path, {"context": "b", "answers": ["b"]}))  # fmt: skip
    refused("there is no question here", rows(path, *good[:2], {"context": "b", "answers": ["b"]}))
    refused("there is no column 'x'", rows(path, *good), "task.context=x")
    refused("task.stride: a step of 40 tokens", rows(path, *good), "task.stride=40")
    refused("unknown setting 'strid'", rows(path, *good), "task.strid=4")
    refused("every answer was cut away", rows(path, *[{**one, "context": "mill " * 20, "answers": ["mill " * 19]} for one in good]),
            "--max-tokens", "12")  # fmt: skip
    assert main(["predict", model, str(rows(path, *good))]) == 2
    assert "was not fine-tuned for a task" in capsys.readouterr().err


def test_inputs_from_python_and_standard_input(models):
    task = Answer()
    assert task.as_record({"query": "who?", "passage": "anna"}, "x").values["context"] == "anna"
    assert task.as_record(("who?", "anna"), "x").values["question"] == "who?"
    with pytest.raises(wordmill.WordmillError, match="a question with its context"):
        task.as_record("who?", "x")


def test_contexts_stay_on_one_side(tmp_path):
    record = Record({"id": "1", "question": "a", "context": "b  c", "answers": []}, "f")
    assert Answer().key(record) == "b c" and Answer().stratum(record) == "none"
    reporter = Reporter(quiet=True)
    path = rows(tmp_path / "a.jsonl", *[{"question": q, "context": CONTEXT, "answers": a} for q, a in (("who?", ["anna"]), ("x", []))])
    again = unfolded(path)
    Answer().look({"train": again, "test": again}, reporter)
    assert "1 context of test stands in train too" in "\n".join(reporter.warnings)


@pytest.mark.parametrize(
    ("contexts", "none", "said"),
    [(2, 0, "20 examples with 2 different contexts are too few to set some aside"),
     (1, 0, "20 examples with 1 different context are too few"),
     (6, 3, "20 examples with 6 different contexts, at most 3 of one kind, are too few")],
)  # fmt: skip
def test_few_contexts_are_counted_where_none_can_be_set_aside(contexts, none, said, tmp_path):
    records = [Record({"question": f"q {n}", "context": f"c {n % contexts}", "answers": [] if n % contexts < none else ["c"]}, "f")
               for n in range(20)]  # fmt: skip
    reporter, config = Reporter(quiet=True), FinetuneConfig.of({"task": "answer", "data": ["f"], "parent": "bert"})
    splits = {"train": Records(records, files=["f"])}
    assert set_aside(config, Answer(), splits, tmp_path, reporter) is splits
    assert reporter.warnings[0].startswith(said), reporter.warnings


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_cover_and_overlap(n, room, data):
    stride = data.draw(st.integers(1, room))
    found = list(windows(n, room, stride))
    assert all(last - first <= room for first, last in found)
    assert {i for first, last in found for i in range(first, last)} == set(range(n))
    size = room - stride + 1
    for first in range(max(0, n - size + 1)):
        assert any(a <= first and first + size <= b for a, b in found)


PIECES = ["mill", "river ", "磨坊", "ที่นี่", "cafe\u0301", "é", "👩\u200d🌾", "👍🏽", " ", "\n", "don't", "१२", "ё", "ﬁ", "İ"]


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory, tiny_tokenizer):
    """One of bytes, one of pieces of words in small letters without accents."""
    return [tiny_tokenizer, Tokenizer.load(make_folder(tmp_path_factory.mktemp("bert"), "bert"))]


@settings(max_examples=60, deadline=None)
@given(context=st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=40), data=st.data())
def test_every_answer_is_found_and_maps_back(tokenizers, make_config, context, data):
    for tokenizer in tokenizers:
        ids, places = tokenizer.encode_places(context)
        assert ids == tokenizer.encode(context)
        places = [trimmed(context, a, b) for a, b in places]
        if not context.strip():
            continue
        start = data.draw(st.integers(0, len(context) - 1))
        end = data.draw(st.integers(start + 1, len(context)))
        tokens = covering(places, start, end)
        record = Record({"question": "who", "context": context, "answers": [{"text": context[start:end], "answer_start": start}]}, "f")
        most = data.draw(st.integers(12, 40))
        task = Answer(spec={"unanswerable": True})
        one = task.encode(record, Tools(tokenizer, make_config, most), answer=True)
        parts = one.pieces or (one,)
        assert all(len(part.ids) <= most for part in parts)
        asked = [part.places for part in parts]
        assert all(len(where) == int((part.targets != IGNORE).sum()) for where, part in zip(asked, parts))
        room = most - len(tokenizer.wrap([], []).ids) - len(tokenizer.encode("who"))
        learned = [(where, part.targets[part.targets != IGNORE]) for where, part in zip(asked, parts)]
        spans = []
        for where, targets in learned:
            at = np.flatnonzero(targets >= 0)
            assert len(at) <= 1
            assert not len(at) or (targets[at[0]] == NO_ANSWER) == (tuple(where[at[0]]) == NOWHERE)
            if len(at) and tuple(where[at[0]]) != NOWHERE:
                spans.append((int(where[at[0]][0]), int(where[at[0] + targets[at[0]]][1])))
        if tokens is None:
            assert not spans
            continue
        if tokens[1] - tokens[0] + 1 <= (room - 4) // 2:
            assert spans, "an answer that is shorter than windows overlap lies whole in one"
        first, last = places[tokens[0]][0], places[tokens[1]][1]
        assert all(span == (first, last) for span in spans)
        visible = context[start:end].strip()
        inner = start + context[start:end].index(visible[0]) if visible else start
        assert not visible or not spans or first <= inner or not any(a <= inner < b for a, b in places)
        # What the model is surest of comes back as these very characters.
        logits = []
        for where, targets in learned:
            score = np.full((len(where), 2), -5.0)
            for n in np.flatnonzero(targets >= 0):
                score[n, 0] = score[n + targets[n] % NO_ANSWER, 1] = 5.0
            logits.append(score)
        found = best_span(asked, logits, 10_000, none=True)
        if spans:
            assert (found.start, found.end) == (first, last) and found.margin > 0


@pytest.fixture(scope="session")
def make_config(tmp_path_factory):
    return read_config(make_folder(tmp_path_factory.mktemp("shape"), "bert"))


def test_marks_and_parts_of_emoji_stay_with_their_character():
    text = " cafe\u0301 👩\u200d🌾 ที่"
    assert trimmed(text, 0, 5) == (1, 6)
    assert text[slice(*trimmed(text, 7, 8))] == "👩\u200d🌾" == text[slice(*trimmed(text, 9, 10))]
    assert text[slice(*trimmed(text, 11, 12))] == "ที่"
    assert trimmed(text, 0, 1) == (1, 1)
    assert trimmed("🇨🇳🇩🇪", 0, 3) == (0, 4) == trimmed("🇨🇳🇩🇪", 1, 4) and trimmed("🇨🇳🇩🇪", 2, 3) == (2, 4)


def test_the_best_span_is_valid_and_probabilities_sum_to_one():
    generator = np.random.default_rng(0)
    for _ in range(30):
        places = [np.array([NOWHERE, *((n, n + 1) for n in range(first, first + 6))]) for first in (0, 3)]
        logits = [generator.normal(size=(7, 2)) * 3 for _ in places]
        odds: dict[tuple[int, int], float] = {}
        best: dict[tuple[int, int], float] = {}
        for where, score in zip(places, logits):
            for i in range(1, 7):
                for j in range(i, 7):
                    if where[j, 1] - where[i, 0] <= 3:
                        ratio = np.exp(score[i, 0] + score[j, 1] - score[0].sum())
                        span = int(where[i, 0]), int(where[j, 1])
                        odds[span] = odds.get(span, 0.0) + ratio
                        best[span] = max(best.get(span, 0.0), ratio)
        for none in (True, False):
            found = best_span(places, logits, 3, none=none)
            span = max(best, key=lambda key: best[key])
            assert (found.start, found.end) == span and found.windows == 2
            total = sum(odds.values()) + none
            assert found.probability == pytest.approx(odds[span] / total) and found.none == pytest.approx(none / total)
            assert found.margin == pytest.approx(np.log(best[span]))
    nothing = best_span([np.array([NOWHERE])], [np.zeros((1, 2))], 3, none=True)
    assert (nothing.start, nothing.none) == (-1, 1.0)


# ── the loss ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["bert", "qwen3", "t5", "lstm"])
def test_alone_in_a_batch_and_in_a_row(family, models, squad):
    task, folder = Answer(), models(family)
    records = unfolded(squad / "train.json")
    task.look({"train": records}, SILENT)
    model = task.build(load_base(folder), 0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 16)
    examples = in_pieces([task.encode(record, tools, answer=True) for record in records.records[:8]])[0]
    assert len(examples) > 8
    with torch.no_grad():
        alone = [task.answers(model, pack([one])[0])[0] for one in examples]
        losses = [float(task.objective(model, pack([one])[0]).loss_sum) for one in examples]
        for capacity in (0, 40, 400):
            batch, order = pack(examples, capacity)
            for number, logits in zip(order, task.answers(model, batch), strict=True):
                np.testing.assert_allclose(logits, alone[number], atol=1e-4)
            assert float(task.objective(model, batch).loss_sum) == pytest.approx(sum(losses), rel=1e-4)
        assert batch.n_targets == len(examples), "one target a window"
    one = examples[0]
    at = np.flatnonzero(one.targets >= 0)[0]
    places = np.flatnonzero(one.targets != IGNORE)
    start = int(np.flatnonzero(places == at)[0])
    p = torch.log_softmax(torch.tensor(alone[0]), 0)
    assert losses[0] == pytest.approx(-float(p[start, 0] + p[start + one.targets[at] % NO_ANSWER, 1]) / 2, rel=1e-4)
    assert (one.targets == ASKED).sum() == len(places) - 1


# ── scores ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_as_squad_counts_them():
    assert exact("The  Mill!", "mill", "squad") and not exact("mills", "mill", "squad")
    assert f1("the old mill", "mill by the river", "squad") == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert f1("a b b c", "b b d", "squad") == pytest.approx(2 / 3)
    assert f1("", "the", "squad") == 1.0 and f1("", "mill", "squad") == 0.0


def test_scores_as_cmrc_counts_them():
    assert exact("《跑跑卡丁车》", "跑跑卡丁车。", "cmrc") and exact("光荣 和ω-force", "光荣和ω-force", "cmrc")
    assert f1("在北京大学", "北京大学里", "cmrc") == pytest.approx(0.8)
    assert f1("京北", "北京", "cmrc") == pytest.approx(0.5), "one character in a row, though both are shared"
    assert common_run("abcde", "xbcdy") == 3 and common_run("", "a") == 0
    assert is_chinese("磨坊在York") and not is_chinese("the mill 磨")


def test_outcomes_of_questions_with_and_without_answers():
    found = AnswerOutcomes.of([["york", "old york"], [], [], ["mill"]], ["old york", "", "x", ""], "squad")
    assert found.metrics() == {"f1": 0.5, "exact_match": 0.5, "has_answer_f1": 0.5, "has_answer_exact_match": 0.5, "no_answer_right": 0.5}
    assert found.correct().tolist() == [True, True, False, False]
    assert np.isnan(found.metrics(np.array([0, 3]))["no_answer_right"])
    assert set(AnswerOutcomes.of([["a"]], ["a"], "squad").metrics()) == {"f1", "exact_match"}


def test_a_model_from_elsewhere_always_gives_an_answer():
    facts = {"name": "answer", "settings": {}, "spec": {}}
    with pytest.raises(UsageError, match="task.threshold would have no effect: a model from elsewhere doesn't say what it learned, so one"):
        restore(facts, {"threshold": 1.0})
    assert restore(facts, {"max_answer": 9}).settings.plain()["max_answer"] == 9


def test_scores_that_count_differently_are_not_compared():
    words, characters = (AnswerOutcomes.of([["york"]], ["york"], measure) for measure in ("squad", "cmrc"))
    assert paired(words, words).difference == 0
    with pytest.raises(UsageError, match=r"task.measure=squad\) with f1 of 1 example \(the longest run of characters, task.measure=cmrc\)"):
        paired(words, characters)


def test_baselines_share_words():
    context = "Anna went to York. Boris stayed by the mill. The mill is old."
    sentence, words = shared_words("Where did Boris stay?", context, 1)
    assert context[slice(*sentence)] == "Boris stayed by the mill." and context[slice(*words)] == "stayed"
    assert shared_words("who?", "", 2) == ((0, 0), (0, 0))


def test_a_model_from_elsewhere_answers(models, tmp_path):
    """A folder of a question answering head without wordmill.json, as others write it."""
    from wordmill.models.heads import save_headed

    folder = models("bert")
    save_headed(Answer(spec={"unanswerable": False}).build(load_base(folder), 0), tmp_path)
    Tokenizer.load(folder).save(tmp_path)
    model = wordmill.load(tmp_path)
    context = "the mill anna went to york"
    found = model.predict({"question": "who went ?", "context": context})
    assert found["answer"] == context[found["start"] : found["end"]] and 0 < found["probability"] < 1
    assert len(model.evaluate(rows(tmp_path / "a.jsonl", {"question": "who?", "context": context, "answers": ["anna"]})).metrics) == 2


@pytest.mark.parametrize(
    ("answer", "said"), [({"answer": "Bob"}, True), ({"answer": "home", "answer_start": 99}, True), ({"answer": "home"}, False)]
)
def test_a_model_that_writes_learns_answers_that_stand_nowhere_but_not_without_a_word(answer, said, small_models, tmp_path, capsys):
    rows = [{"question": "Who went?", "context": "Ann went home", "answer": "Ann"}] * 9
    rows += [{"question": "Where?", "context": "Ann went home", **answer}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"answer_start": None, **row}) + "\n" for row in rows))
    words = ["finetune", "answer", str(tmp_path / "a.jsonl"), "--model", str(small_models("lstm")), "-o", str(tmp_path / "run")]
    assert main([*words, "--steps", "1", "validation_share=0"]) == 0
    told = f"the answers to 1 question don't all stand in their context where the file says (first: {tmp_path / 'a.jsonl'}:10"
    assert (told in capsys.readouterr().err) == said
