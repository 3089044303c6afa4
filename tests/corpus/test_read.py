from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.conftest import all_texts, sentences
from wordmill.cli.app import main
from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT
from wordmill.corpus import Corpus, CorpusConfig, build_corpus
from wordmill.corpus import document as document_module
from wordmill.corpus import read as read_module
from wordmill.corpus import records as records_module
from wordmill.corpus import write as write_module
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.read import Reading
from wordmill.corpus.records import Collector, _fast_texts
from wordmill.corpus.sources import Source

TEXTS = [f"{sentence}\nSecond “line”, with a comma, été und 中文." for sentence in sentences(30)]


def as_csv(texts: list[str]) -> bytes:
    return ("id,text\r\n" + "".join(f'{number},"{text}"\r\n' for number, text in enumerate(texts))).encode()


def as_parquet(texts: list[str], **columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts, **columns}), sink)
    return sink.getvalue()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "jsonl": lambda texts: "\n".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) for text in texts).encode(),
    "json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
    "txt": lambda texts: "\n\n".join(texts).encode(),
    "md": lambda texts: "\n\n".join(texts).encode(),
    "py": lambda texts: "\n\n".join(texts).encode(),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_what_goes_in_comes_out(build: Callable[..., Corpus], kind: str, ending: str) -> None:
    corpus = build({f"data.{kind}{ending}": COMPRESSIONS[ending](FORMATS[kind](TEXTS))}, split_text="paragraph")
    assert all_texts(corpus) == sorted(TEXTS)


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_tsv_takes_quotes_as_they_are(build: Callable[..., Corpus], ending: str) -> None:
    texts = [*sentences(25), 'a stray " quote', '"quoted" begin']
    data = "label\ttext\n" + "".join(f"1\t{text}\n" for text in texts)
    assert all_texts(build({f"x.tsv{ending}": COMPRESSIONS[ending](data.encode())})) == sorted(texts)


def test_tables_without_a_header(build: Callable[..., Corpus]) -> None:
    data = "".join(f"ham\t{text}\n" for text in sentences(30))
    assert all_texts(build({"x.tsv": data}, field="2")) == sorted(sentences(30))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
def test_chinese_in_any_encoding(build: Callable[..., Corpus], encoding: str) -> None:
    texts = [f"第 {number} 句：这是我们的国家，他说的话是不会有人不知道的。" for number in range(30)]
    corpus = build({"x.txt": "\n".join(texts).encode(encoding)}, split_text="line")
    assert all_texts(corpus) == sorted(texts)
    assert corpus.info["encodings"] == {encoding.removesuffix("-sig") if encoding != "utf-16" else "utf-16-le": 1}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_latin_1_in_tables(build: Callable[..., Corpus], kind: str) -> None:
    texts = [f"Le café n° {number} était fermé." for number in range(30)]
    data = FORMATS[kind](texts).decode().encode("latin-1")
    assert all_texts(build({f"x.{kind}": data})) == sorted(texts)


def test_an_encoding_may_be_named(build: Callable[..., Corpus]) -> None:
    texts = [f"Предложение номер {number}." for number in range(30)]
    corpus = build({"x.txt": "\n".join(texts).encode("koi8-r")}, split_text="line", encoding="koi8-r")
    assert all_texts(corpus) == sorted(texts)


def test_ascii_until_proven_otherwise(build: Callable[..., Corpus]) -> None:
    text = "plain words, and more of them\n" * 80_000 + "déjà vu\n" * 50
    corpus = build({"x.txt": text.encode("latin-1")}, split_text="line", skip_bad=True)
    assert all_texts(corpus) == ["déjà vu", "plain words, and more of them"]


def test_poems(build: Callable[..., Corpus]) -> None:
    poems = [{"author": "佚名", "title": f"其{number}", "paragraphs": [f"床前{number}月光，", "疑是地上霜。"]} for number in range(30)]
    corpus = build({"poems.json": json.dumps(poems)}, field="paragraphs", keep_fields=["title"])
    assert all_texts(corpus) == sorted(f"床前{number}月光，\n疑是地上霜。" for number in range(30))
    document = next(corpus.documents("train"))
    assert document.metadata["title"].startswith("其")
    assert document.language == "zh"


