"""A corpus folder, opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wordmill.core.errors import DataError, UsageError
from wordmill.core.files import hash_file, read_json
from wordmill.corpus.document import Document

INFO = "corpus.json"
FORMAT = 1
SPLITS = ("train", "validation")


class Corpus:
    """The documents of a corpus folder, read in batches. `info` is what corpus.json says."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder, self.info = folder, info

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> Corpus:
        """Open a folder that `build_corpus` wrote, checking that its shards are there and whole.

        Sizes and footers are checked always (each page's checksum when it is read); `verify` compares the hash of each file.
        Raises `DataError` when something is missing or torn, naming it.
        """
        folder = Path(folder)
        if not (folder / INFO).is_file():
            raise DataError(f"not a corpus folder (it has no {INFO})", where=folder, fix="Make one: wordmill corpus build SRC… -o FOLDER")
        info = read_json(folder / INFO)
        if info.get("format") != FORMAT:
            what = f"a corpus of format {info.get('format')!r}; this version reads {FORMAT}"
            raise DataError(what, where=folder / INFO, fix="Build it again")
        corpus = cls(folder, info)
        try:
            shards = [shard for split in SPLITS for shard in corpus._shards(split)]
            for shard in shards:
                corpus._check(shard, verify)
        except (KeyError, TypeError) as error:
            raise DataError(f"incomplete: {error}", where=folder / INFO, fix="Build the corpus again") from error
        return corpus

    @property
    def hash(self) -> str:
        """SHA-256 over the shards' hashes and the split rule: changes when any document or the split does."""
        return str(self.info["hash"])

    def count(self, split: str) -> int:
        """Documents in "train" or "validation"."""
        return int(self._split(split)["documents"])

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of all texts of a split."""
        return int(self._split(split)["bytes"])

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of a split, in the order in which they are stored."""
        for batch in self.batches(split):
            for row in batch.to_pylist():
                yield Document(row["id"], row["text"], row["source"], row["language"], json.loads(row["metadata"] or "{}"))

    def texts(self, split: str) -> Iterator[str]:
        """The texts of a split."""
        for texts in self.text_batches(split):
            yield from texts

    def text_batches(self, split: str) -> Iterator[list[str]]:
        """The texts of a split, some MB at a time."""
        for batch in self.batches(split, ["text"]):
            yield batch.column("text").to_pylist()

    def batches(self, split: str, columns: list[str] | None = None) -> Iterator[Any]:
        """Arrow record batches (columns id, text, source, language, metadata): one a row group, a few MB.

        Raises `DataError` naming the shard that can't be read.
        """
        import pyarrow.parquet as pq

        for shard in self._shards(split):
            path = self.folder / shard["file"]
            with _torn(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
                for index in range(file.num_row_groups):
                    yield from file.read_row_group(index, columns=columns).to_batches()

    def _split(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}", fix=f"Known: {', '.join(SPLITS)}")
        part: dict[str, Any] = self.info["splits"][split]
        return part

    def _shards(self, split: str) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = self._split(split)["shards"]
        return shards

    def _check(self, shard: dict[str, Any], verify: bool) -> None:
        import pyarrow.parquet as pq

        path = self.folder / shard["file"]
        fix = "Build the corpus again, or copy it again from where it is whole"
        if not path.is_file():
            raise DataError("this shard of the corpus is missing", where=path, fix=fix)
        size = path.stat().st_size
        if size != shard["file_bytes"]:
            raise DataError(f"this shard is torn: {size} bytes where {shard['file_bytes']} were written", where=path, fix=fix)
        with _torn(path), pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
        if rows != shard["documents"]:
            raise DataError(f"this shard holds {rows} documents, not the {shard['documents']} that were written", where=path, fix=fix)
        if verify and hash_file(path) != shard["sha256"]:
            raise DataError("this shard is not what was written: its hash differs", where=path, fix=fix)


@contextmanager
def _torn(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = f"this shard can't be read: {' '.join(str(error).split())}"
        raise DataError(what, where=path, fix="Build the corpus again, or copy it again from where it is whole") from error
