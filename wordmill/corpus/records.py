"""JSON, JSON lines, CSV, TSV and Parquet: records, and the field that holds the text."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any, cast

from wordmill.core.errors import DataError, disk_errors
from wordmill.corpus.document import BATCH_CHARACTERS, BATCH_DOCUMENTS, RawBatch
from wordmill.corpus.read import WHOLE_LIMIT, Reading, decoded
from wordmill.corpus.sources import BrokenFile, Source, opened
from wordmill.corpus.text import unify_line_ends

USUAL_FIELDS = ("text", "content", "body", "document", "article", "passage", "story", "raw_content", "code", "sentence", "paragraphs")
LONGEST_LINE = 64_000_000
MOST_NAMES = 25
CHOOSE = "Choose with --field NAME, or go on without such records: --skip-bad"


class Collector:
    """Takes records of one file, finds the text in each, and makes batches. `counted` names the number kept as metadata."""

    def __init__(self, source: Source, reading: Reading, counted: str) -> None:
        self.source, self.reading, self.counted = source, reading, counted
        self.field: str | None = None
        self.batch, self.characters = RawBatch(), 0

    def bad(self, number: int, what: str, *, fix: str | None = None, text: str | None = None) -> None:
        """A record that can't be used."""
        self.reading.ledger.bad("bad_record", self.source.name, f"{self.source.shown}:{number}", what, fix=fix, text=text)

    def choose(self, names: Iterable[str], strings: Iterable[str]) -> str | None:
        """The field to take, given all names and those that hold text; None when there is no obvious one. Says which was taken."""
        wanted = self.reading.config.field
        if wanted is not None:
            return wanted
        names, strings = list(names), list(strings)
        lower = {name.lower(): name for name in reversed(names)}
        found = next((lower[usual] for usual in USUAL_FIELDS if usual in lower), None)
        if found is None and len(strings) == 1:
            found = strings[0]
        if found is not None:
            others = [name for name in names if name != found]
            also = f" (also there: {', '.join(others[:8])}{' …' if len(others) > 8 else ''})" if others else ""
            self.reading.ledger.took_field(f".{self.source.kind} files: the text is taken from the field {found!r}{also}")
        return found

    def add(self, record: Any, number: int) -> None:
        """One JSON record: an object, or a bare string."""
        if isinstance(record, str):
            self.put(record, number, {})
            return
        if not isinstance(record, dict):
            self.bad(number, f"expected an object or a string, found {type(record).__name__}")
            return
        if self.field is None:
            self.field = self.choose(record, [name for name, value in record.items() if isinstance(value, str)])
        if self.field is None or self.field not in record:
            self.bad(number, missing(self.field, record), fix=CHOOSE)
            return
        value = record[self.field]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = "\n".join(value)
        if value is not None and not isinstance(value, str):
            what = f"the field {self.field!r} holds {type(value).__name__}, not text; fields here: {', '.join(record)}"
            self.bad(number, what, fix=CHOOSE)
            return
        self.put(value or "", number, record)

    def put(self, text: str, number: int, record: Mapping[str, Any]) -> None:
        """One text, with the kept fields of its record."""
        keep = self.reading.config.keep_fields
        kept = {name: record[name] for name in keep if name in record}
        self.reading.ledger.kept_fields.update(kept)
        metadata = json.dumps({self.counted: number, **kept}, default=str) if kept else f'{{"{self.counted}": {number}}}'
        self.batch.texts.append(text)
        self.batch.metadata.append(metadata)
        self.characters += len(text)

    def put_all(self, texts: list[str], first: int) -> None:
        """The texts of consecutive records."""
        self.batch.texts += texts
        self.batch.metadata += [f'{{"{self.counted}": {number}}}' for number in range(first, first + len(texts))]
        self.characters += sum(map(len, texts))

    def ready(self, *, end: bool = False) -> Iterator[RawBatch]:
        """The batch when it is full, or at the end."""
        if end or self.characters >= BATCH_CHARACTERS or len(self.batch.texts) >= BATCH_DOCUMENTS:
            self.batch.sources = [self.source.name] * len(self.batch.texts)
            yield self.batch
            self.batch, self.characters = RawBatch(), 0


def missing(field: str | None, names: Iterable[str]) -> str:
    """What to say when the field is not there."""
    what = f"no field {field!r}" if field else "no field that is obviously the text"
    names = list(names)
    listed = ", ".join(map(repr, names[:MOST_NAMES])) + (" …" if len(names) > MOST_NAMES else "")
    return f"{what}; fields here: {listed or 'none'}"