def test_a_field_to_keep_that_no_record_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text, "title": "T"}) for text in sentences(25)))
    assert main(["corpus", "build", str(tmp_path / "a.jsonl"), "--keep", "title,tilte", "-o", str(tmp_path / "corpus"), "-q"]) == 0
    assert "to be kept, and in no record: 'tilte'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(sentences(25)),
        json.dumps({"version": 1, "data": [{"text": text} for text in sentences(25)]}, indent=1),
        "\n".join(json.dumps({"content": text}) for text in sentences(25)),
        "\n\n".join(json.dumps(text) for text in sentences(25)),
        json.dumps([{"n": 1, "phrase": text} for text in sentences(25)]),
    ],
)
def test_shapes_of_json(build: Callable[..., Corpus], content: str) -> None:
    assert all_texts(build({"x.json": content})) == sorted(sentences(25))


def test_which_field_was_taken_is_said(build: Callable[..., Corpus]) -> None:
    corpus = build({"x.jsonl": "\n".join(json.dumps({"title": "t", "body": text}) for text in sentences(25))})
    assert list(corpus.info["fields"]) == [".jsonl files: the text is taken from the field 'body' (also there: title)"]


@pytest.mark.parametrize(
    "name, content, settings, where, what",
    [
        ("x.jsonl", '{"text": "a"}\n{"text": "b\n', {}, "x.jsonl:2", "broken JSON"),
        ("x.jsonl", '{"text": "a"}\n\n{"title": "b", "n": 1}\n', {}, "x.jsonl:3", "no field 'text'; fields here: 'title', 'n'"),
        ("x.jsonl", '{"text": 3}\n', {}, "x.jsonl:1", "holds int, not text"),
        ("x.jsonl", "[1, 2]\n", {}, "x.jsonl:1", "expected an object"),
        ("x.jsonl", '{"title": "a", "subject": "b"}\n', {}, "x.jsonl:1", "fields here: 'title', 'subject'"),
        ("x.jsonl", '{"text": "a"}\n', {"field": "txt"}, "x.jsonl:1", "no field 'txt'; fields here: 'text'"),
        ("x.json", '[{"text": "a"},\n oops]', {}, "x.json:2", "broken JSON"),
        ("x.csv", "id,title\n1,a\n", {}, "x.csv:1", "fields here: 'id', 'title'"),
        ("x.csv", "id,text\n1,a\n2,b,c\n", {}, "x.csv:3", "3 columns where the first line has 2"),
        ("x.csv", 'id,text\n1,"a\n', {}, "x.csv:2", "broken row"),
        ("x.tsv", "id\ttext\n1\n", {}, "x.tsv:2", "1 columns"),
        ("x.parquet", b"PAR1 no more", {}, "x.parquet", "not a Parquet file"),
        ("x.parquet", as_parquet(TEXTS)[:-30], {}, "x.parquet", "torn, or not a Parquet file"),
        ("x.parquet", as_parquet(TEXTS), {"field": "body"}, "x.parquet", "fields here: 'text'"),
        ("x.parquet", as_parquet(TEXTS, n=list(range(30))), {"field": "n"}, "x.parquet", "holds int64, not text"),
        ("x.txt.gz", gzip.compress(b"text " * 100, mtime=0)[:-12], {}, "x.txt.gz", "can't be read on"),
        ("x.txt.gz", b"not compressed", {}, "x.txt.gz", "can't be read on"),
        ("x.jsonl.zst", zstandard.compress(b'{"text": "a"}\n' * 99)[:-5], {}, "x.jsonl.zst", "can't be read on"),
    ],
)
def test_bad_input_is_an_error_that_says_where(
    build: Callable[..., Corpus], tmp_path: Path, name: str, content: Any, settings: Any, where: str, what: str
) -> None:
    with pytest.raises(DataError) as caught:
        build({name: content}, **settings)
    assert str(caught.value.where).endswith(where)
    assert what in str(caught.value)
    assert caught.value.fix
    assert not (tmp_path / "corpus").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-source"]


