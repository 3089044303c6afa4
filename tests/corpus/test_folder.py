from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.conftest import sentences
from wordmill.cli import corpus as cli
from wordmill.core.errors import DataError, UsageError
from wordmill.corpus import Corpus, CorpusConfig, corpus_stats
from wordmill.corpus import write as write_module


@pytest.fixture
def corpus(build: Callable[..., Corpus]) -> Corpus:
    rows = [{"text": text, "n": number} for number, text in enumerate([*sentences(99), "中文的句子。", sentences(1)[0]])]
    return build({"a.jsonl": "\n".join(map(json.dumps, rows))}, keep_fields=["n"])


def test_what_an_opened_corpus_tells(corpus: Corpus) -> None:
    again = Corpus.open(corpus.folder, verify=True)
    assert again.hash == corpus.hash
    assert len(again.hash) == 64
    assert again.count("train") + again.count("validation") == 100
    texts = list(again.texts("train"))
    assert texts == [text for batch in again.text_batches("train") for text in batch] == [d.text for d in again.documents("train")]
    assert again.bytes("train") == sum(len(text.encode()) for text in texts)
    document = next(again.documents("train"))
    assert document.source == "corpus-source/a.jsonl"
    assert document.metadata == {"line": document.metadata["n"] + 1, "n": document.metadata["n"]}
    assert len(document.id) == 32
    with pytest.raises(UsageError, match="train"):
        again.count("tran")


def test_corpus_json_tells_where_it_came_from(corpus: Corpus) -> None:
    info = corpus.info
    assert info["settings"]["keep_fields"] == ["n"]
    assert CorpusConfig.of(info["settings"]).plain() == info["settings"]
    assert [len(source["sha256"]) for source in info["sources"]] == [64]
    assert set(info["throughput"]) == {"read", "clean", "dedupe", "write", "all"}
    assert info["throughput"]["clean"]["documents"] == 101
    assert info["split_rule"] == {"rule": "lowest hashes", "share": 0.05, "documents": 5, "seed": 0}


def test_many_shards(build: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(write_module, "SHARD_BYTES", 20_000)
    monkeypatch.setattr("wordmill.corpus.document.BATCH_DOCUMENTS", 50)
    files = {f"{number}.jsonl": "\n".join(json.dumps({"text": text}) for text in sentences(500, 500 * number)) for number in range(4)}
    corpus = build(files)
    assert len(corpus.info["splits"]["train"]["shards"]) > 3
    assert sorted([*corpus.texts("train"), *corpus.texts("validation")]) == sorted(sentences(2000))


@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_torn_shard_is_named(corpus: Corpus, damage: str) -> None:
    path = corpus.folder / "train-00000.parquet"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[:-100])
    else:
        path.write_bytes(data[:-100] + bytes(100))
    with pytest.raises(DataError, match=r"train-00000\.parquet"):
        Corpus.open(corpus.folder)


def test_a_changed_byte_is_noticed_when_it_is_read(corpus: Corpus) -> None:
    path = corpus.folder / "train-00000.parquet"
    data = bytearray(path.read_bytes())
    for place in (len(data) // 4, len(data) // 3):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-00000\.parquet"):
        Corpus.open(corpus.folder, verify=True)
    opened = Corpus.open(corpus.folder)
    with pytest.raises(DataError, match=r"train-00000\.parquet"):
        list(opened.documents("train"))


def test_not_a_corpus(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(DataError, match="corpus build"):
        Corpus.open(tmp_path)
    path = corpus.folder / "corpus.json"
    path.write_text(json.dumps({**corpus.info, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Corpus.open(corpus.folder)
    path.write_text('{"format": 1}')
    with pytest.raises(DataError, match="incomplete"):
        Corpus.open(corpus.folder)


def test_stats(corpus: Corpus) -> None:
    stats = corpus_stats(corpus)
    assert sum(split.documents for split in stats.splits.values()) == 100
    train = stats.splits["train"]
    lengths = [len(text) for text in corpus.texts("train")]
    assert train.characters == sum(lengths)
    assert train.bytes == corpus.bytes("train")
    assert train.lengths["longest"] == max(lengths)
    assert set(train.languages) <= {"latin", "zh"}
    assert train.sources == {"corpus-source/a.jsonl": {"documents": 95, "bytes": train.bytes}}
    assert "duplicates taken out: 1" in stats.text()
    json.dumps(stats.plain())


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.txt"
    source.write_text("\n".join(sentences(60)))
    cli.build([source], tmp_path / "c", split_text="line", validation=["0.2"], json=True, quiet=True)
    built = json.loads(capsys.readouterr().out)
    assert built["splits"]["validation"]["documents"] == 12
    cli.build([source], tmp_path / "d", split_text="line", quiet=True)
    assert "train 57 documents; validation 3 documents" in capsys.readouterr().out
    cli.show(tmp_path / "c", count=2, json=True)
    assert len(json.loads(capsys.readouterr().out)["documents"]) == 2
    cli.show(tmp_path / "c", count=1, split="validation", characters=10)
    assert "a.txt · line=" in capsys.readouterr().out
    cli.stats(tmp_path / "c", verify=True, quiet=True)
    assert "train: 48 documents" in capsys.readouterr().out