def read_json_lines(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """A JSON value a line; blank lines are nothing."""
    with opened(source, reading.progress) as stream:
        yield from _json_lines(decoded(stream, source, reading), source, reading)


def _json_lines(blocks: Iterable[str], source: Source, reading: Reading) -> Iterator[RawBatch]:
    collector = Collector(source, reading, "line")
    for first, lines in line_groups(blocks):
        texts = _fast_texts(lines, collector)
        if texts is None:
            yield from _slow_lines(first, lines, collector)
        else:
            collector.put_all(texts, first)
        yield from collector.ready()
    yield from collector.ready(end=True)


def _fast_texts(lines: list[str | None], collector: Collector) -> list[str] | None:
    """The text of each line by Arrow's parser, two to three times as fast as Python's; None when any line needs a closer look.

    It reads one known field, and says nothing of use about faults: those are left to `_slow_lines`.
    """
    import pyarrow as pa
    import pyarrow.json as pj

    if collector.field is None or collector.reading.config.keep_fields or None in lines or "" in lines:
        return None
    options = pj.ParseOptions(explicit_schema=pa.schema([(collector.field, pa.string())]), unexpected_field_behavior="ignore")
    try:
        data = "\n".join(cast(list[str], lines)).encode()
        reader = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
        column = pj.read_json(pa.BufferReader(data), read_options=reader, parse_options=options).column(0)
    except (pa.ArrowException, UnicodeEncodeError):
        return None
    if column.null_count or len(column) != len(lines):
        return None
    return column.to_pylist()


def _slow_lines(first: int, lines: list[str | None], collector: Collector) -> Iterator[RawBatch]:
    for number, line in enumerate(lines, first):
        if line is None:
            collector.bad(number, f"a line of more than {LONGEST_LINE:,} characters")
            continue
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            collector.bad(number, f"broken JSON: {getattr(error, 'msg', error)}", text=line[:1000])
            continue
        collector.add(record, number)
        yield from collector.ready()


def numbered_lines(blocks: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """Lines with their numbers from 1."""
    for first, lines in line_groups(blocks):
        yield from enumerate(lines, first)


def line_groups(blocks: Iterable[str]) -> Iterator[tuple[int, list[str | None]]]:
    r"""Lines (ended by \n) by the block, with the number of the first; None for a line longer than `LONGEST_LINE`, never in memory."""
    number, rest, too_long = 1, "", False
    for block in blocks:
        first, *others = block.split("\n")
        rest = "" if too_long else rest + first
        too_long = too_long or len(rest) > LONGEST_LINE
        if not others:
            continue
        *whole, following = others
        yield number, [None if too_long else rest, *whole]
        number, rest, too_long = number + 1 + len(whole), following, False
    if rest or too_long:
        yield number, [None if too_long else rest]


def whole_text(blocks: Iterable[str], source: Source) -> str:
    """All of a JSON file. Raises `DataError` for one of more than `WHOLE_LIMIT` characters."""
    parts, size = [], 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size > WHOLE_LIMIT:
            raise DataError(
                f"a JSON file of more than {WHOLE_LIMIT:,} characters would take too much memory",
                where=source.shown,
                fix="Convert it to JSON lines (.jsonl: one record a line), which is read as a stream; with jq: jq -c '.[]' FILE",
            )
    return "".join(parts)


def read_json(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """A list of objects or strings, an object that holds one such list, or one object; also JSON lines under the wrong name."""
    with opened(source, reading.progress) as stream:
        blocks = decoded(stream, source, reading)
        head = next(blocks, "")
        if _is_json_lines(head):
            yield from _json_lines(chain([head], blocks), source, reading)
            return
        text = whole_text(chain([head], blocks), source)
    collector = Collector(source, reading, "record")
    if not text.strip():
        if text:
            reading.ledger.drop("empty", source.name)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reading.ledger.bad("bad_file", source.name, f"{source.shown}:{line}", f"broken JSON: {getattr(error, 'msg', error)}")
        return
    del text
    for number, record in enumerate(_records(value, reading.config.field), 1):
        collector.add(record, number)
        yield from collector.ready()
    yield from collector.ready(end=True)


def _is_json_lines(head: str) -> bool:
    """Whether the first line is a whole value and more follows."""
    first, _, rest = head.lstrip().partition("\n")
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict | str)
    except (ValueError, RecursionError):
        return False


def _records(value: Any, field: str | None) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and not ({*USUAL_FIELDS, field} & set(value)):
        lists = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict | str)]
        if len(lists) == 1:
            return lists[0]
    return [value]


