from __future__ import annotations

import json
import math

import pytest

import wordmill
from wordmill.core.errors import DataError, UsageError
from wordmill.core.lineage import write_lineage
from wordmill.core.progress import Reporter
from wordmill.evaluate import Texts, evaluate, evaluate_text
from wordmill.generate import load

TEXTS = ["The mill stands by the river.", "磨坊在河边。" * 20, "a", "one two three four " * 9]


@pytest.mark.parametrize("shape", ["qwen3", "gpt2", "lstm"])
def test_it_is_the_sum_of_the_documents_scores(make_loaded, shape):
    loaded = make_loaded(shape)
    found = evaluate_text(loaded, TEXTS)
    scores = [loaded.score(text) for text in TEXTS]
    assert found.nats == pytest.approx(sum(score.nats for score in scores), rel=1e-6)
    assert found.tokens == sum(score.tokens for score in scores) == sum(len(loaded.tokenizer.encode(text)) + 1 for text in TEXTS)
    assert found.bytes == sum(len(text.encode()) for text in TEXTS)
    assert (found.documents, found.words) == (4, 6 + 1 + 1 + 36)
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / found.bytes)
    assert found.perplexity_per_token == pytest.approx(math.exp(found.nats / found.tokens))
    assert (found.cut_documents, found.cut_bytes) == (0, 0)


@pytest.mark.parametrize("shape", ["qwen3", "gru"])
def test_the_same_number_whatever_the_batch(make_loaded, shape):
    loaded = make_loaded(shape)
    found = [evaluate_text(loaded, TEXTS, batch_tokens=size).bits_per_byte for size in (1, 100, 100_000)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_a_shorter_context_costs_more_or_less_but_scores_as_much(make_loaded):
    loaded = make_loaded()
    long, short = evaluate_text(loaded, TEXTS), evaluate_text(loaded, TEXTS, context=4, stride=1)
    assert (long.context, long.stride, short.context, short.stride) == (64, 32, 4, 1)
    assert (long.tokens, long.bytes) == (short.tokens, short.bytes)
    assert long.nats != short.nats


@pytest.mark.parametrize(("shape", "context"), [("qwen3", 16), ("gpt2", 16), ("lstm", None)])
def test_scores_within_the_context_that_the_model_was_trained_with(make_loaded, tmp_path, shape, context):
    loaded = make_loaded(shape)
    loaded.save(tmp_path)
    write_lineage(tmp_path, train={"context": 16})
    opened = load(tmp_path, device="cpu")
    found = evaluate_text(opened, TEXTS)
    assert (found.context, found.stride) == (context, None if context is None else 8)
    assert opened.score(TEXTS[1]).nats == pytest.approx(loaded.score(TEXTS[1], context=context).nats, rel=1e-5)
    if context is not None:
        assert evaluate_text(opened, TEXTS, context=64).context == 64


def test_max_tokens_cuts_and_says_how_much(make_loaded):
    loaded = make_loaded()
    whole = evaluate_text(loaded, TEXTS)
    first = len(loaded.tokenizer.encode(TEXTS[0])) + 1
    found = evaluate_text(loaded, TEXTS, max_tokens=first + 5)
    assert first < found.tokens <= first + 5
    assert found.documents == 2
    assert found.cut_documents == 3
    assert found.bytes + found.cut_bytes == whole.bytes
    assert "3 documents" in found.text()
    assert evaluate_text(loaded, TEXTS, max_tokens=10**6) == whole


def test_results_are_json_and_text(make_loaded):
    found = evaluate_text(make_loaded(), ["a"])
    assert json.loads(json.dumps(found.plain()))["bits_per_byte"] == found.bits_per_byte
    assert found.text().startswith("bits per byte")


def test_nothing_to_score_and_sizes_that_do_not_fit_are_refused(make_loaded):
    loaded = make_loaded()
    with pytest.raises(DataError, match="no text"):
        evaluate_text(loaded, [])
    for settings in ({"context": 65}, {"stride": 0}, {"batch_tokens": 0}, {"max_tokens": 0}):
        with pytest.raises(UsageError):
            evaluate_text(loaded, TEXTS, **settings)
    with pytest.raises(UsageError, match="no window"):
        evaluate_text(make_loaded("gru"), TEXTS, stride=3)


def test_files_are_whole_documents_and_what_is_no_text_is_counted(make_loaded, tmp_path):
    (tmp_path / "a.txt").write_text("The mill. " * 20_000, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "picture.txt").write_bytes(bytes(range(256)) * 20)
    report = Reporter(quiet=True)
    texts = Texts([tmp_path], reporter=report)
    assert sorted(map(len, texts)) == [3, 3, 200_000]
    assert texts.dropped == 2
    assert "1 empty" in texts.why()
    assert any("picture.txt" in line for line in report.warnings)


def test_evaluate_takes_folders_and_tells_what_was_left_out(make_loaded, tmp_path):
    make_loaded().save(tmp_path / "model")
    (tmp_path / "a.txt").write_text("The mill.")
    (tmp_path / "b.txt").write_text("")
    found = wordmill.evaluate(tmp_path / "model", [tmp_path / "a.txt", tmp_path / "b.txt"])
    assert (found.documents, found.dropped) == (1, 1)
    with pytest.raises(DataError, match="1 empty"):
        evaluate(tmp_path / "model", tmp_path / "b.txt")


def test_a_corpus_is_scored_on_its_validation_split(make_loaded, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {i} of the mill" for i in range(200)))
    corpus = wordmill.build_corpus([tmp_path / "a.txt"], tmp_path / "corpus", wordmill.CorpusConfig(split_text="line", validation=0.1))
    found = evaluate(make_loaded(), tmp_path / "corpus")
    assert (found.documents, found.bytes) == (corpus.count("validation"), corpus.bytes("validation"))
    assert evaluate(make_loaded(), tmp_path / "corpus", split="train").documents == corpus.count("train")
    with pytest.raises(UsageError, match="only a corpus"):
        evaluate(make_loaded(), tmp_path / "a.txt", split="train")


def test_words_are_not_counted_where_no_spaces_part_them():
    from wordmill.evaluate.bpb import Evaluation

    def found(text):
        return Evaluation(100.0, 50, len(text.encode()), len(text.split()), 1, 8, 4, "sliding", "x")

    chinese, english = found("磨坊在河边，河水从不问谷物从哪里来。 早上，磨坊主数着他的口袋。"), found("The mill stands by the river.")
    assert "puts no spaces between words" in chinese.text() and chinese.plain()["perplexity_per_word"] is None
    assert "puts no spaces" not in english.text() and english.plain()["perplexity_per_word"] > 1
