from __future__ import annotations

import unicodedata
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from wordmill.corpus.text import clean, cut, is_binary, is_clean, lines_or_paragraphs, unify_line_ends

# Texts in which the hard cases are frequent: line ends, control characters, what combines, what composes.
HARD = st.text(
    st.sampled_from("ab \n\n\r\t\x00\x0b\x0c\x7f\x85\x9fé\u0301\u0323e중ᄀ가각ᆨ文。\u2126\u200d😀\U00016d63\U00016d67"), max_size=120
)
TEXTS = st.one_of(HARD, st.text(max_size=200))


def in_blocks(text: str, size: int) -> list[str]:
    return [text[place : place + size] for place in range(0, len(text), size)]


def test_clean_says_what_it_promises() -> None:
    assert clean("a\r\nb\rc\x0cd\x00e\x85f\tg\x7f") == "a\nb\nc\nde\nf\tg"
    assert clean("e\u0301\u2126") == "é\u03a9"


@given(TEXTS)
def test_clean_text_stays_as_it_is(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert is_clean(once.encode())
    assert is_clean(text.encode()) == (once == text)
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)


@given(TEXTS, st.integers(1, 50), st.integers(64, 200))
def test_pieces_joined_are_the_text(text: str, block: int, size: int) -> None:
    pieces = list(cut(in_blocks(text * 9, block), size))
    assert "".join(pieces) == text * 9
    assert all(pieces)
    assert pieces == list(cut([text * 9], size)), "where it is cut depends on the blocks"


@given(TEXTS, st.integers(1, 7))
def test_cutting_and_cleaning_may_change_places(text: str, block: int) -> None:
    text *= 9
    pieces = list(cut(unify_line_ends(in_blocks(text, block)), 64))
    # Text in which nothing may begin a piece for very long is cut anywhere; ordinary text never is.
    if (
        any(_begins(char) for char in clean(text))
        and max(map(len, pieces), default=0) < 64
        and all(_begins(piece[0]) for piece in pieces[1:])
    ):
        assert "".join(map(clean, pieces)) == clean(text)


def _begins(char: str) -> bool:
    return unicodedata.category(char)[0] not in "MC" and not ("\u1160" <= char <= "\u11ff" or "\U00016d63" <= char <= "\U00016d6a")


@given(st.text(st.sampled_from("abc .文é\n"), min_size=200, max_size=3000))
def test_ordinary_text_is_cut_into_pieces_of_the_size_asked_for(text: str) -> None:
    pieces = list(cut([text], 100))
    assert all(len(piece.encode()) <= 1.5 * 100 + 3 for piece in pieces)
    assert all(len(piece.encode()) >= 100 / 4 for piece in pieces[:-1])
    assert "".join(map(clean, pieces)) == clean(text)


def test_a_piece_ends_at_the_best_place() -> None:
    line = "word " * 12
    assert next(cut([f"{line}\n\n{line}\n{line}"], 80)) == f"{line}\n\n"
    assert next(cut([f"{line}\n{line} {line}"], 80)) == f"{line}\n"
    assert next(cut([line * 3], 82)).endswith("word ")
    assert len(next(cut(["文" * 1000], 90))) == 30


@given(HARD, st.integers(1, 5))
def test_line_ends_across_blocks(text: str, block: int) -> None:
    assert "".join(unify_line_ends(in_blocks(text, block))) == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(st.sampled_from("ab \n\t"), max_size=80), st.integers(1, 9))
@settings(max_examples=200)
def test_lines_and_paragraphs_lose_nothing(text: str, block: int) -> None:
    lines = list(chain.from_iterable(lines_or_paragraphs(in_blocks(text, block), "line")))
    assert "\n".join(lines) == (text[:-1] if text.endswith("\n") else text)
    paragraphs = list(chain.from_iterable(lines_or_paragraphs(in_blocks(text, block), "paragraph")))
    assert "".join("".join(paragraphs).split()) == "".join(text.split())
    assert not any("\n\n" in paragraph.strip() for paragraph in paragraphs)


def test_paragraphs() -> None:
    assert list(chain.from_iterable(lines_or_paragraphs(["one\nstill one\n", "\n \n\ntwo"], "paragraph"))) == ["one\nstill one", "two"]


def test_binary() -> None:
    assert is_binary("\x00\x01\x02abc")
    assert not is_binary("text with one bell \x07 in it")
