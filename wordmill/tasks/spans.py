"""Words, tags and spans: the ways in which labelled words are written down, and the one in which they are learned.

A `Sentence` is a text with the places of its words and one tag a word. Entities are read from BIO, BIOES (and BILOU), IOB1 and IO tags or
from spans of characters, and learned as BIO. Offsets count characters (code points) of the text, the end exclusive.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from wordmill.core.errors import DataError
from wordmill.core.progress import plural
from wordmill.tasks.examples import TAG, Record
from wordmill.tokenizer import Tokenizer

BEGINS, SINGLE, INSIDE, ENDS = "B", ("S", "U", "W"), ("I", "M"), ("E", "L")
JOINER = "\u200d"
"""Makes one emoji of those before and behind it."""
PARTS = re.compile("[\u200d\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
"""What belongs to the emoji before it: the joiner, variation selectors, colours of skin, the letters of a region's flag."""
NON_JOINER = "\u200c"
"""Keeps two letters of one word apart, in Persian for instance."""
FIRST_MARK = "\u0300"
"""The first character that may belong to the one before it."""
HALF_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
"""One of the two letters that are the flag of a country."""


CHECKED = 200
"""Sentences on which a tokenizer is tried."""


class Span(NamedTuple):
    """Some words that belong together: the first, one past the last, and what they are."""

    first: int
    last: int
    label: str


@dataclass(frozen=True)
class Sentence:
    """A text with its words."""

    text: str
    words: tuple[tuple[int, int], ...]
    """Start and end of each word in the text."""
    tags: tuple[str, ...]
    """One a word, as BIO; () where nothing is known."""


