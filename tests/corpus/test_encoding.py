from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmill.corpus.encoding import UNDECODABLE, byte_order_mark, decode_stream, detect, looks_binary, python_cookie

CHINESE = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。这是我们的国家，他说的话是不会有人不知道的。\n" * 3
FRENCH = "Les élèves étaient déjà là où l'été s'achève; ça va, naïveté, cœur à part.\n".replace("œ", "oe") * 3
GERMAN = "Die Straße führt über die Brücke; schöne Grüße aus Köln, Öl und Äpfel.\n" * 3
SPANISH = "El niño soñó con el corazón de España mañana, ¿qué pasó después? ¡Nada más!\n" * 3


@pytest.mark.parametrize("text", [CHINESE, FRENCH, "日本語のテキスト、かなが混じる。" * 9, "Привет, мир! " * 9])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_unicode_is_detected(text: str, encoding: str) -> None:
    text += " 1 2 3\n" if encoding != "utf-8" else ""
    assert detect(text.encode(encoding), whole=True) == encoding


@pytest.mark.parametrize(
    "text, encoding, found",
    [
        (CHINESE, "gb18030", "gb18030"),
        ("短文也可以。", "gb18030", "gb18030"),
        ("import os  # 读取文件\n" * 4, "gb18030", "gb18030"),
        (FRENCH, "latin-1", "latin-1"),
        (GERMAN, "latin-1", "latin-1"),
        (SPANISH, "latin-1", "latin-1"),
        ("He said “no” – and left…\n" * 3, "cp1252", "cp1252"),
        ("Plain text only.\n", "ascii", "ascii"),
        ("Привет, мир! Это русский текст.\n" * 9, "koi8-r", None),
        ("日本語のテキスト、かなが混じる。\n" * 9, "shift_jis", None),
    ],
)
def test_old_encodings(text: str, encoding: str, found: str | None) -> None:
    assert detect(text.encode(encoding), whole=True) == found


@pytest.mark.parametrize("mark, name", [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")])
def test_byte_order_marks(mark: bytes, name: str) -> None:
    assert byte_order_mark(mark + "text".encode(name)) == (name, len(mark))


def test_binary() -> None:
    assert looks_binary(b"\x89PNG\r\n\x1a\n")
    assert detect(bytes(range(256)) * 4, whole=True) == "binary"
    assert detect(b"text with a NUL \x00 in it, and some more text", whole=True) == "binary"
    assert detect("é text with a NUL \0 in it, and some more text".encode(), whole=True) == "binary"


def test_damaged_utf8_is_still_utf8() -> None:
    data = ("ä" * 50).encode() + b"\xff" + ("ö" * 50).encode()
    assert detect(data, whole=True) == "utf-8"


def test_a_sample_may_end_within_a_character() -> None:
    assert detect(("文" * 50).encode()[:-1], whole=False) == "utf-8"
    assert detect(CHINESE.encode("gb18030")[:-1].rstrip(b"\n")[:-1], whole=False) == "gb18030"


def test_python_cookie() -> None:
    assert python_cookie(b"#!/usr/bin/python\n# -*- coding: latin-1 -*-\n") == "iso8859-1"
    assert python_cookie(b"\n\n# coding: latin-1\n") is None
    assert python_cookie(b"# coding: nonsense\n") is None


@given(
    st.text(st.sampled_from("aé文😀\n"), max_size=60),
    st.integers(1, 9),
    st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "gb18030", "utf-32-le"]),
)
def test_decoding_in_blocks_of_any_size(text: str, size: int, encoding: str) -> None:
    data = text.encode(encoding)
    faults: list[int] = []
    blocks = [data[place : place + size] for place in range(0, len(data), size)]
    assert "".join(decode_stream(blocks, encoding, faults.append)) == text
    assert not faults


@given(st.integers(0, 20_000), st.integers(1, 5000))
def test_faults_have_their_place(place: int, size: int) -> None:
    data = bytearray("é文a\n".encode() * 3000)
    data[place] = 0xFF
    faults: list[int] = []
    blocks = [bytes(data[start : start + size]) for start in range(0, len(data), size)]
    text = "".join(decode_stream(blocks, "utf-8", faults.append))
    assert place in faults
    assert len(faults) == text.count(UNDECODABLE) <= 3
    assert all(abs(fault - place) < 3 for fault in faults)


def test_a_file_that_ends_within_a_character() -> None:
    faults: list[int] = []
    assert "".join(decode_stream(["文".encode()[:2]], "utf-8", faults.append)) == UNDECODABLE
    assert faults == [0]


def test_bytes_that_are_all_bad_take_no_long_time() -> None:
    faults: list[int] = []
    text = "".join(decode_stream([b"\xff" * 60_000], "utf-8", faults.append))
    assert text == UNDECODABLE * 60_000
    assert faults == list(range(60_000))