def read_table(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """CSV (quoted as RFC 4180 says) or TSV (no quoting: a quote is a quote), with a header line unless the field is a number."""
    # A process-wide setting of the csv module; its default would refuse documents of more than 131,072 characters.
    csv.field_size_limit(LONGEST_LINE)
    collector = Collector(source, reading, "line")
    with opened(source, reading.progress) as stream:
        lines = _table_lines(unify_line_ends(decoded(stream, source, reading)), collector)
        rows = csv.reader(lines, strict=True) if source.kind == "csv" else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                collector.bad(number, f"broken row: {error}")
                continue
            if not row:
                continue
            if header is None:
                header = _header(row, reading.config.field)
                column = _column(header, collector)
                if not (reading.config.field or "").isdigit():
                    continue
            if len(row) != len(header):
                collector.bad(number, f"{len(row)} columns where the first line has {len(header)}", text="\t".join(row)[:1000])
                continue
            collector.put(row[column], number, dict(zip(header, row, strict=True)) if reading.config.keep_fields else {})
            yield from collector.ready()
    yield from collector.ready(end=True)


def _table_lines(blocks: Iterable[str], collector: Collector) -> Iterator[str]:
    for number, line in numbered_lines(blocks):
        if line is None:
            collector.bad(number, f"a line of more than {LONGEST_LINE:,} characters")
        yield f"{line or ''}\n"


def _header(row: list[str], field: str | None) -> list[str]:
    if field and field.isdigit():
        return [str(number) for number in range(1, len(row) + 1)]
    return [name.strip() for name in row]


def _column(header: list[str], collector: Collector) -> int:
    """The place of the text. A missing column concerns the whole file, so it is an error even under skip_bad."""
    field = collector.choose(header, [])
    if field is None or field not in header:
        fix = "Choose with --field NAME, or with --field NUMBER where there is no header line"
        raise DataError(missing(field, [name[:40] for name in header[:20]]), where=f"{collector.source.shown}:1", fix=fix)
    return header.index(field)


def read_parquet(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """A column of strings, or of lists of strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        file: Any = source.path
        if source.compression:
            file = stack.enter_context(tempfile.TemporaryFile())
            with opened(source, reading.progress) as stream, disk_errors(source.path, "decompressing this file"):
                for block in stream.blocks():
                    file.write(block)
            file.seek(0)
        try:
            table = stack.enter_context(pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True))
            yield from _parquet_rows(table, source, reading)
        except (pa.ArrowException, OSError) as error:
            raise BrokenFile(f"torn, or not a Parquet file: {' '.join(str(error).split())}") from error


def _parquet_rows(table: Any, source: Source, reading: Reading) -> Iterator[RawBatch]:
    import pyarrow as pa

    schema = table.schema_arrow
    collector = Collector(source, reading, "row")
    field = collector.choose(schema.names, [item.name for item in schema if _is_text(item.type)])
    if field is None or field not in schema.names:
        raise DataError(missing(field, schema.names), where=source.shown, fix="Choose with --field NAME")
    kind = schema.field(field).type
    if not _is_text(kind) and not (pa.types.is_list(kind) and _is_text(kind.value_type)):
        what = f"the column {field!r} holds {kind}, not text; columns here: {', '.join(schema.names)}"
        raise DataError(what, where=source.shown, fix="Choose with --field NAME")
    columns = [field, *(name for name in reading.config.keep_fields if name in schema.names and name != field)]
    sizes = [table.metadata.row_group(index).total_byte_size for index in range(table.num_row_groups)]
    rows = max(1, min(BATCH_DOCUMENTS, BATCH_CHARACTERS * table.metadata.num_rows // max(1, sum(sizes))))
    number = 0
    for batch in table.iter_batches(batch_size=rows, columns=columns):
        if not source.compression:
            reading.progress(source.size * batch.num_rows // max(1, table.metadata.num_rows))
        values = batch.column(field)
        rest = batch.select(columns[1:]).to_pylist() if len(columns) > 1 else [{}] * batch.num_rows
        for value, record in zip(_strings(values), rest, strict=True):
            number += 1
            collector.put("\n".join(value) if isinstance(value, list) else value or "", number, record)
        yield from collector.ready()
    yield from collector.ready(end=True)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _strings(values: Any) -> list[Any]:
    """Python values of a column; bytes that are not UTF-8 come as marked text, so that their document is dropped as undecodable."""
    import pyarrow as pa

    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        raw = values.cast(pa.large_binary(), safe=False).to_pylist()
        return [None if item is None else item.decode("utf-8", "surrogateescape") for item in raw]
