"""Trap 9: texts of the test set that are in the training set too make the model look better than it is.

Duplicates never land on two sides of a split, whether they are equal byte by byte or only after normalisation, in one file or in many,
whatever their order; and what equals a document of given validation files is not trained on.
"""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest

from wordmill.corpus import Corpus, CorpusConfig, build_corpus

VARIANTS = (
    lambda text: text,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text + "\n\n",
    lambda text: text.replace(" ", " \x00", 1),
)


def texts(count: int) -> list[str]:
    return [f"Le café n° {number}\na été fermé à {number % 24} h." for number in range(count)]


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def assert_apart(corpus: Corpus, count: int) -> None:
    train, validation = (list(map(normal, corpus.texts(split))) for split in ("train", "validation"))
    assert train
    assert validation
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == len({*train, *validation}) == count


@pytest.mark.parametrize("count", [40, 800])
def test_duplicates_are_on_one_side(tmp_path: Path, count: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    everything = [variant(text) for text in texts(count) for variant in VARIANTS]
    random.Random(1).shuffle(everything)
    for number in range(4):
        part = everything[number::4]
        (source / f"{number}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part))
    corpus = build_corpus([source], tmp_path / "corpus", CorpusConfig(validation=0.3))
    assert_apart(corpus, count)
    assert corpus.info["dropped"] == {"duplicate": count * (len(VARIANTS) - 1)}


def test_encodings_make_no_difference(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        for number, text in enumerate(texts(30)):
            (source / f"{encoding}-{number}.txt").write_bytes(text.encode(encoding))
    assert_apart(build_corpus([source], tmp_path / "corpus"), 30)


def test_pieces_of_few_documents_are_apart_too(tmp_path: Path) -> None:
    book = "".join(f"{text}\n\n" for text in texts(40))
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"A note in {name}.\n\n" * 3 + book if name == "b.txt" else book)
    corpus = build_corpus([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "corpus")
    assert not set(map(normal, corpus.texts("train"))) & set(map(normal, corpus.texts("validation")))


def test_given_validation_files_are_not_trained_on(tmp_path: Path) -> None:
    held_out, source = tmp_path / "valid.jsonl", tmp_path / "train.jsonl"
    held_out.write_text("\n".join(json.dumps({"text": unicodedata.normalize("NFD", text)}) for text in texts(5)))
    source.write_text("\n".join(json.dumps({"text": text + "\r\n"}) for text in texts(30)))
    corpus = build_corpus([source], tmp_path / "corpus", validation=[held_out])
    assert_apart(corpus, 30)
    assert corpus.info["dropped"] == {"in_validation": 5}
