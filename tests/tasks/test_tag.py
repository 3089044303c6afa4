"""Tagging: schemes, offsets, words and not sub-words, and the whole way from files to spans."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import wordmill
from wordmill.batches.batch import IGNORE
from wordmill.batches.examples import pack
from wordmill.cli.app import main
from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter
from wordmill.models.folder import read_config
from wordmill.models.heads import load_base
from wordmill.tasks.aside import kept_of
from wordmill.tasks.examples import Record, Records, read_examples
from wordmill.tasks.finetune import FinetuneConfig
from wordmill.tasks.labels import EntityOutcomes
from wordmill.tasks.r_drop import apart
from wordmill.tasks.spans import Span, bio, cuts_words, read_spans, scheme_of, spans_of, words_of
from wordmill.tasks.tag import Tag, windows
from wordmill.tasks.task import Tools, padded, target_counts
from wordmill.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

NAMES = "anna boris clara".split()
TOWNS = ["new town", "old mill", "york"]


def write_conll(path: Path, n: int, seed: int) -> Path:
    """Sentences whose first person and town are tagged."""
    generator = random.Random(seed)
    lines = []
    for _ in range(n):
        lines += [f"{word} O" for word in generator.choices(["the", "grain", "went", "with", "a"], k=generator.randint(1, 3))]
        lines.append(f"{generator.choice(NAMES)} B-PER")
        lines += ["to O"] * generator.randint(1, 2)
        for place, word in enumerate(generator.choice(TOWNS).split()):
            lines.append(f"{word} {'I' if place else 'B'}-LOC")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def conll(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conll")
    for seed, (name, n) in enumerate({"train": 80, "dev": 20, "test": 20}.items()):
        write_conll(folder / f"{name}.conll", n, seed)
    return folder


def test_where_no_entity_is_to_be_found_f1_is_not_compared(conll, small_models, tmp_path, capsys):
    none = tmp_path / "none.conll"
    none.write_text("the O\nmill O\n\na O\nriver O\n", encoding="utf-8")
    words = ["finetune", "tag", str(conll / "train.conll"), "--model", str(small_models("lstm")), "--steps", "2"]
    assert main([*words, "-o", str(tmp_path / "run"), "--validation", str(none)]) == 0
    told = capsys.readouterr().err
    assert "no better than" not in told and "nothing in these examples counts for f1: it is 0 whatever the model says" in told
    assert main([*words, "-o", str(tmp_path / "other"), "--validation", str(conll / "dev.conll")]) == 0
    assert "no better than" in capsys.readouterr().err, "where there are some it is"


@pytest.mark.parametrize(("family", "crf"), [("bert", False), ("qwen3", False), ("t5", False), ("lstm", True)])
def test_from_conll_to_spans(family, crf, conll, small_models, tmp_path, capsys, monkeypatch):
    files = [str(conll / "train.conll"), "--validation", str(conll / "dev.conll"), "--test", str(conll / "test.conll")]
    more = ["--steps", "120", "--lr", "0.01", "train.rows=12", "train.evaluations=4", f"task.crf={str(crf).lower()}", "--quiet", "--json"]
    assert main(["finetune", "tag", *files, "--model", str(small_models(family)), "-o", str(tmp_path / "run"), *more]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["test"]["metrics"]["f1"] > 0.7
    assert "most frequent tag" in metrics["test"]["baselines"] and set(metrics["test"]["details"]["by_class"]) == {"LOC", "PER"}
    assert main(["predict", str(tmp_path / "run" / "model"), str(conll / "test.conll"), "-o", str(tmp_path / "out.jsonl"), "--quiet"]) == 0
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["words"] == row["input"]["tokens"] and len(row["tags"]) == len(row["words"])
        assert all(row["text"][span["start"] : span["end"]] == span["text"] for span in row["spans"])
    monkeypatch.setattr("sys.stdin", ['{"tokens": ["the", "grain"]}\n', '{"line": "the grain"}\n'])
    assert main(["predict", str(tmp_path / "run" / "model"), "-", "--quiet"]) == 0
    assert [json.loads(line)["words"] for line in capsys.readouterr().out.splitlines()] == [["the", "grain"]] * 2
    model = wordmill.load(tmp_path / "run")
    assert model.predict([["the", "grain"]])[0]["words"] == ["the", "grain"] == model.predict("the grain")["words"]
    if crf:
        card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
        assert "CRF" in card


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X I-X O B-Y", "bio"),
        ("B-X E-X O S-Y", "bioes"),
        ("B-X L-X O U-Y", "bioes"),
        ("I-X B-X O I-Y", "iob1"),
        ("I-X I-X O I-Y", "io"),
        ("NN VB O", "plain"),
        ("O O", "bio"),
    ],
)
def test_schemes_are_found_by_looking(tags, scheme):
    assert scheme_of([tags.split()]) == scheme


OTHERWISE = [("B_PER I_PER O B_LOC O", "B-PER"), ("O B.PER I.PER", "B-PER"), ("O S:LOC B:LOC E:LOC", "S-LOC"), ("B_PER I_PER", "B-PER")]


@pytest.mark.parametrize(("tags", "mended"), OTHERWISE)
def test_tags_that_are_all_written_otherwise_are_a_mistake_and_not_learned_as_they_are(tags, mended, tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("".join(f"w{n} {tag}\n" for n, tag in enumerate(tags.split())), encoding="utf-8")
    task = Tag()
    with pytest.raises(DataError, match=rf"is not of the form B-KIND, nor is any other[\s\S]*Write {mended}; .*task.scheme=plain"):
        task.look({"train": task.read([path])}, SILENT)
    task = Tag({"scheme": "plain"})
    task.look({"train": task.read([path])}, SILENT)
    assert set(task.spec["labels"]) == set(tags.split())


@pytest.mark.parametrize("tags", ["N.sg V.inf O", "B.x S.y O", "B_PER B_LOC", "B_PER I_PER NONE"])
def test_labels_of_words_may_look_like_that(tags):
    task = Tag()
    task.look({"train": Records([Record({"tokens": [*"abcd"][: len(tags.split())], "tags": tags.split()}, "x:1")], ["tokens", "tags"],
                                "json", files=["x"])}, SILENT)  # fmt: skip
    assert task.spec["scheme"] == "plain"


def test_an_empty_tag_is_a_mistake():
    records = Records([Record({"tokens": ["a", "b"], "tags": ["O", ""]}, "x:1")], ["tokens", "tags"], "json", files=["x"])
    with pytest.raises(DataError, match="a word without a tag"):
        Tag().look({"train": records}, SILENT)


def test_spans_of_every_scheme():
    wanted = [Span(0, 2, "X"), Span(2, 3, "X"), Span(4, 5, "Y")]
    for tags in ("B-X I-X B-X O B-Y", "B-X E-X S-X O S-Y", "B-X L-X U-X O U-Y", "I-X I-X B-X O I-Y", "B-X M-X B-X O W-Y"):
        assert spans_of(tags.split()) == wanted, tags
    assert bio(wanted, 5) == "B-X I-X B-X O B-Y".split()
    assert spans_of("I-X I-Y".split()) == [Span(0, 1, "X"), Span(1, 2, "Y")]


def test_entities_are_counted_as_seqeval_counts_them():
    seqeval = pytest.importorskip("seqeval.metrics")
    generator = random.Random(4)
    tags = ["O", "B-A", "I-A", "B-B", "I-B"]
    truth, said = ([[generator.choice(tags) for _ in range(12)] for _ in range(40)] for _ in range(2))
    outcomes = EntityOutcomes.of(["A", "B"], [(spans_of(a), spans_of(b)) for a, b in zip(truth, said)], [(0, 12)] * 40)
    found = outcomes.metrics()
    assert found["f1"] == pytest.approx(seqeval.f1_score(truth, said))
    assert found["precision"] == pytest.approx(seqeval.precision_score(truth, said))
    assert found["macro_f1"] == pytest.approx(seqeval.f1_score(truth, said, average="macro"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The mill, 1914!", ["The", "mill", ",", "1914", "!"]),
        ("磨坊在York的河边", ["磨", "坊", "在", "York", "的", "河", "边"]),
        ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
        ("hi 👩\u200d🌾👍🏽 ok", ["hi", "👩\u200d🌾", "👍🏽", "ok"]),
        ("hi 🇩🇪 🇨🇳🇫🇷! 🇩", ["hi", "🇩🇪", "🇨🇳", "🇫🇷", "!", "🇩"]),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f🏳️\u200d🌈1️⃣", [
            "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏳️\u200d🌈", "1️⃣"]),
        ("می\u200cخواهم به خانه\u200c بروم", ["می\u200cخواهم", "به", "خانه", "\u200c", "بروم"]),
        ("a\u200c中", ["a", "\u200c", "中"]),
        ("", []),
    ],
)  # fmt: skip
def test_words_and_their_places(text, words):
    assert [text[a:b] for a, b in words_of(text)] == words


def test_a_sign_is_not_torn():
    text = "hi 🇩🇪🇨🇳 👍🏽 👩\u200d🌾"
    assert [at for at in range(len(text)) if cuts_words(text, at, len(text))] == [1, 4, 6, 9, 12, 13]
    assert words_of("a🇩🇪", borders=[2]) == ((0, 1), (1, 2), (2, 3)), "where a span ends words are cut"


CLUENER = '{\n "text": "磨坊主李明在北京。",\n "label": {"name": {"李明": [[3, 4]]}, "address": {"北京": [[6, 7]]}}\n}\n'


def test_spans_in_json_and_cluener(tmp_path, tiny_tokenizer):
    path = tmp_path / "train.json"
    path.write_text(CLUENER + '{"text": "王芳来了", "label": {"name": {"王芳": [[0, 1]]}}}\n', encoding="utf-8")
    records = read_examples([path])
    assert [record.where for record in records.records] == [f"{path}:1", f"{path}:5"]
    task = Tag()
    task.look({"train": records}, SILENT)
    assert task.spec["labels"] == ["O", "B-address", "I-address", "B-name", "I-name"]
    assert " ".join(task.sentence(records.records[0]).tags) == "O O O B-name I-name O B-address I-address O"
    path.write_text('{"text": "Anna went to York", "spans": [{"start": 0, "end": 4, "label": "PER"}, [13, 17, "LOC"]]}\n')
    task.look({"train": read_examples([path])}, SILENT)
    assert task.sentence(read_examples([path]).records[0]).tags == ("B-PER", "O", "O", "B-LOC")


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([{"start": "0", "end": "4", "label": "PER"}], r"the offsets of the span '0'…'4' \(PER\) are no whole numbers. Write it as"),
        ([{"start": "0", "end": "4", "label": "PER", "text": "anna"}], "the offsets of the span '0'…'4'"),
        ([["0", 4, "PER"]], "the offsets of the span '0'…4"),
        ([[0, 4.0, "PER"]], "the offsets of the span 0…4.0"),
        ([[True, 4, "PER"]], "the offsets of the span True…4"),
        ([{"start": None, "end": None, "label": "PER"}], "the offsets of the span None…None"),
        ([{"start": -4, "end": 4, "label": "PER", "text": "anna"}], r"the span -4…4 \(PER\) is not inside the text"),
        ([[0, 4, None]], "the span 0…4 has no label"),
        ([{"start": 0, "end": 4, "label": ""}], "the span 0…4 has no label"),
        ([{"start": 0, "end": 4}], "the span 0…4 has no label"),
        ([[0, 4, ["PER"]]], r"the label of the span 0…4 is \['PER'\], and no text"),
        ([[0, 4]], r"can't read the span \[0, 4\]"),
        ({"PER": {"anna": [0, 3]}}, r"the place of 'anna' \(PER\) is 0, and no pair of whole numbers. Write {\"PER\": {"),
        ({"PER": {"anna": [["0", "3"]]}}, r"the place of 'anna' \(PER\) is \['0', '3'\]"),
        ({"PER": {"anna": [[0]]}}, r"is \[0\], and no pair"),
        ({"PER": {"anna": None}}, "is None, and no pair"),
        ({"PER": {"anna": [{"start": 0}]}}, "is {'start': 0}, and no pair"),
        ({"PER": {"anna": "0,3"}}, "is '0,3', and no pair"),
        ({"PER": {"": [[0, 0]]}}, r"the span 0…0 \(PER\) is not inside"),
        ({"": {"anna": [[0, 3]]}}, "the span 0…4 has no label"),
    ],
)
def test_spans_that_cant_be_read_are_named(spans, said):
    with pytest.raises(DataError, match=f"^f:7: .*{said}"):
        read_spans(spans, "anna went", "f:7")


def test_a_list_is_no_text():
    task = Tag(spec={"fields": {"text": "text", "spans": "spans"}, "characters": False})
    with pytest.raises(DataError, match=r"f:1: the text is a list: \['anna', 'went'\]"):
        task.sentence(Record({"text": ["anna", "went"], "spans": []}, "f:1"))


def test_spans_that_are_asked_for_go_before_words_that_are_found():
    values = {"tokens": ["Anna"], "tags": ["O"], "body": "Anna", "found": [[0, 4, "PER"]]}
    task = Tag({"text": "body", "spans": "found"})
    task.look({"train": Records([Record(values, "f:1")], list(values), "json", files=["f"])}, SILENT)
    assert task.spec["fields"] == {"text": "body", "spans": "found"}


def test_overlapping_spans_are_counted():
    record = Record({"text": "new york mill", "spans": [[0, 8, "LOC"], [4, 8, "PER"]]}, "f:1")
    reporter = Reporter(quiet=True)
    Tag().look({"train": Records([record], ["text", "spans"], "json", files=["f"])}, reporter)
    assert "1 span of train overlaps a longer one" in "\n".join(reporter.warnings)


def test_spans_that_tear_a_word_are_counted():
    def told(*records):
        reporter = Reporter(quiet=True)
        rows = [Record(values, f"f:{n}") for n, values in enumerate(records, 1)]
        Tag().look({"train": Records(rows, ["text", "spans"], "json", files=["f"])}, reporter)
        return "\n".join(reporter.warnings)

    right = {"text": "anna at new york", "spans": [[0, 4, "PER"], [8, 16, "LOC"]]}
    assert "inside a word" not in told(right)
    torn = told(right, {"text": "anna at york", "spans": [[1, 4, "PER"], [8, 11, "LOC"]]})
    assert "2 spans of train begin or end inside a word, which is cut there (first: f:2, 'nna')" in torn
    assert "inside a word" not in told({"text": "王芳在iPhone店", "spans": [[0, 2, "PER"], [3, 6, "X"]]}), "each character is a word here"


def test_batches_keep_sentences_apart(tiny_tokenizer, make_model):
    records = [Record({"tokens": ["mill"] * n, "tags": ["B-A", *["O"] * (n - 1)] if n else []}, "f") for n in (3, 0, 5, 1)]
    task = Tag({"crf": True})
    task.look({"train": Records(records, ["tokens", "tags"], "json", files=["f"])}, SILENT)
    base = make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    model = task.build(base, 0).eval()
    tools = Tools(tiny_tokenizer, base.config, 64)
    examples = [task.encode(record, tools, answer=True) for record in records]
    batch, order = pack(examples, 200)
    assert target_counts(batch) == [len(records[i].values["tokens"]) for i in order]
    model.requires_grad_(False)
    together = dict(zip(order, task.answers(model, batch), strict=True))
    told = task.respond(model, tools, records, encoded=examples)
    total = 0.0
    for n, example in enumerate(examples):
        alone = pack([example])[0]
        torch.testing.assert_close(together[n], task.answers(model, alone)[0], atol=1e-5, rtol=1e-5)
        assert told[n][0].tolist() == task.respond(model, tools, [records[n]])[0][0].tolist() and len(told[n][0]) == len(together[n])
        total += float(task.objective(model, alone).loss_sum) if alone.n_targets else 0.0
    assert float(task.objective(model, batch).loss_sum) == pytest.approx(total, rel=1e-4)


def test_rows_become_sentences():
    whole, real = padded(torch.arange(5)[:, None], [2, 3])
    assert whole[..., 0].tolist() == [[0, 1, 0], [2, 3, 4]] and real.tolist() == [[True, True, False], [True] * 3]


@pytest.mark.parametrize("room", [7, 12, 30, 500])
def test_windows_ask_for_each_word_once_and_never_hold_too_much(room):
    generator = random.Random(room)
    for _ in range(50):
        sizes = [generator.randint(1, min(7, room)) for _ in range(generator.randint(1, 60))]
        found = windows(sizes, room)
        asked = [n for _, first, last, _ in found for n in range(first, last)]
        assert asked == list(range(len(sizes)))
        for a, first, last, b in found:
            assert a <= first < last <= b and sum(sizes[a:b]) <= room
        if room == 30:  # what is asked for in the middle has words on either side
            assert all(first > a and b > last for a, first, last, b in found[1:-1])
    assert windows([], 5) == [(0, 0, 0, 0)]


def long_sentences(n: int, seed: int) -> list[Record]:
    """Sentences of some 40 words with names all along."""
    generator = random.Random(seed)
    found = []
    for number in range(n):
        words = [generator.choice([*NAMES, "the", "grain", "went", "with", "a"]) for _ in range(40)]
        found.append(Record({"tokens": words, "tags": ["B-PER" if word in NAMES else "O" for word in words]}, f"f:{number}"))
    return found


def test_long_sentences_are_read_in_pieces_and_nothing_is_left_out(small_models, tmp_path, capsys):
    lines = [json.dumps(record.values) for record in long_sentences(40, 0)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ["finetune", "tag", str(tmp_path / "train.jsonl"), "--model", str(small_models("bert")), "--max-tokens", "16",
               "--steps", "80", "--lr", "0.01", "task.crf=true", "train.evaluations=2", "-o", str(tmp_path / "run")]  # fmt: skip
    assert main([*command[:-2], "--preview"]) == 0
    assert "read in" in capsys.readouterr().out
    assert main(command) == 0
    assert "40 examples are longer than that and are read in pieces" in capsys.readouterr().err
    model = wordmill.load(tmp_path / "run")
    record = long_sentences(1, 7)[0]
    told = model.predict([record.values["tokens"]])[0]
    assert len(told["tags"]) == 40 and "cut" not in told
    right = sum(a == b for a, b in zip(told["tags"], record.values["tags"], strict=True))
    assert right >= 38, "entities are found to the very end"
    assert any(span["start"] > 100 for span in told["spans"])


@pytest.mark.parametrize("crf", [False, True])
def test_r_drop_reads_twice(tiny_tokenizer, make_model, crf):
    records = [Record({"tokens": ["mill"] * n, "tags": ["B-A", "I-A", *["O"] * (n - 2)]}, "f") for n in (3, 5, 2)]
    task = Tag({"crf": crf, "r_drop": 0.5, "dropout": 0.4})
    task.look({"train": Records(records, ["tokens", "tags"], "json", files=["f"])}, SILENT)
    base = make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    model = task.build(base, 0).train()
    batch, _ = pack([task.encode(record, Tools(tiny_tokenizer, base.config, 64), answer=True) for record in records], 200)
    torch.manual_seed(1)
    found = task.objective(model, batch)
    torch.manual_seed(1)
    one, other = model(batch), model(batch)
    task.settings = task.settings.replace(r_drop=0.0)
    torch.manual_seed(1)
    losses = [task.objective(model, batch).loss_sum.item() for _ in range(2)]
    expected = sum(losses) / 2 + 0.5 * apart(one, other, several=False).item()
    assert losses[0] != losses[1] and found.n_targets == 10 and found.loss_sum.item() == pytest.approx(expected, rel=1e-5)
    task.settings = task.settings.replace(r_drop=0.5)
    assert task.objective(model.eval(), batch).loss_sum.item() != pytest.approx(expected)


@pytest.mark.parametrize("crf", [False, True])
def test_a_new_tagger_begins_with_how_often_tags_stand_where(tiny_tokenizer, make_model, crf):
    tags = [["O", "O", "B-A", "I-A", "O"], ["O", "B-A", "O"], ["O", "O", "O", "O"]]
    records = [Record({"tokens": ["mill"] * len(each), "tags": each}, "f") for each in tags]
    task = Tag({"crf": crf, "dropout": 0.0})
    task.look({"train": Records(records, ["tokens", "tags"], "json", files=["f"])}, SILENT)
    task.weigh(records)
    base = make_model("qwen3", vocab_size=tiny_tokenizer.vocab_size)
    model = task.build(base, 0).eval()
    model.out.weight.data.zero_()
    batch, _ = pack([task.encode(record, Tools(tiny_tokenizer, base.config, 64), answer=True) for record in records], 200)
    labels, flat = task.spec["labels"], [tag for each in tags for tag in each]
    share = {label: (flat.count(label) + 1) / (len(flat) + len(labels)) for label in labels}
    by_chance = -sum(math.log(share[tag]) for tag in flat)
    found = task.objective(model, batch).loss_sum.item()
    if crf:  # which tag follows which is known too
        assert found < 0.8 * by_chance
    else:
        assert found == pytest.approx(by_chance, rel=1e-5)


def test_pieces_are_told_together(small_models):
    """A CRF tells the tags of all pieces as one sentence: an entity may go on from one piece into the next."""
    folder = small_models("bert")
    record = Record({"tokens": ["mill"] * 30, "tags": ["B-A", *["I-A"] * 29]}, "f")
    task = Tag({"crf": True})
    task.look({"train": Records([record], ["tokens", "tags"], "json", files=["f"])}, SILENT)
    model = task.build(load_base(folder), 0).eval().requires_grad_(False)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 12)
    one = task.encode(record, tools, answer=True)
    assert len(one.pieces) > 2 and sum(int((piece.targets != IGNORE).sum()) for piece in one.pieces) == 30
    assert max(len(piece.ids) for piece in one.pieces) <= 12
    outside, begin, inside = task.spec["labels"].index("O"), task.spec["labels"].index("B-A"), task.spec["labels"].index("I-A")
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias[[outside, begin, inside]] = torch.tensor([0.0, 0.0, 5.0])
    assert [task.spec["labels"][n] for n in task.respond(model, tools, [record])[0][0]] == ["B-A", *["I-A"] * 29]


def test_a_word_longer_than_what_is_read_is_cut_and_counted(small_models):
    folder = small_models("bert")
    record = Record({"tokens": ["unheardof" * 4, "x"], "tags": ["B-A", "O"]}, "f")
    task = Tag()
    task.look({"train": Records([record], ["tokens", "tags"], "json", files=["f"])}, SILENT)
    tools = Tools(Tokenizer.load(folder), read_config(folder), 64)
    whole = task.encode(record, tools, answer=True)
    short = task.encode(record, Tools(tools.tokenizer, tools.config, 10), answer=True)
    assert not whole.cut and not whole.pieces and len(short.pieces) == 2
    assert [int((piece.targets != IGNORE).sum()) for piece in short.pieces] == [1, 1]
    assert short.cut == len(whole.ids) - len(short.ids) > 0


def test_from_scratch_a_tag_for_each_character_needs_a_token_for_each(tmp_path):
    lines = [json.dumps({"text": f"王芳在北京{n}号", "spans": [[0, 2, "PER"], [3, 5, "LOC"]]}, ensure_ascii=False) for n in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run = wordmill.finetune("tag", tmp_path / "train.jsonl", model="lstm", out=tmp_path / "run", steps=2,
                            shape={"embedding_size": 8, "hidden_size": 8})  # fmt: skip
    tokenizer = Tokenizer.load(run.model_folder)
    assert wordmill.load(run.model_folder).model.crf is not None, "the classic BiLSTM-CRF"
    assert tokenizer.kind == "char" and len(tokenizer.encode("王芳在北京")) == 5


@pytest.mark.parametrize("kind", ["bpe", "byte", "char", "unigram", "wordpiece"])
@pytest.mark.parametrize("between", [" ", "\n", "  ", "\t"])
def test_the_token_that_answers_for_a_word_holds_a_part_of_it(kind, between, make_model):
    words = ["Emma", "flew", "to", "Xqzvw", "é"]
    text = between.join(words)
    texts = ["Emma flew to the old mill, the mill to Emma " * 3, "Xqzvw é"]
    wanted = TokenizerConfig(kind=kind, vocab=None if kind == "byte" else 300, allow_smaller=True)
    tokenizer = train_tokenizer(texts, wanted)
    task = Tag()
    spans = [{"start": 0, "end": 4, "label": "PER"}]
    task.look({"train": Records([Record({"text": text, "spans": spans}, "f")], ["text", "spans"], "json", files=["f"])}, SILENT)
    tools = Tools(tokenizer, make_model("qwen3", vocab_size=tokenizer.vocab_size).config, 200)
    found = task.encode(Record({"text": text, "spans": spans}, "f"), tools, answer=True)
    said = [tokenizer.token_text(int(i)).strip(" \u2581") for i in found.ids[found.targets != IGNORE]]
    assert len(said) == len(words) and all(token.strip() for token in said)
    assert kind == "wordpiece" or [token[0] for token in said[:4]] == [word[0] for word in words[:4]]


def test_a_tagger_goes_on_with_its_head_and_tells_when_it_cannot(conll, small_models, tmp_path):
    said = io.StringIO()

    def tuned(name: str, model: Path, data: Path, **more: Any) -> Any:
        files = {"validation": conll / "dev.conll"} if data.parent == conll else {}
        heard = Reporter(stream=said)
        return wordmill.finetune("tag", data, model=model, out=tmp_path / name, dtype="fp32", reporter=heard, **{**files, **more})

    first = tuned("first", small_models("bert"), conll / "train.conll", steps=120, lr=0.01, options={"crf": True})
    score = first.metrics["validation"]["metrics"]["f1"]
    assert score > 0.7
    again = tuned("again", first.model_folder, conll / "train.conll", steps=1, lr=1e-9, options={"crf": True})
    assert again.metrics["validation"]["metrics"]["f1"] == pytest.approx(score, abs=0.02)
    assert "goes on with the head" in said.getvalue() and "left behind" not in said.getvalue()
    tuned("bare", first.model_folder, conll / "train.conll", steps=1, lr=1e-9)
    assert "its CRF is left behind: task.crf=true" in said.getvalue()
    other = tmp_path / "other.conll"
    other.write_text("anna B-WHO\nwent O\n\n" * 12, encoding="utf-8")
    none = tmp_path / "none.conll"
    none.write_text("anna O\nwent O\n\n" * 3, encoding="utf-8")
    tuned("other", first.model_folder, other, steps=1, validation=none)
    assert "validation: none of its examples holds any of what is learned (WHO)" in said.getvalue()
    assert "the head is new: the one that it had says or reads something else (O, B-LOC" in said.getvalue()


@pytest.mark.parametrize("seed", range(4))
def test_sentences_with_an_entity_are_shared_out(seed):
    """A tenth of those that have one: of few in many a split by chance may set aside none, and nothing is judged."""
    sentences = [{"tokens": ["at", f"mill{n}"], "tags": ["O", "O" if n % 10 else "B-LOC"]} for n in range(200)]
    records = Records([Record(values, f"f:{n}") for n, values in enumerate(sentences)], ["tokens", "tags"], "json", True, ["f"])
    task = Tag()
    task.look({"train": records}, SILENT)
    kept = kept_of(task, records.records, FinetuneConfig(task="tag", parent="lstm", seed=seed))
    assert len(kept) == 180 and sum("B-LOC" in record.values["tags"] for record in kept) == 18
    few = [r for n, r in enumerate(records.records) if n % 10 or n < 30]
    kept = kept_of(task, few, FinetuneConfig(task="tag", parent="lstm", seed=seed))
    assert sum("B-LOC" in record.values["tags"] for record in kept) == 2
