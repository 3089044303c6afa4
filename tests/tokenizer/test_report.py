"""The report's numbers against a naive count."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from wordmill.tokenizer import report, report_text
from wordmill.tokenizer.config import KINDS
from wordmill.tokenizer.report import visible


@dataclass
class Document:
    text: str
    language: str | None


DOCUMENTS = [
    Document("The mill grinds words into models.", "en"),
    Document("It's quick\nand good.", "en"),
    Document("语言模型学习文字的规律。", "zh"),
    Document("x = [1, 2]", None),
]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_a_naive_count(tokenizers, kind):
    tokenizer = tokenizers[kind]
    values = report(tokenizer, DOCUMENTS)
    assert list(values["languages"]) == ["en", "zh", "unknown"]
    for language in (None, "en", "zh", "unknown"):
        part = [one for one in DOCUMENTS if language is None or (one.language or "unknown") == language]
        found = values["all"] if language is None else values["languages"][language]
        tokens = sum(len(tokenizer.encode(one.text)) for one in part)
        size = sum(len(one.text.encode()) for one in part)
        assert found["documents"] == len(part)
        assert (found["bytes"], found["tokens"]) == (size, tokens)
        assert found["bytes_per_token"] == pytest.approx(size / tokens, abs=1e-4)
        assert found["tokens_per_character"] == pytest.approx(tokens / sum(len(one.text) for one in part), abs=1e-4)
        if language == "zh":
            assert found["tokens_per_word"] is None
        else:
            assert found["tokens_per_word"] == pytest.approx(tokens / sum(len(one.text.split()) for one in part), abs=1e-4)
        same = sum(tokenizer.decode(tokenizer.encode(one.text)) == one.text for one in part)
        assert found["round_trip"] == pytest.approx(same / len(part), abs=1e-4)
        assert found["unknown"] == pytest.approx(sum(tokenizer.encode(one.text).count(tokenizer.unk_id) for one in part) / tokens, abs=1e-4)
    ids = [index for one in DOCUMENTS for index in tokenizer.encode(one.text)]
    assert values["used"] == pytest.approx(len(set(ids)) / (tokenizer.vocab_size - len(tokenizer.special_tokens)), abs=1e-4)
    top = max(map(ids.count, ids))
    assert values["frequent"][0][1] == top


def test_the_longest_tokens_are_the_longest(bpe):
    longest = report(bpe, DOCUMENTS)["longest"]
    words = [bpe.token_bytes(index) for index in range(4, bpe.vocab_size)]
    words = [word for word in words if any(map(str.isalnum, word.decode("utf-8", "backslashreplace")))]
    assert [size for _, size in longest] == sorted(map(len, words), reverse=True)[: len(longest)]


def test_an_empty_text_has_no_ratios(bpe):
    values = report(bpe, [])
    assert values["all"]["bytes_per_token"] is None
    assert "–" in report_text(values)


def test_the_sample_is_bounded(bpe):
    assert report(bpe, [Document("word " * 100, "en")] * 1000, max_bytes=1000)["all"]["documents"] == 64


def test_the_table_shows_every_language(bpe):
    text = report_text(report(bpe, DOCUMENTS))
    assert [line.split()[0] for line in text.splitlines()[:5]] == ["language", "en", "zh", "unknown", "all"]
    assert "most frequent: [" in text


def test_tokens_are_shown_readably():
    assert visible(" a\n\t[") == "[·a\\n\\t[]"
