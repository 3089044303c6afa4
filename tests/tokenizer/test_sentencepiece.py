"""The reader of `.model` files against the library's own reader, and on files that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmill.core.errors import ModelError
from wordmill.tokenizer.sentencepiece import Piece, SentencePiece, Type, merges, read_sentencepiece

NORMAL, UNKNOWN, CONTROL, BYTE = Type.NORMAL, Type.UNKNOWN, Type.CONTROL, Type.BYTE


@pytest.fixture(scope="session")
def library():
    pytest.importorskip("google.protobuf", reason="the package protobuf is not installed")
    return pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="the package sentencepiece is not installed")


@pytest.mark.parametrize("files", ["t5", "fairseq-plain", "gemma", "any-bpe"])
def test_everything_is_read_as_the_library_reads_it(own, files, library):
    path = next(own.folder(files).glob("*.model"))
    ours, theirs = read_sentencepiece(path), library.ModelProto.FromString(path.read_bytes())
    assert list(ours.pieces) == [Piece(piece.piece, piece.score, Type(piece.type)) for piece in theirs.pieces]
    trainer, normalizer = theirs.trainer_spec, theirs.normalizer_spec
    assert ours.algorithm == {1: "unigram", 2: "bpe"}[trainer.model_type]
    assert (ours.unk_id, ours.bos_id, ours.eos_id, ours.pad_id) == (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id)
    assert (ours.byte_fallback, ours.charsmap) == (trainer.byte_fallback, normalizer.precompiled_charsmap)
    assert (ours.add_dummy_prefix, ours.remove_extra_whitespaces) == (normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces)


def test_what_is_absent_has_its_default(library, tmp_path):
    (tmp_path / "x.model").write_bytes(message(b"\x0a\x01a", b""))
    theirs = library.ModelProto.FromString((tmp_path / "x.model").read_bytes())
    ours = read_sentencepiece(tmp_path / "x.model")
    assert ours.pieces == (Piece("a", 0.0, NORMAL),)
    assert (theirs.pieces[0].piece, theirs.pieces[0].type) == ("a", 1)
    trainer, normalizer = theirs.trainer_spec, theirs.normalizer_spec
    assert (ours.unk_id, ours.bos_id, ours.eos_id, ours.pad_id) == (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id)
    assert (ours.add_dummy_prefix, ours.remove_extra_whitespaces) == (normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces)
    assert (ours.algorithm, ours.byte_fallback, ours.charsmap) == ("unigram", False, b"")


def message(piece: bytes, trainer: bytes, normalizer: bytes = b"") -> bytes:
    return b"".join(bytes([number << 3 | 2, len(part)]) + part for number, part in enumerate((piece, trainer, normalizer), 1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no pieces"),
        (b"IQ== 0\nIg== 1\n", "not a SentencePiece model"),  # tiktoken's format, which Llama 3 keeps under the same name
        (b"\x0a\xff", "cut short"),
        (b"\x0a\x04\x0a\x01\xff\x00", "not a SentencePiece model"),
        (b"\x0a\x03\x0a\x01a\x0b", "not a SentencePiece model"),
        (b"\x0a" + b"\xff" * 11, "not a SentencePiece model"),
        (b"\x0a\x03\x0a\x01a", "without its settings: it was cut short"),
        (message(b"\x0a\x01a", b"\x18\x03"), "of the word algorithm is not supported"),
        (message(b"\x0a\x01a", b"\x18\x09"), "of the unknown algorithm is not supported"),
        (message(b"\x0a\x01a", b"\xc0\x01\x01"), "treat_whitespace_as_suffix is not supported"),
        (message(b"\x0a\x01a", b"", b"\x28\x00"), "escape_whitespaces=false is not supported"),
    ],
)
def test_what_is_no_model_is_an_error(tmp_path, data, said):
    (tmp_path / "x.model").write_bytes(data)
    with pytest.raises(ModelError, match=said):
        read_sentencepiece(tmp_path / "x.model")


def test_every_cut_of_a_file_is_an_error(own):
    path = next(own.folder("llama").glob("*.model"))
    data = path.read_bytes()
    for size in (*range(1, 400, 7), *range(400, len(data), 997)):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match="cut short"):
            read_sentencepiece(path)


@given(st.integers(-(2**31), 2**31 - 1))
def test_numbers_below_zero(tmp_path_factory, number):
    value, encoded = number % 2**64, bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    path = tmp_path_factory.getbasetemp() / "x.model"
    path.write_bytes(message(b"\x0a\x01a", b"\xd8\x02" + bytes(encoded)))
    assert read_sentencepiece(path).pad_id == number


def model(*pieces: tuple[str, Type]) -> SentencePiece:
    found = tuple(Piece(text, -float(index), kind) for index, (text, kind) in enumerate(pieces))
    return SentencePiece(found, "bpe", True, 0, 1, 2, -1, b"", add_dummy_prefix=True, remove_extra_whitespaces=False)


def test_merges_follow_the_pieces():
    made = model(("<unk>", UNKNOWN), ("ab", NORMAL), ("abc", NORMAL), ("bc", NORMAL), ("a", NORMAL), ("b", NORMAL), ("c", NORMAL))
    assert merges(made) == [("a", "b"), ("a", "bc"), ("ab", "c"), ("b", "c")]


def test_no_merge_makes_what_no_text_is_made_of():
    parts = [(text, NORMAL) for text in (*"<unk>s0xA", "<0", "s>")]
    made = model(("<unk>", UNKNOWN), ("<s>", CONTROL), ("<0x0A>", BYTE), *parts)
    assert merges(made) == [("<", "0"), ("s", ">")]
    assert made.roles == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<0x0A>"}
