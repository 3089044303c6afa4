"""From one file to batches of texts. Text files are decoded and cut here; records.py reads JSON and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from wordmill.core.errors import DataError
from wordmill.core.progress import plural
from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.document import BATCH_CHARACTERS, BATCH_DOCUMENTS, RawBatch
from wordmill.corpus.encoding import UNDECODABLE, around_damage, byte_order_mark, decode_stream, detect, python_cookie
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.sources import BLOCK, TEXT_KINDS, BrokenFile, ByteStream, Source, opened
from wordmill.corpus.text import cut, lines_or_paragraphs, unify_line_ends

WHOLE_LIMIT = 256_000_000
"""Characters of what has to be in memory as a whole: a .json file, or a text file under split_text=file."""

_UNITS = {"file": "document", "paragraph": "paragraph"}
"""What is left out of a text file where bytes can't be decoded, by split_text; otherwise lines."""


@dataclass(frozen=True)
class Reading:
    """What the readers share: settings, the account of drops, and whom to tell about bytes read."""

    config: CorpusConfig
    ledger: Ledger
    progress: Callable[[int], None]


def read_source(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """The texts of one file.

    Raises `DataError` for a torn or broken file or record, unless skip_bad counts those.
    """
    from wordmill.corpus.records import read_json, read_json_lines, read_parquet, read_table

    readers = {"json": read_json, "jsonl": read_json_lines, "csv": read_table, "tsv": read_table, "parquet": read_parquet}
    try:
        if source.kind in TEXT_KINDS:
            yield from read_text(source, reading)
        else:
            yield from readers[source.kind](source, reading)
    except BrokenFile as error:
        reading.ledger.bad("bad_file", source.name, source.shown, str(error))


def read_text(source: Source, reading: Reading) -> Iterator[RawBatch]:
    """The documents in a text file, as split_text says."""
    config = reading.config
    with opened(source, reading.progress) as stream:
        blocks = unify_line_ends(decoded(stream, source, reading))
        if config.split_text in ("line", "paragraph"):
            yield from _units(blocks, source, config.split_text)
            return
        head = _take(blocks, config.whole_below if config.split_text == "auto" else WHOLE_LIMIT)
        following = next(blocks, "")
        text = "".join(head)
        if not following and (config.split_text == "file" or len(text.encode("utf-8", "surrogatepass")) < config.whole_below):
            if head and (config.split_text == "file" or UNDECODABLE not in text):
                yield RawBatch([text], [source.name], [""])
            elif head:
                yield from batched(around_damage(text), source, "part")
        elif config.split_text == "file":
            what = f"more than {WHOLE_LIMIT:,} characters are too much for one document"
            fix = "Cut it into several files; or let corpus build cut it (--split-text auto), and give the corpus"
            raise DataError(what, where=source.shown, fix=fix)
        else:
            pieces = cut(chain([text, following], blocks), config.piece_bytes)
            yield from batched((part for piece in pieces for part in around_damage(piece)), source, "piece")


def _units(blocks: Iterable[str], source: Source, unit: Literal["line", "paragraph"]) -> Iterator[RawBatch]:
    """Lines or paragraphs, numbered from 1. Blank lines separate documents: they are none, and not counted as dropped."""
    first = 1
    for texts in lines_or_paragraphs(blocks, unit):
        numbers = [number for number, text in enumerate(texts, first) if text and not text.isspace()]
        kept = texts if len(numbers) == len(texts) else [texts[number - first] for number in numbers]
        yield RawBatch(kept, [source.name] * len(kept), [f'{{"{unit}": {number}}}' for number in numbers])
        first += len(texts)


def _take(blocks: Iterator[str], characters: int) -> list[str]:
    """Blocks until they hold more than so many characters, or all."""
    taken, count = [], 0
    for block in blocks:
        taken.append(block)
        count += len(block)
        if count > characters:
            break
    return taken


def batched(texts: Iterable[str], source: Source, counted: str) -> Iterator[RawBatch]:
    """Texts of one file in batches, numbered from 1 in the metadata under the name `counted`."""
    batch, characters = RawBatch(), 0
    for number, text in enumerate(texts, 1):
        batch.texts.append(text)
        batch.metadata.append(f'{{"{counted}": {number}}}')
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch.texts) >= BATCH_DOCUMENTS:
            batch.sources = [source.name] * len(batch.texts)
            yield batch
            batch, characters = RawBatch(), 0
    batch.sources = [source.name] * len(batch.texts)
    yield batch


def decoded(stream: ByteStream, source: Source, reading: Reading) -> Iterator[str]:
    """The file's text in blocks, with `UNDECODABLE` where bytes can't be decoded (reported with their place).

    Yields nothing for a file that is not text, or in no encoding that can be told; such a file is a drop.
    """
    ledger = reading.ledger
    head = stream.read(BLOCK)
    encoding, start = byte_order_mark(head) or (None, 0)
    if len(head) <= start:
        ledger.drop("empty", source.name)
        return
    encoding = reading.config.encoding or encoding or (python_cookie(head) if source.kind == "py" else None)
    blocks: Iterator[bytes] = chain([head[start:]], stream.blocks())
    while encoding is None:
        # All encodings agree on ASCII, so the first block with anything else in it decides.
        block = next(blocks, None)
        if block is None:
            encoding = "utf-8"
            break
        guess = detect(block, whole=len(block) < BLOCK)
        if guess == "ascii":
            start += len(block)
            yield block.decode("ascii")
        elif guess is None or guess == "binary":
            reason = guess or "undecodable"
            unknown = "the encoding can't be told, left out; if you know it, name it: --encoding NAME (in pretrain corpus.encoding=NAME)"
            what = "not text, left out" if guess else unknown
            first = start + max(0, block.find(0))  # a NUL, where there is one, is what no text has
            ledger.fault(reason, f"{source.shown}, from byte {first if guess else start}", what)
            ledger.drop(reason, source.name)
            return
        else:
            encoding, blocks = guess, chain([block], blocks)
    ledger.encodings[encoding] += 1

    places: list[int] = []
    unit = _UNITS.get(reading.config.split_text, "line") if source.kind in TEXT_KINDS else "record"

    def report(offset: int) -> None:
        places.append(offset)
        ledger.note_fault("undecodable", f"{source.shown}, byte {offset}", f"not valid {encoding}; the {unit} around it is left out")

    yield from decode_stream(blocks, encoding, report, start=start)
    if places:
        others = f", and {plural(len(places) - 1, 'place')} more" if len(places) > 1 else ""
        around = f"the {unit}s around them are" if len(places) > 1 else f"the {unit} around it is"
        what = f"not valid {encoding}{others}; {around} left out"
        ledger.show_fault("undecodable", f"{source.shown}, byte {places[0]}", what)
