from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmill.generate.text import TextStream


class Bytes:
    """A tokenizer whose tokens are bytes, which it may tell or not."""

    special_tokens: ClassVar[dict[str, int]] = {"<|end|>": 300}

    def __init__(self, byte_level=True):
        self.byte_level = byte_level

    def token_bytes(self, index):
        return bytes([index])

    def decode(self, ids, *, skip_special=True):
        return bytes(ids).decode("utf-8", "replace")


def _pieces(text: bytes, stop=(), prompt=b"", byte_level=True) -> tuple[list[str], TextStream]:
    stream, pieces = TextStream(Bytes(byte_level), list(prompt), stop), []
    for byte in text:
        pieces.append(stream.add(byte))
        if stream.stopped is not None:
            return pieces, stream
    return [*pieces, stream.end()], stream


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30), st.text(max_size=8), st.booleans())
def test_pieces_are_whole_characters_and_join_to_the_text(text, prompt, byte_level):
    pieces, stream = _pieces(text.encode("utf-8", "replace"), prompt=prompt.encode("utf-8", "replace"), byte_level=byte_level)
    assert "".join(pieces) == stream.text == text.encode("utf-8", "replace").decode()
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("byte_level", [True, False])
def test_bytes_that_are_no_text_do_not_hold_it_up(byte_level):
    pieces, stream = _pieces(b"ab\xff\xff\xff\xff\xffcd", byte_level=byte_level)
    assert stream.text == "ab" + "\ufffd" * 5 + "cd"
    assert pieces[0] == "a"


def test_a_stop_text_across_tokens_ends_before_it_and_its_start_is_never_shown():
    pieces, stream = _pieces(b"one STOP two", stop=("STOP",))
    assert stream.text == "".join(pieces) == "one "
    assert stream.stopped == "STOP"
    _, stream = _pieces(b"one STO", stop=("STOP",))
    assert stream.text == "one STO"
    assert stream.stopped is None


def test_special_tokens_are_not_shown():
    stream = TextStream(Bytes(), [])
    assert stream.add(97) + stream.add(300) + stream.add(98) == "ab"


def test_the_first_of_several_stop_texts_counts():
    _, stream = _pieces("aab磨坊x".encode(), stop=("坊", "ab", "aabz"))
    assert (stream.text, stream.stopped) == ("a", "ab")
    _, stream = _pieces("a磨坊x".encode(), stop=("坊",))
    assert stream.text == "a磨"
