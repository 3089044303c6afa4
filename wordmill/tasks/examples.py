"""Examples for fine-tuning: tables, JSON and CoNLL files as records, each with its place in the file.

What a file is follows from its content: JSON (a list, lines, or objects one after the other), Parquet, sentences of one word a line
(CoNLL), else a table, whose separator and header line are found by looking too. Encodings are told as for text (corpus/encoding.py).
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.encoding import UNDECODABLE
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.read import Reading, decoded
from wordmill.corpus.records import LONGEST_LINE
from wordmill.corpus.sources import COMPRESSIONS, BrokenFile, Source, opened
from wordmill.corpus.text import unify_line_ends

CONTAINERS = {"data", "examples", "records", "rows", "items", "train"}
"""Keys under which a JSON file keeps its list of examples."""
CONLL = {"conll", "bio", "bioes", "iob", "iob2"}
"""Endings of files with a word and its tag a line, whatever the tags look like."""
NUMBER, UNIVERSAL = re.compile(r"\d+([-.]\d+)?"), 10
"""The number of a word in its sentence, of several in one (3-4), or of one that isn't written (8.1); and the columns of CoNLL-U
(universaldependencies.org/format.html)."""
DOCUMENT = "-DOCSTART-"
"""How a line between two documents begins."""
TAG = re.compile(r"O|[BIESLUMW]-.+", re.DOTALL)
"""A tag of entities: O, or a mark of a scheme with a kind, as in B-PER."""
NO_TEXTS = {list: "a list", dict: "an object", bytes: "bytes"}
"""What no text can be made of, and what it is called."""
WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
NAME = re.compile(r"[^\W\d][\w .#-]{0,39}")


@dataclass(frozen=True)
class Record:
    """One example as it stands in its file."""

    values: dict[str, Any]
    """Its fields by name; columns without a header line are called 1, 2, …"""
    where: str
    """FILE:LINE (or FILE, record N), for messages."""


@dataclass
class Records:
    """The examples of one split."""

    records: list[Record] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    """Names of the fields, in the order of the file."""
    kind: str = ""
    """What the files are: table, json, parquet or conll."""
    headed: bool = True
    """Whether the fields have names of their own."""
    files: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)


def read_examples(paths: Sequence[str | Path], *, reporter: Reporter = SILENT) -> Records:
    """All examples of some files, which must be of one kind.

    Raises `DataError` for a file that is missing, empty, torn or broken (with its line), and for files of different kinds.
    """
    found = Records()
    for path in map(Path, paths):
        one = _read(path, reporter)
        if not one.records:
            raise DataError("there is no example in this file", where=path)
        if found.records and (one.kind, one.fields) != (found.kind, found.fields) and found.kind != "json":
            raise DataError(
                f"this file has the fields {', '.join(one.fields)}, the one before it {', '.join(found.fields)}",
                where=path,
                fix="Give files of one kind, with the same columns",
            )
        fields = list(dict.fromkeys([*found.fields, *one.fields]))
        found = Records([*found.records, *one.records], fields, one.kind, one.headed, [*found.files, str(path)])
    return found


def _read(path: Path, reporter: Reporter) -> Records:
    if path.is_dir():
        raise DataError("this is a folder; examples are read from files", where=path, fix="Name the file, for example train.csv")
    if not path.exists():
        raise DataError("no such file", where=path)
    compression, parts = None, path.name.lower().split(".")
    if parts[-1] in COMPRESSIONS:
        compression = COMPRESSIONS[parts.pop()]
    if parts[-1] == "parquet":
        return _parquet(path)
    text = read_text(path, compression)
    if not text.strip():
        raise DataError("this file is empty", where=path)
    if parts[-1] in ("json", "jsonl", "ndjson"):
        return _json(path, text)
    if parts[-1] == "conllu" or looks_universal(text):
        return _universal(path, text, reporter)
    if parts[-1] in CONLL:
        return _conll(path, text, reporter)
    if looks_like_conll(text):  # before JSON: a first word may be a bracket
        return _conll(path, text, reporter)
    if parts[-1] not in ("csv", "tsv") and text.lstrip()[:1] in "[{":
        return _json(path, text)
    return _table(path, text, reporter)


def read_text(path: Path, compression: str | None = None) -> str:
    """The whole text of a file. Raises `DataError` for one in no encoding that can be told, or with bytes that are not valid in it."""
    source = Source(path, path.name, "txt", compression)
    ledger = Ledger(SILENT)  # its first fault ends it
    reading = Reading(CorpusConfig(), ledger, lambda _: None)
    try:
        with opened(source, reading.progress) as stream:
            text = "".join(unify_line_ends(decoded(stream, source, reading)))
    except BrokenFile as error:
        raise DataError(str(error), where=source.path) from error
    if ledger.faults:
        fault = ledger.faults[0]
        fix = "Convert the file to UTF-8" if fault["reason"] != "binary" else "Write it as text in UTF-8, without NUL bytes"
        raise DataError(fault["what"].partition(";")[0].removesuffix(", left out"), where=fault["where"], fix=fix)
    assert UNDECODABLE not in text
    return text


def _json(path: Path, text: str) -> Records:
    """A list of objects, an object that holds one such list, or objects one after the other, on one line each or not."""
    decoder, values, at, line = json.JSONDecoder(), [], 0, 1
    places: list[int] = []
    whole = False
    end = len(text)
    while True:
        start = at
        while at < end and text[at] in " \t\r\n,":
            at += 1
        line += text.count("\n", start, at)
        if at == end:
            break
        try:
            value, after = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            number = getattr(error, "lineno", line)
            raise DataError(f"broken JSON: {getattr(error, 'msg', error)}", where=f"{path}:{number}") from error
        values.append(value)
        places.append(line)
        line += text.count("\n", at, after)
        at = after
    if len(values) == 1 and isinstance(values[0], list):
        values, whole = values[0], True
    elif len(values) == 1 and isinstance(values[0], dict):
        lists = [inner for inner in values[0].values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
        talk = bool(lists) and bool({"role", "from"} & set(lists[0][0]))  # the turns of one conversation
        if len(lists) == 1 and not talk and (len(values[0]) == 1 or CONTAINERS & set(values[0])):
            values, whole = lists[0], True
    records = []
    for number, value in enumerate(values):
        where = f"{path}, record {number + 1}" if whole else f"{path}:{places[number]}"
        if not isinstance(value, dict):
            raise DataError(f"expected an object, found {type(value).__name__}", where=where)
        records.append(Record(value, where))
    fields = list(dict.fromkeys(name for record in records[:1000] for name in record.values))
    return Records(records, fields, "json", files=[str(path)])


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_names(pq.read_schema(path).names, str(path))
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"torn, or not a Parquet file: {' '.join(str(error).split())}", where=path) from error
    rows = table.to_pylist()
    return Records(
        [Record(row, f"{path}, row {n}") for n, row in enumerate(rows, 1)], list(table.schema.names), "parquet", files=[str(path)]
    )


def looks_like_conll(text: str) -> bool:
    """Whether the first lines are words with their tags: two or more fields each, the last a tag, with an empty line now and then. Lines
    without a tag, or with one that is none, are errors, to be shown as such, as long as they are not the most."""
    lines = text.split("\n", 400)[:400]
    skipped = _comments(lines)
    rows = [_cells(line) for n, line in enumerate(lines) if line.strip() and n not in skipped and not line.startswith(DOCUMENT)]
    filled = [[cell for cell in cells if cell] for cells in rows]
    # What stands between tabs and holds spaces is a text, whose label may look like a tag.
    right = [cells[-1] for cells in filled if len(cells) > 1 and " " not in "".join(cells[:-1]) and TAG.fullmatch(cells[-1])]
    # Without a B-, I- or the like anywhere it may be any table; O alone can't be the label of a table of texts.
    return 2 <= len(right) >= 0.5 * len(rows) and ("" in [line.strip() for line in lines[:-1]] or len({*right}) > 1)


def _cells(line: str) -> list[str]:
    """What stands between the tabs of a line, or where it has none between its spaces."""
    return [cell.strip() for cell in (line.split("\t") if "\t" in line.strip() else line.split())]


def _comments(lines: Sequence[str]) -> set[int]:
    """Numbers, from 0, of the lines of words with tags that are comments: at the beginning of a sentence, # and a text. A # that stands in
    the columns of the other lines, with a tag behind it, is a word."""
    found: dict[int, list[str]] = {}
    shapes: Counter[tuple[bool, int]] = Counter()
    tags: set[str] = set()
    inside = False
    for number, line in enumerate(lines):
        if not line.strip() or line.startswith(DOCUMENT):
            inside = False
        elif line.startswith("# ") and not inside:
            found[number] = _cells(line)
        else:
            inside, cells = True, _cells(line)
            shapes["\t" in line.strip(), len(cells)] += 1
            tags.add(cells[-1])
    usual = shapes.most_common(1)[0][0] if shapes else None

    def is_word(number: int, cells: list[str]) -> bool:
        alike = ("\t" in lines[number].strip(), len(cells)) == usual
        return alike and (cells[-1] in tags or TAG.fullmatch(cells[-1]) is not None)

    return {number for number, cells in found.items() if not is_word(number, cells)}


def _conll(path: Path, text: str, reporter: Reporter) -> Records:
    """Sentences between empty lines; of each line the first field is the word, the last its tag. Says how many comments are left out."""
    records: list[Record] = []
    words: list[str] = []
    tags: list[str] = []
    numbers: list[int] = []

    def close() -> None:
        if words:
            records.append(Record({"tokens": [*words], "tags": [*tags], "lines": [*numbers]}, f"{path}:{numbers[0]}"))
        for values in (words, tags, numbers):
            values.clear()

    lines = text.split("\n")
    comments = _comments(lines)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(DOCUMENT):
            close()
            continue
        if number - 1 in comments:
            continue
        cells = _cells(line)
        if len(cells) < 2 or not cells[0] or not cells[-1]:
            raise DataError(f"a word without a tag: {line.strip()[:60]!r}", where=f"{path}:{number}", fix="Each line is a word and its tag")
        words.append(cells[0])
        tags.append(cells[-1])
        numbers.append(number)
    close()
    if comments:
        first = min(comments)
        reporter.note(f"{path}: {plural(len(comments), 'comment line')} {verb(len(comments), 'are')} left out (first: line {first + 1}, "
                      f"{lines[first].strip()[:60]!r})")  # fmt: skip
    return Records(records, ["tokens", "tags"], "conll", files=[str(path)])


def looks_universal(text: str) -> bool:
    """Whether this is CoNLL-U: but for comments, lines of ten columns between tabs, the first a word's number, the seventh the number of
    another; and the last no tag of entities."""
    rows = [line.split("\t") for line in text.split("\n", 400)[:400] if line.strip() and not line.startswith("#")]
    if not rows or any(len(cells) != UNIVERSAL or not NUMBER.fullmatch(cells[0]) for cells in rows):
        return False
    return all(cells[6] == "_" or cells[6].isdigit() for cells in rows) and not all(TAG.fullmatch(cells[-1]) for cells in rows)


def _universal(path: Path, text: str, reporter: Reporter) -> Records:
    """Sentences of CoNLL-U: words and their universal parts of speech, or the language's own where no word has one; without tags where
    there are neither. Raises `DataError` for a line of another form, and for a word without a tag where others have one."""
    sentences: list[list[tuple[int, list[str]]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            sentences.append([])
        elif not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) != UNIVERSAL or not NUMBER.fullmatch(cells[0]) or not cells[1].strip():
                raise DataError(f"not a word of CoNLL-U: {line.strip()[:60]!r}", where=f"{path}:{number}",
                                fix="Ten columns between tabs, the first its number, the second the word")  # fmt: skip
            if cells[0].isdigit():  # the words of 3-4 stand below it, each by itself; 8.1 is not written
                sentences[-1].append((number, cells))
    rows = [row for sentence in sentences for row in sentence]
    column = next((n for n in (3, 4) if any(cells[n].strip() != "_" for _, cells in rows)), None)
    if column is not None:
        bare = next(((number, cells) for number, cells in rows if cells[column].strip() in ("_", "")), None)
        if bare is not None:
            raise DataError(f"the word {bare[1][1]!r} has no part of speech", where=f"{path}:{bare[0]}", fix="Each word needs one")
        reporter.note(f"{path}: CoNLL-U; the tag of a word is its part of speech ({'UPOS' if column == 3 else 'XPOS'})")
    records = []
    for sentence in filter(None, sentences):
        tags = {} if column is None else {"tags": [cells[column].strip() for _, cells in sentence]}
        values = {"tokens": [cells[1].strip() for _, cells in sentence], **tags, "lines": [number for number, _ in sentence]}
        records.append(Record(values, f"{path}:{sentence[0][0]}"))
    return Records(records, ["tokens", *([] if column is None else ["tags"])], "conll", files=[str(path)])


def _table(path: Path, text: str, reporter: Reporter) -> Records:
    """Comma-, semicolon- or tab-separated; quoted as RFC 4180 says, but for tabs, where a quote is a quote."""
    csv.field_size_limit(LONGEST_LINE)
    separator = _separator(path, text)
    lines = text.split("\n")
    if separator == "\t":
        numbered = [(n, line.split("\t")) for n, line in enumerate(lines, 1) if line]
    else:
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
        numbered = []
        while True:
            number = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise DataError(f"broken row: {error}", where=f"{path}:{number}", fix="Is a quote missing?") from error
            numbered.append((number, row))
    numbered = _filled(numbered)
    if not numbered:
        raise DataError("no row of this table holds anything", where=path, fix="Is it the right file?")
    headed = _has_header([row for _, row in numbered[:200]])
    names = [name.strip() for name in numbered[0][1]] if headed else [str(n) for n in range(1, _usual_width(numbered) + 1)]
    names = [name or f"column {n}" for n, name in enumerate(names, 1)]
    _check_names(names, f"{path}:{numbered[0][0]}")
    records = []
    numbered = _fitted(path, numbered[headed:], len(names), separator, reporter)
    for number, row in numbered:
        if len(row) != len(names):
            first = "the first line has" if headed else "most lines have"
            fix = "Quote the field that has a separator in it" if separator != "\t" else "Take the tab out of its text"
            raise DataError(f"{plural(len(row), 'column')} where {first} {len(names)}", where=f"{path}:{number}",
                            fix="Write what is missing, or take the line out" if len(row) < len(names) else fix)  # fmt: skip
        records.append(Record(dict(zip(names, row, strict=True)), f"{path}:{number}"))
    return Records(records, names, "table", headed, [str(path)])


def _filled(rows: Sequence[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows without blank lines, and without rows of empty cells before the first and behind the last that holds something (spreadsheets
    leave such). One between others is an example: to leave it out would shift all answers behind it. A quoted nothing is a text."""
    several = any(len(row) > 1 for _, row in rows)
    rows = [(n, row) for n, row in rows if len(row) > several or any(map(str.strip, row))]
    if not several:
        return rows
    held = [place for place, (_, row) in enumerate(rows) if any(map(str.strip, row))]
    return rows[held[0] : held[-1] + 1] if held else []


