from __future__ import annotations

import gzip
import io
import json
import random
import resource
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.conftest import SPLITS, all_texts, sentences
from wordmill.core.errors import ConfigError, DataError, DiskFullError, UsageError
from wordmill.core.files import write_json
from wordmill.core.progress import Reporter
from wordmill.corpus import Corpus, CorpusConfig, build_corpus
from wordmill.corpus import build as build_module
from wordmill.corpus.dedupe import SeenSet, digests
from wordmill.corpus.language import guess_languages
from wordmill.corpus.ledger import REASONS
from wordmill.corpus.split import for_validation


def lines(texts: list[str], field: str = "text") -> str:
    return "".join(json.dumps({field: text}) + "\n" for text in texts)


def filler() -> str:
    return lines(sentences(30))


# One tiny input for each reason: the text of one record, or a file.
DROPS: dict[str, dict[str, bytes | str]] = {
    "empty": {"x.jsonl": lines([" \n\t\u3000"])},
    "too_short": {"x.jsonl": lines(["  short  "])},
    "duplicate": {"x.jsonl": lines(sentences(1))},
    "binary": {"x.txt": b"\x89PNG\r\n\x1a\n\x00\x00"},
    "undecodable": {"x.txt": "Déjà vu, très bien, à bientôt, ".encode() + b"\xff" + "été".encode()},
    "bad_record": {"x.jsonl": "{\n"},
    "bad_file": {"x.txt.gz": gzip.compress(b"text")[:-3]},
}


@pytest.mark.parametrize("reason", DROPS)
def test_each_reason_to_drop(build: Callable[..., Corpus], tmp_path: Path, reason: str) -> None:
    rejects = tmp_path / "rejects.jsonl"
    corpus = build({"a.jsonl": filler(), **DROPS[reason]}, skip_bad=True, min_characters=10, rejects=rejects)
    assert corpus.info["dropped"] == {reason: 1}
    assert all_texts(corpus) == sorted(sentences(30))
    (row,) = map(json.loads, rejects.read_text().splitlines())
    assert row["reason"] == reason
    assert row["source"].startswith("corpus-source/")


def test_every_reason_is_tested() -> None:
    assert {*DROPS, "in_validation"} == set(REASONS)


@pytest.mark.parametrize(
    "files, reason",
    [
        ({"empty.txt": b""}, "empty"),
        ({"mark.txt": b"\xef\xbb\xbf"}, "empty"),
        ({"x.jsonl": '{"text": null}'}, "empty"),
        ({"x.jsonl": '{"text": "\\ud800 alone, but for a while"}'}, "undecodable"),
        ({"x.jsonl": b'{"text": "caf\xc3\xa9 \xc3\xa9t\xc3\xa9 d\xc3\xa9j\xc3\xa0 \xff"}'}, "undecodable"),
        ({"x.jsonl": json.dumps({"text": "\x00\x01\x02\x03 bytes"})}, "binary"),
        ({"x.txt": "Предложение за предложением, и так далее.\n".encode("koi8-r")}, "undecodable"),
    ],
)
def test_more_drops(build: Callable[..., Corpus], files: dict[str, bytes | str], reason: str) -> None:
    corpus = build({"a.jsonl": filler(), **files})
    assert corpus.info["dropped"] == {reason: 1}


def test_undecodable_bytes_are_reported_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("é".encode() * 5000 + b"\n\n" + b"\xff" + "".join(f"文章 {n} " for n in range(20_000)).encode())
    stream = io.StringIO()
    corpus = build_corpus([path], tmp_path / "corpus", reporter=Reporter(quiet=True, stream=stream))
    assert f"{path}, byte 10002: not valid utf-8; the line around it is left out" in stream.getvalue()
    assert corpus.info["dropped"] == {"undecodable": 1}
    assert not any("\ufffd" in text or "\udcff" in text for text in all_texts(corpus))


