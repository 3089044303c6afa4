"""Parquet shards, written by a thread of their own while the next batch is being prepared."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wordmill.core.files import hash_file
from wordmill.corpus.document import CleanBatch
from wordmill.corpus.meter import StageTime

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "language", "metadata")])
ROW_GROUP_BYTES = 8_000_000
SHARD_BYTES = 512_000_000
PENDING = 2


class SplitWriter:
    """Writes the documents of one split as shards of row groups of a few MB; counts them.

    What goes wrong in the thread is raised by the next call.
    """

    def __init__(self, folder: Path, split: str, pool: Executor, stage: StageTime) -> None:
        self.folder, self.split, self.pool, self.stage = folder, split, pool, stage
        self.documents = self.bytes = self.characters = 0
        self.shards: list[dict[str, Any]] = []
        self._group: list[CleanBatch] = []
        self._group_bytes = 0
        self._pending: list[Future[None]] = []
        self._writer: Any = None
        self._shard_documents = self._shard_bytes = 0

    def add(self, batch: CleanBatch) -> None:
        """Take documents whose ids are filled in."""
        size = batch.bytes
        self.documents += len(batch.encoded)
        self.bytes += size
        self.characters += sum(batch.characters)
        self._group.append(batch)
        self._group_bytes += size
        if self._group_bytes >= ROW_GROUP_BYTES:
            self._hand_over()

    def close(self) -> None:
        """Write what is left and wait until all is on disk."""
        if self._group:
            self._hand_over()
        while self._pending:
            self._pending.pop(0).result()
        self.pool.submit(self._end_shard).result()

    def plain(self) -> dict[str, Any]:
        """The counts for corpus.json."""
        return {"documents": self.documents, "bytes": self.bytes, "characters": self.characters, "shards": self.shards}

    def _hand_over(self) -> None:
        group, self._group, self._group_bytes = self._group, [], 0
        while len(self._pending) >= PENDING:
            self._pending.pop(0).result()
        self._pending.append(self.pool.submit(self._write, group))

    def _write(self, group: list[CleanBatch]) -> None:
        with self.stage.timing():
            table = _table(group)
            size = sum(batch.bytes for batch in group)
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._path(),
                    SCHEMA,
                    compression="zstd",
                    compression_level=1,
                    use_dictionary=["source", "language"],
                    write_statistics=False,
                    write_page_checksum=True,
                )
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.stage.count(table.num_rows, size)
        self._shard_documents += table.num_rows
        self._shard_bytes += size
        if self._shard_bytes >= SHARD_BYTES:
            self._end_shard()

    def _path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.shards):05}.parquet"

    def _end_shard(self) -> None:
        if self._writer is None:
            return
        path = self._path()
        with self.stage.timing():
            self._writer.close()
            digest = hash_file(path)
        counts = {"documents": self._shard_documents, "bytes": self._shard_bytes}
        self.shards.append({"file": path.name, **counts, "file_bytes": path.stat().st_size, "sha256": digest})
        self._writer, self._shard_documents, self._shard_bytes = None, 0, 0


def _table(group: list[CleanBatch]) -> pa.Table:
    """An Arrow table of batches. The texts are UTF-8 already, so they become Arrow's buffers without a detour through Python strings."""
    encoded = [text for batch in group for text in batch.encoded]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    texts = pa.Array.from_buffers(pa.string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))])

    def column(name: str) -> pa.Array:
        return pa.array([value for batch in group for value in getattr(batch, name)], pa.string())

    return pa.Table.from_arrays([column("ids"), texts, column("sources"), column("languages"), column("metadata")], schema=SCHEMA)