def _check_names(names: Sequence[str], where: str) -> None:
    """Raises `DataError` where several columns have one name: only the last of them could be read."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{count} columns are called {name!r}", where=where, fix="Give each a name of its own")


def _fitted(
    path: Path, rows: list[tuple[int, list[str]]], width: int, separator: str, reporter: Reporter
) -> list[tuple[int, list[str]]]:
    """Rows without empty cells at their ends, and with what stands beyond the usual width put where it belongs, which is said.

    Columns that all lines have, and hardly any fills, are left out. Of two columns between tabs, the one with the texts takes in the tabs
    of its texts. What else is too wide stays so.
    """
    alike = len({len(row) for _, row in rows}) == 1
    found = []
    for number, row in rows:
        cells = [*row]
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        found.append((number, cells))
    wide = [number for number, row in found if len(row) > width]
    if not wide or len(wide) > 0.1 * len(rows):
        return found
    count, first = f"{len(wide):,} of {plural(len(rows), 'line')}", f"first: line {wide[0]}"
    if alike:
        reporter.warn(f"{path}: columns from {width + 1} on are empty in all but {count} ({first}), and left out")
        return [(number, row[:width]) for number, row in found]
    if separator != "\t" or width != 2:
        return found
    normal = [row for _, row in found if len(row) == width]
    last = len({row[-1] for row in normal}) >= len({row[0] for row in normal})
    reporter.warn(f"{path}: {count} {verb(len(wide), 'have')} tabs in the text ({first}), which stay there")
    joined = [(n, [row[0], "\t".join(row[1:])] if last else ["\t".join(row[:-1]), row[-1]]) for n, row in found]
    return [(n, new if len(row) > width else row) for (n, row), (_, new) in zip(found, joined, strict=True)]


def _usual_width(rows: list[tuple[int, list[str]]]) -> int:
    """Columns of a table without a header line: as many as most lines fill; where all are equally wide, more of them if more than a tenth
    of the lines fill more, and never one alone: what is empty elsewhere is then missing."""
    widths: Counter[int] = Counter()
    for _, row in rows:
        cells = [*row]
        while len(cells) > 1 and not cells[-1].strip():
            cells.pop()
        widths[len(cells)] += 1
    whole = {len(row) for _, row in rows}
    if len(whole) > 1:
        return widths.most_common(1)[0][0]
    needed = next(n for n in sorted(widths) if sum(count for width, count in widths.items() if width > n) <= 0.1 * len(rows))
    return max(needed, min(2, *whole))


def _separator(path: Path, text: str) -> str:
    first = text.split("\n", 1)[0]
    name = path.name.lower()
    if ".tsv" in name:
        return "\t"
    counts = {mark: first.count(mark) for mark in ("\t", ",", ";")}
    if ".csv" in name:
        return ";" if counts[";"] > counts[","] else "," if counts[","] or not counts["\t"] else "\t"
    best = max(counts, key=lambda mark: counts[mark])
    if not counts[best]:
        raise DataError("this looks like neither a table, nor JSON, nor tagged words", where=f"{path}:1",
                        fix="Give a .csv, .tsv, .jsonl or .parquet file, or words with tags one a line")  # fmt: skip
    return best


USUAL = frozenset(
    """
    text sentence content review text1 text2 text_a text_b sentence1 sentence2 sentence_a sentence_b premise hypothesis question question1
    question2 message body comment title tweet document
    query passage utterance label labels class category categories sentiment target intent gold_label stars rating y tag topic
    id idx index source translation summary article context answer prompt response
    """.split()
)


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: it has a usual name, or names that are not among the values below. A column of numbers,
    which pandas writes first, may have none."""
    first = [cell.strip() for cell in rows[0]]
    if any(cell.lower() in USUAL for cell in first):
        return True
    below = [{row[i].strip() for row in rows[1:] if i < len(row)} for i in range(len(first))]
    named = first[1:] if not first[0] and below[0] and all(map(str.isdigit, below[0])) else first
    if len(rows) < 2 or len(set(first)) < len(first) or not all(NAME.fullmatch(cell) and len(cell.split()) <= 3 for cell in named):
        return False
    return not any(cell in values for cell, values in zip(first, below, strict=True))