@pytest.mark.parametrize("size", [30, 3000])
def test_a_bad_byte_costs_its_line_and_no_more(build: Callable[..., Corpus], tmp_path: Path, size: int) -> None:
    good = [f"Café {n}: très bien, à bientôt, déjà vu, été.\n" for n in range(size)]
    data = [line.encode() for line in good]
    for bad in (7, 8, 20):
        data[bad] = data[bad].replace(b"bien", b"bi\xffen")
    rejects = tmp_path / "rejects.jsonl"
    corpus = build({"x.txt": b"".join(data)}, rejects=rejects)
    kept = [line for text in all_texts(corpus) for line in text.splitlines(keepends=True)]
    assert sorted(kept) == sorted(line for n, line in enumerate(good) if n not in (7, 8, 20))
    assert len(all_texts(corpus)) >= 3 and not any(good[6] in text and good[9] in text for text in all_texts(corpus))
    assert corpus.info["dropped"] == {"undecodable": 2}, "lines that stand together are one drop"
    found = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [row["text"].count("\n") for row in found] == [2, 1] and {row["reason"] for row in found} == {"undecodable"}
    places = [n for n, byte in enumerate(b"".join(data)) if byte == 0xFF]
    assert [fault["where"].rpartition(" ")[2] for fault in corpus.info["faults"]] == [str(n) for n in places]


def test_texts_are_cleaned(build: Callable[..., Corpus]) -> None:
    corpus = build({"a.jsonl": lines([*sentences(30), "e\u0301te\u0301\r\nd\x00one"])})
    assert "été\ndone" in all_texts(corpus)


def test_other_files_are_counted(build: Callable[..., Corpus]) -> None:
    corpus = build({"a.jsonl": filler(), "b.png": b"", "c.PNG": b"", "LICENSE": "text", ".hidden.txt": "text", ".git/x.txt": "text"})
    assert corpus.info["skipped_files"] == {".png": 2, "hidden": 2, "without extension": 1}
    assert all_texts(corpus) == sorted(sentences(30))


@pytest.mark.parametrize(
    "files, what",
    [
        ({"x.txt": "one line\n"}, "1 document with 9 bytes of text"),
        ({"x.txt": ""}, "0 documents with 0 bytes of text (dropped: 1 empty)"),
        ({"x.png": b"\x89PNG"}, "nothing readable in this folder: it holds 1 .png"),
    ],
)
def test_too_little(build: Callable[..., Corpus], tmp_path: Path, files: dict[str, bytes | str], what: str) -> None:
    with pytest.raises(DataError) as caught:
        build(files)
    assert what in str(caught.value)
    assert caught.value.fix
    assert not (tmp_path / "corpus").exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        build_corpus([tmp_path / "nothing"], tmp_path / "corpus")
    (tmp_path / "x.doc").touch()
    with pytest.raises(DataError, match="are not read"):
        build_corpus([tmp_path / "x.doc"], tmp_path / "corpus")
    with pytest.raises(ConfigError, match="min_characters"):
        CorpusConfig.of({"min_character": 3})
    with pytest.raises(ConfigError, match="encoding"):
        CorpusConfig.of({"encoding": "klingon"})


def test_one_document_is_cut_for_the_split(build: Callable[..., Corpus]) -> None:
    text = "".join(f"{sentence}\n" for sentence in sentences(100))
    corpus = build({"x.txt": text})
    assert corpus.count("validation") >= 1
    assert corpus.count("train") >= 19
    pieces = [document for split in SPLITS for document in corpus.documents(split)]
    assert "".join(piece.text for piece in sorted(pieces, key=lambda piece: piece.metadata["part"])) == text


def test_two_documents_are_enough(build: Callable[..., Corpus]) -> None:
    corpus = build({"x.jsonl": lines(["first", "second"])})
    assert (corpus.count("train"), corpus.count("validation")) == (1, 1)


