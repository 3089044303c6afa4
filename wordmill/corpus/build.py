"""`build_corpus`: the stages put together, and the folder that appears only when all went well."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wordmill.core.errors import DataError, UsageError, disk_errors
from wordmill.core.files import hash_file, hash_values, new_folder, write_json
from wordmill.core.lineage import now, versions
from wordmill.core.progress import SILENT, Reporter, human_bytes, human_count, plural
from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.dedupe import Keys, SeenSet, digests
from wordmill.corpus.document import CleanBatch, RawBatch, regroup
from wordmill.corpus.filters import clean_and_filter
from wordmill.corpus.folder import FORMAT, INFO, Corpus
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.meter import Meter
from wordmill.corpus.read import Reading, read_source
from wordmill.corpus.sources import Found, Source, find_sources
from wordmill.corpus.split import for_validation, mix
from wordmill.corpus.text import cut
from wordmill.corpus.write import SplitWriter

FEW_DOCUMENTS = 20
"""With fewer documents than this, they are cut into pieces, so that the split has something to choose from."""
SMALLEST_PIECE = 200
EXPECTED_VALIDATION = 20
"""As long as fewer validation documents than this are to be expected, the split takes an exact share instead of trusting to chance."""
HELD_BYTES = 128_000_000


def build_corpus(
    sources: Sequence[str | Path],
    out: str | Path,
    config: CorpusConfig | None = None,
    *,
    validation: Sequence[str | Path] = (),
    rejects: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Corpus:
    """Read files and folders, clean, filter, deduplicate and split them, and write the corpus folder `out`.

    Documents of the files in `validation`, when there are any, are the validation split, and what equals one of them is dropped
    from training. `rejects` is a JSON lines file for what was dropped. Memory stays below 1 GB for inputs of many GB.

    Raises `DataError` for what can't be read or is too little, `UsageError` when `out` exists, `DiskFullError`. On any error, and on
    Ctrl-C, no folder is left.
    """
    config, out = config or CorpusConfig(), Path(out)
    found = find_sources(sources)
    found_validation = find_sources(validation) if validation else None
    with _folder_if_done(out) as folder, ExitStack() as stack, disk_errors(out, "writing the corpus"):
        reject_file = stack.enter_context(_file_if_done(Path(rejects))) if rejects else None
        pool = stack.enter_context(_pool())
        ledger = Ledger(reporter, skip_bad=config.skip_bad, rejects=reject_file)
        builder = _Builder(folder, config, ledger, pool, reporter)
        started = time.perf_counter()
        if found_validation is not None:
            builder.run(found_validation, "validation")
        builder.run(found, None if found_validation is None and config.validation else "train")
        builder.finish()
        info = builder.info(found, found_validation, time.perf_counter() - started)
        write_json(folder / INFO, info)
    return Corpus.open(out)


class _Builder:
    """The state of one build: what was seen, what is held back, and the two writers."""

    def __init__(self, folder: Path, config: CorpusConfig, ledger: Ledger, pool: ThreadPoolExecutor, reporter: Reporter) -> None:
        self.config, self.ledger, self.pool, self.reporter = config, ledger, pool, reporter
        self.meter = Meter()
        for stage in ("read", "clean", "dedupe", "write"):
            self.meter[stage]
        self.writers = {split: SplitWriter(folder, split, pool, self.meter["write"]) for split in ("train", "validation")}
        self.seen, self.in_validation = SeenSet(), SeenSet()
        self.hashes: list[tuple[Source, Future[str]]] = []
        # The first documents wait here, until there are enough of them to be split by hash; None when nothing is to wait.
        self.held: list[tuple[CleanBatch, Keys]] | None = []
        self.held_documents = self.held_bytes = 0
        self.read_bytes = 0
        self.split_rule: dict[str, Any] = {}

    def run(self, found: Found, split: str | None) -> None:
        """Put files through all stages, into `split`, or into the split that each document's hash says (None)."""
        if found.skipped:
            self.reporter.note(f"left out: {found.skipped_text()}")
        if split is not None:
            self.held = None
        read, clean, dedupe = self.meter["read"], self.meter["clean"], self.meter["dedupe"]
        sizes = sum(source.size for source in found.files)
        with self.reporter.task(f"reading {plural(len(found.files), 'file')}", total=sizes, unit="B") as task:
            for raw in read.around(regroup(self._read(found, task.advance))):
                read.count(len(raw.texts), sum(map(len, raw.texts)))
                with clean.timing():
                    batch = clean_and_filter(raw, self.config, self.ledger)
                clean.count(len(batch.encoded), batch.bytes)
                with dedupe.timing():
                    batch, keys = self._deduplicate(batch, split)
                dedupe.count(len(batch.encoded), batch.bytes)
                self._place(batch, keys, split)
                task.advance(0, documents=human_count(clean.documents))

    def _read(self, found: Found, advance: Any) -> Iterator[RawBatch]:
        def progress(size: int) -> None:
            self.read_bytes += size
            advance(size)

        reading = Reading(self.config, self.ledger, progress)
        for source in found.files:
            self.hashes.append((source, self.pool.submit(hash_file, source.path)))
            yield from read_source(source, reading)

    def _deduplicate(self, batch: CleanBatch, split: str | None) -> tuple[CleanBatch, Keys]:
        """The documents whose text was not seen before, with their ids, and their keys for splitting."""
        batch.ids, keys, split_keys = digests(batch.encoded)
        if split == "validation":
            fresh = self.in_validation.add(keys)
            reasons = np.where(fresh, "", "duplicate")
        else:
            held_out = self.in_validation.contains(keys)
            fresh = self.seen.add(keys) & ~held_out
            reasons = np.where(held_out, "in_validation", np.where(fresh, "", "duplicate"))
        if not fresh.all():
            for row in np.flatnonzero(~fresh).tolist():
                text = batch.encoded[row].decode() if self.ledger.rejects else None
                self.ledger.drop(str(reasons[row]), batch.sources[row], metadata=batch.metadata[row], text=text)
            batch = batch.take(np.flatnonzero(fresh).tolist())
        return batch, split_keys[fresh]

    def _place(self, batch: CleanBatch, keys: Keys, split: str | None) -> None:
        """Write a batch where it belongs, or hold it back while it's open how to split."""
        if split is not None:
            self.writers[split].add(batch)
        elif self.held is None:
            self._write(batch, for_validation(keys, self.config.validation, self.config.seed))
        else:
            self.held.append((batch, keys))
            self.held_documents += len(batch.encoded)
            self.held_bytes += batch.bytes
            enough = self.held_documents * self.config.validation >= EXPECTED_VALIDATION and self.held_documents >= FEW_DOCUMENTS
            if enough or (self.held_bytes > HELD_BYTES and self.held_documents >= FEW_DOCUMENTS):
                self._release()

    def _release(self) -> None:
        """Write what was held back, by hash, as everything that follows."""
        held, self.held = self.held or [], None
        share, seed = self.config.validation, self.config.seed
        lowest = min(mix(keys, seed).min() for _, keys in held if len(keys))
        for batch, keys in held:
            # Should chance leave none of them for validation (few huge documents), the one with the lowest hash goes there.
            self._write(batch, for_validation(keys, share, seed) | (mix(keys, seed) == lowest))
        self.split_rule = {"rule": "hash", "share": share, "seed": seed}

    def _write(self, batch: CleanBatch, validation: Any) -> None:
        for split, rows in (("train", ~validation), ("validation", validation)):
            if rows.all():
                self.writers[split].add(batch)
            elif rows.any():
                self.writers[split].add(batch.take(np.flatnonzero(rows).tolist()))

    def finish(self) -> None:
        """Split what is still held back, and close the shards. Raises `DataError` when there is too little."""
        if self.held is not None:
            self._split_few()
        for writer in self.writers.values():
            writer.close()
        train, validation = self.writers["train"], self.writers["validation"]
        if self.split_rule.get("rule") is None:
            given = validation.documents > 0
            self.split_rule = {"rule": "given" if given else "none", "seed": self.config.seed}
        if not train.documents:
            raise DataError(f"nothing is left to train on{self._why()}", fix="At least one document with text is needed")
        never = [name for name in self.config.keep_fields if name not in self.ledger.kept_fields]
        if never:
            self.reporter.warn(f"to be kept, and in no record: {', '.join(map(repr, never))}")

    def _split_few(self) -> None:
        """A small corpus: cut the documents if they are few, and take an exact share of those with the lowest hashes."""
        batches = [batch for batch, _ in self.held or []]
        if self.held_documents < FEW_DOCUMENTS:
            batches = self._recut(batches)
        keys = [digests(batch.encoded)[2] for batch in batches]
        ranks = np.sort(np.concatenate([mix(key, self.config.seed) for key in keys])) if keys else np.zeros(0, np.uint64)
        count = len(ranks)
        if count < 2:
            have = f"{plural(count, 'document')} with {self.held_bytes} bytes of text{self._why()}"
            need = f"At least 2 documents are needed, or one of more than {2 * SMALLEST_PIECE} bytes, which is cut"
            if self.held_bytes > 2 * SMALLEST_PIECE:
                need = "Whatever it is cut into is the same text again: different texts are needed"
            raise DataError(f"too little for a training and a validation split: {have}", fix=f"{need}; or name validation files")
        chosen = min(max(1, round(count * self.config.validation)), count - 1)
        for batch, key in zip(batches, keys, strict=True):
            self._write(batch, mix(key, self.config.seed) <= ranks[chosen - 1])
        self.split_rule = {"rule": "lowest hashes", "share": self.config.validation, "documents": chosen, "seed": self.config.seed}

    def _recut(self, batches: list[CleanBatch]) -> list[CleanBatch]:
        """Few documents, cut into pieces."""
        size = min(self.config.piece_bytes, max(SMALLEST_PIECE, self.held_bytes // (2 * FEW_DOCUMENTS)))
        raw = RawBatch()
        for batch in batches:
            for text, source, metadata in zip(batch.encoded, batch.sources, batch.metadata, strict=True):
                for number, piece in enumerate(cut([text.decode()], size), 1):
                    raw.texts.append(piece)
                    raw.sources.append(source)
                    start = metadata[:-1] + ", " if metadata else "{"
                    raw.metadata.append(f'{start}"part": {number}}}')
        if len(raw.texts) > self.held_documents:
            count = plural(self.held_documents, "document")
            self.reporter.note(f"{count} only: cut into {len(raw.texts)} pieces of about {size} bytes, for the split to choose from")
        self.seen = SeenSet()
        return [self._deduplicate(clean_and_filter(raw, self.config, self.ledger), "train")[0]]

    def _why(self) -> str:
        drops = ", ".join(f"{count} {reason}" for reason, count in self.ledger.drops.most_common())
        return f" (dropped: {drops})" if drops else ""

    def info(self, found: Found, found_validation: Found | None, seconds: float) -> dict[str, Any]:
        """What corpus.json says; tells the reporter the main of it."""
        shards = {split: writer.plain() for split, writer in self.writers.items()}
        counts = [(shard["file"], shard["sha256"]) for split in shards.values() for shard in split["shards"]]
        total = self.meter["all"]
        total.seconds, total.documents, total.bytes = seconds, self.meter["read"].documents, self.read_bytes
        self._report(found_validation)
        sources = [
            {"name": item.name, "path": item.shown, "bytes": item.size, "sha256": future.result()} for item, future in self.hashes
        ]
        skipped = found.skipped + (found_validation.skipped if found_validation else type(found.skipped)())
        return {
            "format": FORMAT,
            "hash": hash_values(counts, self.split_rule),
            "written": now(),
            "versions": versions("pyarrow"),
            "splits": shards,
            "split_rule": self.split_rule,
            **self.ledger.plain(),
            "skipped_files": dict(sorted(skipped.items())),
            "settings": self.config.plain(),
            "throughput": self.meter.plain(),
            "sources": sources,
        }

    def _report(self, found_validation: Found | None) -> None:
        note = self.reporter.note
        for split, writer in self.writers.items():
            note(f"{split}: {plural(writer.documents, 'document')}, {human_bytes(writer.bytes)}")
        self.ledger.told()
        if self.ledger.encodings.keys() - {"utf-8"}:
            note("encodings: " + ", ".join(f"{name} ({plural(count, 'file')})" for name, count in self.ledger.encodings.most_common()))
        for name, stage in self.meter.stages.items():
            note(f"{name + ':':8} {stage.line()}" + (f" ({stage.seconds:.1f} s)" if name == "all" else ""))


@contextmanager
def _folder_if_done(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out` that takes its place when all went well, and vanishes otherwise."""
    existed = out.exists()
    new_folder(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        temporary.mkdir()
        yield temporary
        try:
            os.replace(temporary, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise UsageError("another process has filled this folder meanwhile", where=out, fix="Name another folder with -o") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not existed and not any(out.iterdir()):
            out.rmdir()
        raise


@contextmanager
def _file_if_done(path: Path) -> Iterator[Any]:
    """A text file that appears when all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path, "writing the rejects"):
        try:
            with open(temporary, "w", encoding="utf-8") as handle:
                yield handle
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """One thread for writing and hashing; what waits is forgotten when something goes wrong."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="corpus")
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