def lone_texts(records: Records, name: str, is_answer: Callable[[str], bool], reporter: Reporter) -> Records:
    """Records with one field, which holds texts (some may be numbers, or missing), with that field called `name`, whatever it was called;
    others as they are. The first line of such a table is a text too, unless it is a usual name or a single word as names are. Raises
    `DataError` where the field is called as the answers are."""
    called = records.fields[0] if len(records.fields) == 1 else name
    values = [record.values.get(called) for record in records.records]
    if called == name or not any(isinstance(value, str) for value in values) or any(map(no_text, values)):
        return records
    if records.headed and is_answer(called):
        raise DataError(f"the only column is {called!r}, which the model answers; it reads {name!r}", where=records.files[0],
                        fix="Give the texts")  # fmt: skip
    found = [Record({name: value}, record.where) for value, record in zip(values, records.records, strict=True)]
    named = called.lower() in USUAL or WORD.fullmatch(called)
    if records.kind == "table" and records.headed and not named:
        where = f"{records.files[0]}:1"
        reporter.warn(f"{where}: {called!r} is taken for a text, as the other lines of this column are; its name would be {name!r}")
        found.insert(0, Record({name: called}, where))
    return Records(found, [name], records.kind, records.headed, records.files)


# ── splits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def split_off(strata: Sequence[str], keys: Sequence[str], share: float, seed: int, *, least: int = 5) -> tuple[list[int], list[int]]:
    """Numbers of the examples that stay, and of those set aside: about `share` of each stratum, one at least where it has `least` or more.

    Examples with the same key (the same text) always land on the same side. A function of its arguments alone.
    """
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    by_stratum: dict[str, list[list[int]]] = {}
    for members in groups.values():
        by_stratum.setdefault(strata[members[0]], []).append(members)
    aside: list[int] = []
    for number, stratum in enumerate(sorted(by_stratum)):
        alike = by_stratum[stratum]
        order = np.random.Generator(np.random.Philox(key=[seed, number])).permutation(len(alike))
        wanted = round(share * len(alike)) or int(len(alike) >= least)
        aside += [index for place in order[:wanted] for index in alike[int(place)]]
    held = set(aside)
    return [index for index in range(len(keys)) if index not in held], sorted(aside)


def no_text(value: Any) -> str | None:
    """What a value of which no text can be made is called; None: it is one, or can be written as one."""
    return next((name for kind, name in NO_TEXTS.items() if isinstance(value, kind)), None)


def text_of(value: Any, what: str, where: str, fix: str | None = None) -> str:
    """A value as a text: numbers written out, nothing for None. Raises `DataError` for a list, an object or bytes; `what` should be one."""
    kind = no_text(value)
    if kind is not None:
        held = repr(value)
        raise DataError(f"{what} is {kind}: {held if len(held) <= 60 else held[:60] + '…'}", where=where, fix=fix)
    return "" if value is None else str(value)