def test_skip_bad_counts_and_goes_on(build: Callable[..., Corpus]) -> None:
    good = [json.dumps({"text": text}) for text in sentences(30)]
    files = {
        "a.jsonl": "\n".join([*good[:15], "{broken", '{"title": "no text"}', *good[15:]]),
        "b.txt.gz": b"not compressed",
        "c.json": "[1,",
    }
    corpus = build(files, skip_bad=True)
    assert all_texts(corpus) == sorted(sentences(30))
    assert corpus.info["dropped"] == {"bad_file": 2, "bad_record": 2}
    assert any(fault["where"].endswith("a.jsonl:16") for fault in corpus.info["faults"])


def test_a_damaged_parquet_page_is_noticed(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build({"x.jsonl": "\n".join(json.dumps({"text": text}) for text in sentences(100))})
    path = tmp_path / "corpus" / corpus.info["splits"]["train"]["shards"][0]["file"]
    data = bytearray(path.read_bytes())
    data[pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset + 500] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="train-00000.parquet"):
        build_corpus([path], tmp_path / "again")


@given(st.lists(st.text(), min_size=1, max_size=8), st.booleans())
def test_the_fast_way_through_json_lines_is_the_slow_way(texts: list[str], escape: bool) -> None:
    lines: list[str | None] = [json.dumps({"n": [1, {"text": "inner"}], "text": text}, ensure_ascii=escape) for text in texts]
    reading = Reading(CorpusConfig(), Ledger(SILENT), lambda _: None)
    collector = Collector(Source(Path("x.jsonl"), "x.jsonl", "jsonl", None), reading, "line")
    collector.field = "text"
    assert _fast_texts(lines, collector) == texts
    for odd in (
        '{"text": null}',
        "{}",
        '{"text": 1}',
        '"text"',
        "{",
        '{"text": "a"} {"text": "b"}',
        '{"text": ["a"]}',
        '{"text": "\\ud800"}',
        "",
        " ",
    ):
        assert _fast_texts([*lines, odd], collector) is None, odd


def test_too_large_to_be_read_whole(build: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "WHOLE_LIMIT", 1000)
    with pytest.raises(DataError, match="jsonl"):
        build({"x.json": json.dumps([{"text": "a" * 700_000}, {"text": "b" * 700_000}])})
    monkeypatch.setattr(read_module, "WHOLE_LIMIT", 1000)
    with pytest.raises(DataError, match="split-text auto"):
        build({"x.txt": "a" * 3_000_000}, out="other", split_text="file")


def test_a_line_too_long_for_a_record(build: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "LONGEST_LINE", 1000)
    good = [json.dumps({"text": text}) for text in sentences(30)]
    content = "\n".join([*good[:5], json.dumps({"text": "x" * 3_000_000}), *good[5:]])
    with pytest.raises(DataError, match=r"x\.jsonl:6"):
        build({"x.jsonl": content})
    assert all_texts(build({"x.jsonl": content}, out="other", skip_bad=True)) == sorted(sentences(30))


def test_documents_of_text_files(build: Callable[..., Corpus]) -> None:
    short, long = "short file\n" * 3, "".join(f"{text}\n\n" for text in sentences(9000))
    corpus = build({"short.txt": short, "folder/long.txt": long})
    documents = sorted(
        (document for split in ("train", "validation") for document in corpus.documents(split)),
        key=lambda document: document.metadata.get("piece", 0),
    )
    assert documents[0].text == short
    assert documents[0].source == "corpus-source/short.txt"
    assert "".join(document.text for document in documents[1:]) == long
    assert all(document.text.endswith("\n\n") and 8000 < len(document.text.encode()) < 24_000 for document in documents[1:])


def test_one_long_line_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "ROW_GROUP_BYTES", 1_000_000)
    for module in (read_module, document_module):
        monkeypatch.setattr(module, "BATCH_CHARACTERS", 300_000)
    path = tmp_path / "line.txt"
    with open(path, "w", encoding="utf-8") as handle:
        for number in range(2_400):
            handle.write(f"{number}中文字符没有空格也没有换行" * 200)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        corpus = build_corpus([path], tmp_path / "corpus", CorpusConfig())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000 < size
    assert corpus.bytes("train") + corpus.bytes("validation") == size
