"""The cuts: the two engines agree, digits stand alone, no token mixes scripts."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from wordmill.tokenizer.patterns import ENCODE, HAN_RUN, TRAIN

BYTES = {bytes([byte]): byte for byte in range(256)}
CHARACTERS = "aéZж语日かカ한α1२٣_ \t\n\r.,'\"-#(s😀\u0301\u200d\u3000ーʻ\u00a0ﬁ"
MIXED = st.text(st.sampled_from(CHARACTERS) | st.characters(exclude_categories=["Cs"]))
SPLITS = {pattern: pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (ENCODE, TRAIN)}


def pieces(pattern: str, text: str) -> list[str]:
    return [piece for piece, _ in SPLITS[pattern].pre_tokenize_str(text)]


@pytest.mark.parametrize("name", [r"\p{L}", r"\p{M}", r"\p{N}", r"\s"])
def test_both_engines_know_the_same_characters(name):
    # The classes that ENCODE is made of, over the planes of Unicode in use: what `tokenizers` takes out is what tiktoken finds.
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0400)]
    everything = "".join(map(chr, points))
    removing = pre_tokenizers.Split(Regex(name), "removed")
    finding = tiktoken.Encoding("x", pat_str=name, mergeable_ranks=BYTES, special_tokens={"<|no special|>": 256})
    for start in range(0, len(everything), 50_000):
        part = everything[start : start + 50_000]
        left = set("".join(piece for piece, _ in removing.pre_tokenize_str(part)))
        found = bytes(finding.encode_to_numpy(part, disallowed_special=()).astype(np.uint8)).decode()
        assert set(part) - left == set(found)


@given(MIXED)
def test_nothing_is_lost_by_either_pattern(text):
    assert "".join(pieces(ENCODE, text)) == text
    assert "".join(pieces(TRAIN, text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In 1984, x=10", ["In", " ", "1", "9", "8", "4", ",", " x", "=", "1", "0"]),
        ("it's self.append(x)", ["it", "'s", " self", ".append", "(x", ")"]),
        ("if a:\n        return b\n\n\nc", ["if", " a", ":\n", "       ", " return", " b", "\n\n\n", "c"]),
        ("\t\tx = 1", ["\t", "\tx", " =", " ", "1"]),
        ("चक्की पीसती", ["चक्की", " पीसती"]),
    ],
)
def test_text_is_cut_as_documented(text, expected):
    assert pieces(ENCODE, text) == expected
    assert pieces(TRAIN, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("用Python写代码", ["用", "Python", "写代码"]),
        ("，我们在中国学习语言模型。", ["，", "我们在中", "国学习语", "言模型", "。"]),
        ("日本語をラーメンで", ["日本語", "を", "ラーメン", "で"]),
        ("Wпример", ["W", "пример"]),
        ("한국말과english", ["한국말과", "english"]),
        ("café Hawaiʻi e\u0301a", ["café", " Hawaiʻi", " e\u0301a"]),
    ],
)
def test_training_text_is_also_cut_between_scripts(text, expected):
    assert HAN_RUN == 4
    assert pieces(TRAIN, text) == expected


def script(char: str) -> str:
    """A character's script, by the first word of its name: enough for the scripts in the tests. Strokes belong to all scripts."""
    return unicodedata.name(char, "?").removeprefix("CJK STROKE ").split()[0].replace("CJK", "HAN").removeprefix("FULLWIDTH")


@given(MIXED)
@example("\u31c0A")
def test_no_piece_of_training_text_has_two_scripts_or_two_digits(text):
    for piece in pieces(TRAIN, text):
        known = {script(char) for char in piece} & {"LATIN", "CYRILLIC", "GREEK", "HAN", "HIRAGANA", "KATAKANA", "HANGUL", "DEVANAGARI"}
        assert len(known) < 2
        assert sum(unicodedata.category(char)[0] == "N" for char in piece) <= (1 if len(piece) == 1 else 0)