def test_output_that_another_process_fills_meanwhile_stays(build: Callable[..., Corpus], tmp_path: Path, monkeypatch: Any) -> None:
    def late(*arguments: Any) -> None:
        (tmp_path / "corpus" / "theirs").touch()
        write_json(*arguments)

    monkeypatch.setattr(build_module, "write_json", late)
    with pytest.raises(UsageError, match="another process has filled"):
        build({"x.jsonl": filler()})
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert (tmp_path / "corpus" / "theirs").exists()


def test_output_that_exists_stays(build: Callable[..., Corpus], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine").touch()
    with pytest.raises(UsageError, match="already exists"):
        build({"x.jsonl": filler()})
    assert (tmp_path / "corpus" / "mine").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_build_that_stops_leaves_nothing(
    build: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def fail(*_: Any) -> Iterator[Any]:
        raise stop

    monkeypatch.setattr(build_module, "clean_and_filter", fail)
    with pytest.raises(stop):
        build({"x.jsonl": filler()}, rejects=tmp_path / "rejects.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-source"]


def test_no_space_left(build: Callable[..., Corpus], tmp_path: Path) -> None:
    # A limit on the size of files stands in for a disk that is full: writing fails in the same place, with EFBIG instead of ENOSPC.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = lines([f"{random.Random(number).randbytes(3000).hex()}" for number in range(300)])
    (tmp_path / "corpus-source").mkdir()
    (tmp_path / "corpus-source" / "x.jsonl").write_text(content)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(DiskFullError, match="no space left"):
            build({})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-source"]


def test_the_same_input_gives_the_same_corpus(build: Callable[..., Corpus]) -> None:
    files: dict[str, bytes | str] = {"a.jsonl": lines(sentences(900)), "b.txt": "text\n" * 30_000}
    first, second = build(files), build(files, out="second")
    assert first.hash != second.hash, "the sources' names differ"
    assert [d.text for d in first.documents("train")] == [d.text for d in second.documents("train")]
    third = build_corpus([first.folder.parent / "corpus-source"], first.folder.parent / "third")
    assert third.hash == first.hash


@pytest.mark.parametrize("count", [10, 60, 1500])
def test_the_split_does_not_depend_on_the_order(build: Callable[..., Corpus], count: int) -> None:
    texts = sentences(count)
    first = build({"a.jsonl": lines(texts)})
    second = build({"a.jsonl": lines(texts[::-1][: count // 2]), "b.jsonl": lines(texts[::-1][count // 2 :])}, out="second")
    for split in SPLITS:
        assert sorted(first.texts(split)) == sorted(second.texts(split))
    assert abs(first.count("validation") - 0.05 * count) < 3 * (0.05 * count) ** 0.5
    assert set(first.texts("validation")) != set(build({"a.jsonl": lines(texts)}, out="third", seed=1).texts("validation"))


def test_no_validation(build: Callable[..., Corpus]) -> None:
    usual = build({"a.jsonl": filler()})
    corpus = build_corpus([usual.folder.parent / "corpus-source"], usual.folder.parent / "none", CorpusConfig(validation=0))
    assert (corpus.count("train"), corpus.count("validation")) == (30, 0)
    assert list(corpus.texts("validation")) == []


def test_validation_files(build: Callable[..., Corpus], tmp_path: Path) -> None:
    held_out = tmp_path / "valid.jsonl"
    held_out.write_text(lines([*sentences(5), sentences(1)[0]]))
    corpus = build({"a.jsonl": filler()}, validation=[held_out])
    assert sorted(corpus.texts("validation")) == sorted(sentences(5))
    assert sorted(corpus.texts("train")) == sorted(sentences(25, start=5))
    assert corpus.info["dropped"] == {"duplicate": 1, "in_validation": 5}
    assert corpus.info["split_rule"]["rule"] == "given"


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=30))
def test_the_set_of_keys_is_a_set(batches: list[list[int]]) -> None:
    import numpy as np

    seen, expected = SeenSet(), set[int]()
    for batch in batches:
        new = seen.add(np.array(batch, np.uint64)).tolist()
        for value, fresh in zip(batch, new, strict=True):
            assert fresh == (value not in expected)
            expected.add(value)
        assert len(seen) == len(expected)
        assert seen.contains(np.arange(41, dtype=np.uint64)).tolist() == [value in expected for value in range(41)]


def test_shares_of_the_split() -> None:
    keys = digests([str(number).encode() for number in range(20_000)])[2]
    for share in (0.01, 0.05, 0.5):
        assert abs(for_validation(keys, share, 0).mean() - share) < 4 * (share / 20_000) ** 0.5
    assert not for_validation(keys, 0.0, 0).any()


def test_languages() -> None:
    texts = {
        "The cat sat.": "latin",
        "这是中文，有 English 在里面的一段话。": "zh",
        "これは日本語の文章です。漢字も含む。": "ja",
        "한국어 문장입니다.": "ko",
        "Это русский текст.": "cyrillic",
        "Ελληνικά": "el",
        "עברית": "he",
        "عربي": "arabic",
        "ภาษาไทย": "th",
        "हिन्दी": "devanagari",
        "123 + 4": None,
    }
    assert guess_languages(list(texts), ["x.txt"] * len(texts)) == list(texts.values())
    assert guess_languages(["x = 1"], ["folder/x.py.gz"]) == ["python"]
    assert guess_languages([], []) == []


def test_normal_forms_are_one_text(build: Callable[..., Corpus]) -> None:
    texts = [f"été n° {number}" for number in range(30)]
    corpus = build({"a.jsonl": lines(texts), "b.jsonl": lines([unicodedata.normalize("NFD", text) + "\r\n" for text in texts])})
    assert corpus.info["dropped"] == {"duplicate": 30}


def test_drops_are_told_under_quiet(tmp_path: Path) -> None:
    """One warning for a file, however many bytes are bad in it; the rejects say what was wrong with a record, and where."""
    source = tmp_path / "source"
    source.mkdir()
    bad = "é è à ü ö ä ".encode() * 9 + b"caf\xe9 x \xff y \xfe z"
    (source / "a.jsonl").write_text(filler())
    (source / "b.txt").write_bytes(bad)
    (source / "c.jsonl").write_text('{"text": "whole"}\n{"tex\n')
    stream, rejects = io.StringIO(), tmp_path / "rejects.jsonl"
    reporter = Reporter(quiet=True, stream=stream)
    corpus = build_corpus([source], tmp_path / "corpus", CorpusConfig(skip_bad=True), rejects=rejects, reporter=reporter)
    first, second, last = stream.getvalue().splitlines()
    assert f"b.txt, byte {bad.index(b'caf') + 3}: not valid utf-8, and 2 places more; the lines around them" in first
    assert "c.jsonl:2: broken JSON" in second
    assert last == "warning: dropped: 1 bad_record, 1 undecodable"
    assert corpus.info["dropped"] == {"bad_record": 1, "undecodable": 1} and len(corpus.info["faults"]) == 4
    (record,) = [row for row in map(json.loads, rejects.read_text().splitlines()) if row["reason"] == "bad_record"]
    assert record["metadata"]["where"].endswith("c.jsonl:2") and "broken JSON" in record["metadata"]["what"]


def test_few_documents_that_are_the_same(build: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match="1 document with .* bytes.* the same text again"):
        build({"a.txt": "a" * 199 + "\n" + ("a" * 199 + "\n") * 3})


def test_hidden_files_alone(build: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match="hidden .1 names begin with a dot"):
        build({".a.txt": "text"})


def test_standard_input_is_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Said by another command, many times over.\n" * 30
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    corpus = build_corpus(["-"], tmp_path / "c", CorpusConfig(validation=0))
    assert list(corpus.texts("train")) == [text]
    assert corpus.info["sources"][0]["path"] == "standard input"