WIDE = ((0x0E00, 0x0EFF), (0x2E80, 0x9FFF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


_WIDE = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in WIDE)
_FLAG = r"[\x{1f1e6}-\x{1f1ff}]{2}"
_GLUED = rf"(?:\x{{200d}}+(?:{_FLAG}|\S)|[\p{{M}}\x{{200d}}\x{{fe0e}}\x{{fe0f}}\x{{1f3fb}}-\x{{1f3ff}}\x{{e0020}}-\x{{e007f}}])*"
_LETTER = rf"[[\p{{L}}\p{{N}}]&&[^{_WIDE}]]"
_SIGN = rf"(?:{_FLAG}|\x{{200d}}+(?:{_FLAG}|\S)?|\S){_GLUED}"
BY_CHARACTER = rf"\s*{_SIGN}|\s+"
"""What `words_of` takes for one word when every character is, with the space before it: as the library of tokenizers reads it."""
BY_WORD = rf"\s*(?:{_LETTER}{_GLUED}(?:\x{{200c}}?{_LETTER}{_GLUED})*|{_SIGN})|\s+"
"""The same where runs of letters and digits are words."""


def is_wide(character: str) -> bool:
    """Whether it is of a script that is written without spaces: Chinese, Japanese, Thai, …"""
    code = ord(character)
    return any(first <= code <= last for first, last in WIDE)


def words_of(text: str, *, characters: bool = False, borders: Iterable[int] = ()) -> tuple[tuple[int, int], ...]:
    """Places of the words: runs of letters and digits; every other sign, and every character of a script without spaces, by itself.
    Combining marks, the parts of an emoji and the halves of a flag stay with what they belong to. `characters`: no runs at all. `borders`:
    also cut there."""
    found: list[tuple[int, int]] = []
    cuts, open_run = set(borders), False
    for at, c in enumerate(text):
        glued = belongs(text, at) and bool(found) and found[-1][1] == at
        if c.isspace():
            open_run = False
        elif glued and at not in cuts:
            found[-1] = (found[-1][0], at + 1)
        else:
            after = text[at + 1 : at + 2]
            inside = c == NON_JOINER and open_run and after.isalnum() and not is_wide(after)
            letter = (c.isalnum() or inside) and not is_wide(c) and not characters
            if letter and open_run and at not in cuts:
                found[-1] = (found[-1][0], at + 1)
            else:
                found.append((at, at + 1))
            open_run = letter
    return tuple(found)


def cutting_words(tokenizer: Tokenizer, sentences: Sequence[Sentence], characters: bool) -> tuple[Tokenizer, bool]:
    """The tokenizer, where it cuts whole texts as a tagger does, which reads each word with the space before it by itself; or else one that
    cuts at the borders of words first, so that whoever opens the folder elsewhere gives the model the tokens that it learned from. Where
    the words are others than `words_of` finds, or tokens would be, it stays as it is; and whether it cuts so, on the first sentences."""
    texts = [(one.text[: one.words[-1][1]], one.words) for one in sentences[:CHECKED] if one.words]
    pieces = [[text[a:b] for a, b in pairwise((0, *(end for _, end in words)))] for text, words in texts]

    def by_word(own: Tokenizer) -> list[list[int]]:
        return [[index for piece in one for index in own.encode(piece)] for one in pieces]

    def whole(own: Tokenizer) -> list[list[int]]:
        return [own.encode(f"{text} ") for text, _ in texts]  # what stands behind the last word is not read

    learned = by_word(tokenizer)
    if learned == whole(tokenizer):
        return tokenizer, True
    if any(words != words_of(text, characters=characters) for text, words in texts):
        return tokenizer, False
    made = tokenizer.cut_first(BY_CHARACTER if characters else BY_WORD)
    alike = learned == by_word(made) == whole(made)
    return (made if alike else tokenizer), alike


def belongs(text: str, at: int) -> bool:
    """Whether a character is one sign with what stands before it: a combining mark, a part of an emoji, the second half of a flag."""
    c = text[at]
    if at and text[at - 1] == JOINER:
        return True
    if c < FIRST_MARK:
        return False
    if not HALF_FLAG.match(c):
        return unicodedata.category(c)[0] == "M" or PARTS.match(c) is not None
    first = at
    while first and HALF_FLAG.match(text[first - 1]):
        first -= 1
    return (at - first) % 2 == 1


def miswritten(tags: Iterable[str]) -> bool:
    """Whether these tags, O aside, are tags of entities with another sign in the place of -: B_PER, I_PER, …; some kind begins and goes
    on."""
    marks: dict[str, set[str]] = {}
    for tag in tags:
        if tag[1:2] not in {*"_.:/|"} or not is_entity_tag(f"{tag[0]}-{tag[2:]}"):
            return False
        marks.setdefault(tag[2:], set()).add(tag[0])
    return any(BEGINS in found and len(found) > 1 for found in marks.values())


def is_entity_tag(tag: str) -> bool:
    """Whether it is O, or a mark of a scheme with a kind: B-PER."""
    return TAG.fullmatch(tag) is not None


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """Which scheme the tags are in: bio, bioes, iob1, io, or plain where they are no entities."""
    tags = Counter(tag for sentence in sentences for tag in sentence)
    if not all(map(is_entity_tag, tags)):
        return "plain"
    marks = {tag[0] for tag in tags if tag != "O"}
    if marks & {*SINGLE, *ENDS}:
        return "bioes"
    if BEGINS not in marks:
        return "io" if marks else "bio"
    loose = tight = 0  # entities that begin with I-, and those whose B- stands where nothing of the kind stood before
    for sentence in sentences:
        before = "O"
        for tag in sentence:
            if tag[0] in INSIDE and before[2:] != tag[2:]:
                loose += 1
            elif tag[0] == BEGINS and before[2:] != tag[2:]:
                tight += 1
            before = tag
    return "iob1" if loose and not tight else "bio"


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities in tags of any of the schemes; an I- that nothing came before begins one, as conlleval has it."""
    found: list[Span] = []
    first, label = 0, ""
    for at, tag in enumerate([*tags, "O"]):
        mark, kind = (tag[0], tag[2:]) if tag != "O" else ("O", "")
        if label and (mark in ("O", BEGINS, *SINGLE) or kind != label):
            found.append(Span(first, at, label))
            label = ""
        if mark != "O" and not label:
            first, label = at, kind
        if mark in (*SINGLE, *ENDS) and label:
            found.append(Span(first, at + 1, label))
            label = ""
    return found


def bio(spans: Iterable[Span], n: int) -> list[str]:
    """BIO tags of `n` words."""
    tags = ["O"] * n
    for span in spans:
        tags[span.first : span.last] = [f"B-{span.label}", *[f"I-{span.label}"] * (span.last - span.first - 1)]
    return tags


def joined(words: Sequence[str], between: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of words, and their places in it."""
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + len(between)
    return between.join(words), tuple(places)


SPAN = '{"start": 0, "end": 3, "label": "x"}'
"""How a span may be written, for messages."""


def read_spans(value: Any, text: str, where: str) -> list[tuple[int, int, str]]:
    """(start, end, label) of a record's spans: a list of objects or triples, or CLUENER's {label: {words: [[start, last]]}}.

    Raises `DataError` for spans in no known form, outside the text, or that don't hold the words that they name.
    """
    if not isinstance(value, dict | list):
        raise DataError(f"can't read the spans {value!r}", where=where, fix=f"Write [{SPAN}]")
    found = _cluener(value, text, where) if isinstance(value, dict) else [_span(one, text, where) for one in value]
    return sorted(found)


def _span(one: Any, text: str, where: str) -> tuple[int, int, str]:
    """A span that is an object or a triple."""
    if isinstance(one, dict) and {"start", "end"} <= set(one):
        label = next((one[name] for name in ("label", "type", "entity", "tag") if name in one), None)
        found = _checked(one["start"], one["end"], label, text, where)
        held = text[found[0] : found[1]]
        if isinstance(one.get("text"), str) and held != one["text"]:
            raise DataError(f"the span {found[0]}…{found[1]} is {held!r}, not {one['text']!r}", where=where,
                            fix="Offsets count characters, and the end is one past the last")  # fmt: skip
        return found
    if isinstance(one, list | tuple) and len(one) == 3:
        return _checked(one[0], one[1], one[2], text, where)
    raise DataError(f"can't read the span {one!r}", where=where, fix=f"Write it as {SPAN}")


def _cluener(value: dict[str, Any], text: str, where: str) -> Iterator[tuple[int, int, str]]:
    """The spans of {label: {words: [[start, last]]}}; the second number may also be one past the last."""
    for label, surfaces in value.items():
        if not isinstance(surfaces, dict):
            raise DataError(f"can't read the spans of {label!r}", where=where, fix=f"Write [{SPAN}]")
        for surface, places in surfaces.items():
            for place in places if isinstance(places, list) else [places]:
                if not isinstance(place, list) or len(place) != 2 or not all(map(_is_whole, place)):
                    raise DataError(f"the place of {surface!r} ({label}) is {place!r}, and no pair of whole numbers", where=where,
                                    fix=f'Write {{"{label}": {{"{surface}": [[FIRST, LAST]]}}}}')  # fmt: skip
                start, last = place
                end = last + 1 if text[start : last + 1] == surface else last
                if text[start:end] != surface:
                    raise DataError(f"{surface!r} is not what stands at {start}…{last}: {text[start : last + 1]!r}", where=where)
                yield _checked(start, end, label, text, where)


def _checked(start: Any, end: Any, label: Any, text: str, where: str) -> tuple[int, int, str]:
    """A span with the form and the place that it must have."""
    if label is None or label == "":
        raise DataError(f"the span {start}…{end} has no label", where=where, fix=f"Write it as {SPAN}")
    if not isinstance(label, str | int | float):
        raise DataError(f"the label of the span {start}…{end} is {label!r}, and no text", where=where, fix=f"Write it as {SPAN}")
    if not _is_whole(start) or not _is_whole(end):
        raise DataError(f"the offsets of the span {start!r}…{end!r} ({label}) are no whole numbers", where=where, fix=f"Write it as {SPAN}")
    if not 0 <= start < end <= len(text):
        raise DataError(f"the span {start}…{end} ({label}) is not inside the text, which has {plural(len(text), 'character')}", where=where)
    return start, end, str(label)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def sentence_of_spans(text: str, spans: Sequence[tuple[int, int, str]], *, characters: bool) -> tuple[Sentence, int]:
    """The text with BIO tags, words cut at the borders of spans; and how many spans overlap a longer one and are left out."""
    kept: list[tuple[int, int, str]] = []
    for one in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if all(one[1] <= other[0] or one[0] >= other[1] for other in kept):
            kept.append(one)
    words = words_of(text, characters=characters, borders=[place for start, end, _ in kept for place in (start, end)])
    tags = ["O"] * len(words)
    for start, end, label in kept:
        inside = [n for n, (a, b) in enumerate(words) if a >= start and b <= end]
        for n in inside:
            tags[n] = f"{'B' if n == inside[0] else 'I'}-{label}"
    return Sentence(text, words, tuple(tags)), len(spans) - len(kept)


def cuts_words(text: str, start: int, end: int) -> bool:
    """Whether a span begins or ends inside a word."""
    return inside_word(text, start) or inside_word(text, end)


def inside_word(text: str, at: int) -> bool:
    """Whether a place is inside a word: between two letters or digits, neither of a script without spaces; or inside what is one sign."""
    if not 0 < at < len(text):
        return False
    if belongs(text, at):
        return True
    before = at - 1
    while before and belongs(text, before):  # the letter that a mark belongs to
        before -= 1
    return all(text[n].isalnum() and not is_wide(text[n]) for n in (before, at))


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span, grown to the borders of the words in which it begins and ends."""
    while inside_word(text, start):
        start -= 1
    while inside_word(text, end):
        end += 1
    return start, end


def line_of(record: Record, word: int) -> str:
    """FILE:LINE of a word, where words have lines of their own."""
    lines = record.values.get("lines")
    return f"{record.where.rpartition(':')[0]}:{lines[word]}" if isinstance(lines, list) and word < len(lines) else record.where


def check_plain(records: Sequence[Record], column: str) -> None:
    """Raises `DataError` for an empty tag, for tags that are all miswritten, and for the first that is no entity's, where most others are,
    or some with O beside them: it is a mistake, and not a scheme."""
    every = [(record, n, tag) for record in records for n, tag in enumerate(listed(record, column))]
    tags = [one for one in every if one[2] != "O"]
    for record, n, tag in tags:
        if not tag.strip():
            raise DataError("a word without a tag", where=line_of(record, n), fix="Write its tag, or O")
    if miswritten({tag for _, _, tag in tags}):
        record, n, tag = tags[0]
        raise DataError(f"the tag {tag!r} is not of the form B-KIND, nor is any other", where=line_of(record, n),
                        fix=f"Write {tag[0]}-{tag[2:]}; or if tags are labels of single words, say task.scheme=plain")  # fmt: skip
    odd = [one for one in tags if not is_entity_tag(one[2])]
    if 2 * len(odd) <= len(tags) or (len(odd) < len(tags) < len(every)):
        record, n, tag = odd[0]
        others = f", nor are {len(odd) - 1:,} more" if len(odd) > 2 else ", nor is 1 more" if len(odd) == 2 else ""
        raise DataError(f"the tag {tag!r} is neither O nor of the form B-KIND{others}", where=line_of(record, n),
                        fix="Mend it; or if tags are labels of single words, say task.scheme=plain")  # fmt: skip


def listed(record: Record, column: str) -> list[str]:
    """A field that holds a list of texts. Raises `DataError` for another."""
    value = record.values.get(column)
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise DataError(f"{column!r} must be a list with an entry a word", where=record.where)
    return [str(item) for item in value]
