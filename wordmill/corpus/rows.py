"""Whole records of JSON, JSON lines, CSV, TSV and Parquet, each with its place in the file; compressed or not.

records.py makes texts of records and is quick at it; this is for data of which every field matters (conversations).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from wordmill.core.errors import DataError
from wordmill.corpus.read import Reading, decoded
from wordmill.corpus.records import LONGEST_LINE, numbered_lines, whole_text
from wordmill.corpus.sources import TEXT_KINDS, BrokenFile, Source, opened
from wordmill.corpus.text import unify_line_ends

_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Row:
    """One record as it stands in its file."""

    values: dict[str, Any]
    """Its fields by name."""
    where: str
    """FILE:LINE (of a list in JSON with the record's number, of Parquet FILE:ROW), for messages."""


def read_rows(source: Source, reading: Reading) -> Iterator[Row]:
    """The records of one file, in order.

    Raises `DataError` for a torn or broken file or record, unless skip_bad counts those, and for a kind of file that holds no records.
    """
    if source.kind in TEXT_KINDS:
        raise DataError("a text file holds no records", where=source.path, fix="Give a .jsonl, .json, .csv, .tsv or .parquet file")
    readers = {"json": _json, "jsonl": _json_lines, "csv": _table, "tsv": _table, "parquet": _parquet}
    try:
        yield from readers[source.kind](source, reading)
    except BrokenFile as error:
        reading.ledger.bad("bad_file", source.name, str(source.path), str(error))


def _bad(source: Source, reading: Reading, number: int | str, what: str) -> None:
    reading.ledger.bad("bad_record", source.name, f"{source.path}:{number}", what)


def _json_lines(source: Source, reading: Reading) -> Iterator[Row]:
    with opened(source, reading.progress) as stream:
        yield from _lines(decoded(stream, source, reading), source, reading)


def _lines(blocks: Iterable[str], source: Source, reading: Reading) -> Iterator[Row]:
    for number, line in numbered_lines(blocks):
        if line is None:
            _bad(source, reading, number, f"a line of more than {LONGEST_LINE:,} characters")
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                _bad(source, reading, number, f"broken JSON: {getattr(error, 'msg', error)}")
                continue
            yield from _row(value, source, reading, number)


def _row(value: Any, source: Source, reading: Reading, number: int | str) -> Iterator[Row]:
    if isinstance(value, dict):
        yield Row(value, f"{source.path}:{number}")
    else:
        _bad(source, reading, number, f"expected an object, found {type(value).__name__}")


def _json(source: Source, reading: Reading) -> Iterator[Row]:
    """A list of objects, an object that holds one such list, or one object after the other."""
    with opened(source, reading.progress) as stream:
        text = whole_text(decoded(stream, source, reading), source)
    try:
        for count, (value, line, listed) in enumerate(json_values(text), 1):
            yield from _row(value, source, reading, f"{line}, record {count}" if listed else line)
    except (ValueError, RecursionError) as error:
        number = getattr(error, "lineno", 1)
        what = f"broken JSON: {getattr(error, 'msg', error)}"
        reading.ledger.bad("bad_file", source.name, f"{source.path}:{number}", what)


def json_values(text: str) -> Iterator[tuple[Any, int, bool]]:
    """The values in a JSON text, each with the line on which it starts, and whether it stands in a list: those of a list, or of the one
    list that an object holds, or one value after the other. Raises ValueError, with `lineno`, where it is broken."""
    scan = json.JSONDecoder().raw_decode
    at, line = _skip(text, 0, 1)
    while at < len(text):
        if text[at] == "[":
            at, line = yield from _items(text, at, line)
        else:
            value, end = scan(text, at)
            inner = _only_list(value)
            if inner is None:
                yield value, line, False
            else:
                yield from _held(text, at, line, inner, value[inner])
            line, at = line + text.count("\n", at, end), end
        at, line = _skip(text, at, line)


def _items(text: str, at: int, line: int) -> Generator[tuple[Any, int, bool], None, tuple[int, int]]:
    """The items of the list at `at`; returns where it ends."""
    at, line = _skip(text, at + 1, line)
    while text[at : at + 1] != "]":
        value, end = json.JSONDecoder().raw_decode(text, at)
        yield value, line, True
        after, line_after = _skip(text, end, line + text.count("\n", at, end))
        if text[after : after + 1] == ",":
            at, line = _skip(text, after + 1, line_after)
        elif text[after : after + 1] == "]":
            at, line = after, line_after
        else:
            raise json.JSONDecodeError("Expecting ',' or ']'", text, after)
    return at + 1, line


def _held(text: str, at: int, line: int, name: str, items: list[Any]) -> Iterator[tuple[Any, int, bool]]:
    """The items of a list that an object at `at` holds under a name, each with its line (the object's, where the list can't be told)."""
    place = text.find("[", text.find(json.dumps(name, ensure_ascii=False), at))
    found = list(_items(text, place, line + text.count("\n", at, place)))
    yield from found if [item for item, *_ in found] == items else ((item, line, True) for item in items)


def _only_list(value: Any) -> str | None:
    """The name of the one list of objects in an object that is no record itself."""
    if not isinstance(value, dict) or any(isinstance(item, str) for item in value.values()):
        return None
    lists = [name for name, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    held = value[lists[0]][0] if len(lists) == 1 else {}
    return lists[0] if held and not {"role", "from"} & set(held) else None


def _skip(text: str, at: int, line: int) -> tuple[int, int]:
    """Past white space."""
    start = at
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at, line + text.count("\n", start, at)


def _table(source: Source, reading: Reading) -> Iterator[Row]:
    """Rows under a header line, quoted as RFC 4180 says; in .tsv a quote is a quote."""
    csv.field_size_limit(LONGEST_LINE)
    with opened(source, reading.progress) as stream:
        lines = _table_lines(unify_line_ends(decoded(stream, source, reading)), source, reading)
        rows = csv.reader(lines, strict=True) if source.kind == "csv" else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                _bad(source, reading, number, f"broken row: {error}")
                continue
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                _bad(source, reading, number, f"{len(row)} columns where the first line has {len(header)}")
            else:
                yield Row(dict(zip(header, row, strict=True)), f"{source.path}:{number}")


def _table_lines(blocks: Iterable[str], source: Source, reading: Reading) -> Iterator[str]:
    for number, line in numbered_lines(blocks):
        if line is None:
            _bad(source, reading, number, f"a line of more than {LONGEST_LINE:,} characters")
        yield f"{line or ''}\n"


def _parquet(source: Source, reading: Reading) -> Iterator[Row]:
    import tempfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as plain:
        file: Any = source.path
        if source.compression:
            with opened(source, reading.progress) as stream:
                for block in stream.blocks():
                    plain.write(block)
            plain.seek(0)
            file = plain
        try:
            with pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as table:
                number = 0
                for batch in table.iter_batches(batch_size=1000):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(values, f"{source.path}:{number}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BrokenFile(f"torn, or not a Parquet file: {' '.join(str(error).split())}") from error
