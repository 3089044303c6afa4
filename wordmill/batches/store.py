"""Documents as token ids on disk: one flat, memory-mapped array a split, and where each document stands in it.

    tokens   [eos, d1 …, eos, d2 …, eos, …, eos]     uint16 where the vocabulary allows, else uint32; n_tokens + 1 of them
    offsets  int64 (n_docs + 1,)                      document i's inputs are tokens[offsets[i] : offsets[i + 1]], its targets one further
    bytes    int64 (n_docs,)                          UTF-8 bytes of each document's text

A document of n tokens is n + 1 pairs (input → target): it begins with eos as input and ends with eos as target.

Encoding is done once and kept under a key made of all that the ids depend on: text, tokenizer, settings and code. A store is written under
another name and renamed when it is whole, so that a kill leaves nothing that looks like one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as remember
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wordmill import tokenizer as tokenizer_package
from wordmill.core.errors import DataError, disk_errors
from wordmill.core.files import hash_values, read_json, write_json
from wordmill.core.progress import SILENT, Reporter, human_bytes, human_count, plural
from wordmill.tokenizer import Tokenizer
from wordmill.tokenizer.tokenizer import cores

Tokens = npt.NDArray[np.unsignedinteger[Any]]
Integers = npt.NDArray[np.int64]

GROUP_BYTES = 4_000_000
"""Text encoded at a time by one thread (characters): bounds the memory, and keeps threads busy."""


class CorpusLike(Protocol):
    """What is needed of a corpus (`wordmill.corpus.Corpus`)."""

    @property
    def hash(self) -> str:
        """Changes when any document or the split does."""

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of a split's text."""

    def text_batches(self, split: str) -> Iterator[list[str]]:
        """A split's texts in batches, in a fixed order."""


@dataclass(frozen=True)
class TokenStore:
    """One split, encoded; see the head of this file. Arrays are read from disk as they are used."""

    folder: Path
    tokens: Tokens
    offsets: Integers
    doc_bytes: Integers

    @property
    def n_tokens(self) -> int:
        """Targets, the closing eos of every document included."""
        return len(self.tokens) - 1

    @property
    def n_docs(self) -> int:
        """Documents."""
        return len(self.doc_bytes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return self.tokens.dtype

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Map a store that was written before. Raises `DataError` when it is missing, torn, or not one of ours."""
        index = read_json(folder / "index.json")
        try:
            split, n_docs, n_tokens = str(index["split"]), int(index["n_docs"]), int(index["n_tokens"])
            dtype = np.dtype({"uint16": np.uint16, "uint32": np.uint32}[index["dtype"]])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"not the index of a token store: {error!r}", where=folder / "index.json") from error
        arrays = {}
        for name, kind, length in (("tokens", dtype, n_tokens + 1), ("offsets", np.int64, n_docs + 1), ("bytes", np.int64, n_docs)):
            arrays[name] = _map(folder / f"{name}-{split}.bin", np.dtype(kind), length)
        if arrays["offsets"][0] != 0 or arrays["offsets"][-1] != n_tokens:
            raise DataError("the offsets don't fit the tokens", where=folder)
        return cls(folder, arrays["tokens"], arrays["offsets"], arrays["bytes"])

    def count(self, token: int) -> int:
        """How often a token occurs, counted some millions at a time."""
        size = 1 << 22
        return sum(int(np.count_nonzero(self.tokens[at : at + size] == token)) for at in range(0, len(self.tokens), size))

    def document(self, index: int) -> Tokens:
        """Ids of one document, without the eos on either side."""
        return self.tokens[self.offsets[index] + 1 : self.offsets[index + 1]]


def encode_corpus(
    corpus: CorpusLike,
    tokenizer: Tokenizer,
    cache: Path | None,
    *,
    splits: Sequence[str] = ("train", "validation"),
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, TokenStore]:
    """The splits of a corpus as token stores, from `cache` (None: `default_cache()`) where they are already there.

    The corpus is read as a stream and encoded by `threads` threads (None: as many as this process may use); memory doesn't grow with it.
    Raises `ModelError` when the tokenizer has no eos token, `DiskFullError` when there is no room.
    """
    cache = default_cache() if cache is None else Path(cache)
    eos = tokenizer.required("eos")
    stores = {}
    for split in splits:
        folder = cache / f"{split}-{cache_key(corpus, tokenizer, split)[:24]}"
        stores[split] = _kept(folder, reporter) or _encode(corpus, split, tokenizer, eos, folder, threads or cores(), reporter)
    return stores


def default_cache() -> Path:
    """Where token stores are kept when nobody says where: `$XDG_CACHE_HOME` or `~/.cache`, below it `wordmill/tokens`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wordmill" / "tokens"


def cache_key(corpus: CorpusLike, tokenizer: Tokenizer, split: str) -> str:
    """SHA-256 over all that the ids of a split depend on: text, tokenizer, settings and code."""
    return hash_values(corpus.hash, tokenizer.hash, {"split": split, "dtype": _dtype(tokenizer).name}, code_version())


@remember
def code_version() -> str:
    """SHA-256 over the code that makes ids: this file, wordmill.tokenizer, and the versions of the libraries behind it."""
    files = [Path(__file__), *sorted(Path(next(iter(tokenizer_package.__path__))).glob("*.py"))]
    libraries = [metadata.version(name) for name in ("tokenizers", "tiktoken")]
    return hash_values([file.read_text(encoding="utf-8") for file in files], libraries)


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def _map(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != length * dtype.itemsize:
        raise DataError(f"torn: {size} bytes where {length * dtype.itemsize} were written", where=path)
    # numpy can't map an empty file.
    return np.memmap(path, dtype, "r", shape=(length,)) if length else np.zeros(0, dtype)


def _kept(folder: Path, reporter: Reporter) -> TokenStore | None:
    """The store that is in `folder`, or None after removing what is torn."""
    if not folder.exists():
        return None
    try:
        return TokenStore.open(folder)
    except DataError as error:
        reporter.note(f"encoding again, for the stored tokens can't be used: {error.one_line()}")
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _encode(corpus: CorpusLike, split: str, tokenizer: Tokenizer, eos: int, folder: Path, threads: int, reporter: Reporter) -> TokenStore:
    with disk_errors(folder, f"encoding {split}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=f".{os.getpid()}.part", dir=folder.parent))
        try:
            _write(corpus, split, tokenizer, eos, part, threads, reporter)
            try:
                part.rename(folder)
            except OSError:
                # Another process has been quicker; what it wrote is the same. Anything else is a real error.
                if not (folder / "index.json").is_file():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return TokenStore.open(folder)


def _write(corpus: CorpusLike, split: str, tokenizer: Tokenizer, eos: int, part: Path, threads: int, reporter: Reporter) -> None:
    dtype, started = _dtype(tokenizer), time.monotonic()
    ends, sizes, total = [np.zeros(1, np.int64)], [], 0
    with (
        open(part / f"tokens-{split}.bin", "wb") as file,
        reporter.task(f"encoding {split}", total=corpus.bytes(split), unit="bytes") as task,
    ):
        file.write(np.array([eos], dtype).tobytes())
        for flat, lengths, text_bytes in _in_order(_groups(corpus.text_batches(split)), tokenizer, eos, dtype, threads):
            file.write(flat.tobytes())
            ends.append(total + np.cumsum(lengths, dtype=np.int64))
            sizes.append(text_bytes)
            total += len(flat)
            done = int(text_bytes.sum())
            task.advance(done, speed=f"{(task.done + done) / 1e6 / max(1e-9, time.monotonic() - started):.3g} MB/s")
        file.flush()
        os.fsync(file.fileno())
    offsets, doc_bytes = np.concatenate(ends), np.concatenate([np.zeros(0, np.int64), *sizes])
    # Not by numpy's tofile, whose errors don't tell what the system said.
    (part / f"offsets-{split}.bin").write_bytes(offsets.tobytes())
    (part / f"bytes-{split}.bin").write_bytes(doc_bytes.tobytes())
    write_json(part / "index.json", {"split": split, "n_docs": len(doc_bytes), "n_tokens": total, "dtype": dtype.name})
    size, seconds = int(doc_bytes.sum()), max(1e-9, time.monotonic() - started)
    reporter.note(
        f"{split}: {human_count(total)} tokens from {plural(len(doc_bytes), 'document')}, {size / max(1, total):.2f} bytes per token, "
        f"{human_bytes(size)} at {size / 1e6 / seconds:.3g} MB/s"
    )


def _groups(batches: Iterator[list[str]]) -> Iterator[list[str]]:
    """The documents in groups of about `GROUP_BYTES` characters."""
    group: list[str] = []
    size = 0
    for batch in batches:
        for text in batch:
            group.append(text)
            size += len(text)
            if size >= GROUP_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group


def _in_order(
    groups: Iterator[list[str]], tokenizer: Tokenizer, eos: int, dtype: np.dtype[Any], threads: int
) -> Iterator[tuple[Tokens, Integers, Integers]]:
    """Groups encoded by threads, given back in their order; no more than one group a thread waits."""
    waiting: deque[Future[tuple[Tokens, Integers, Integers]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for group in groups:
                waiting.append(pool.submit(_encode_group, group, tokenizer, eos, dtype))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode_group(texts: list[str], tokenizer: Tokenizer, eos: int, dtype: np.dtype[Any]) -> tuple[Tokens, Integers, Integers]:
    """Flat ids with an eos after each text, the length of each (eos included), and each text's UTF-8 bytes."""
    arrays = tokenizer.encode_arrays(texts, threads=1)
    lengths = np.array([len(ids) + 1 for ids in arrays], np.int64)
    flat = np.full(int(lengths.sum()), eos, dtype)
    start = 0
    for ids in arrays:
        flat[start : start + len(ids)] = ids
        start += len(ids) + 1
    return flat, lengths, np.array([len(text) if text.isascii() else len(text.encode()) for text in texts], np.int64)


def _sweep(cache: Path) -> None:
    """Remove what processes that are no longer there have left unfinished."""
    if os.name != "posix":
        return  # elsewhere there is no asking for a process without stopping it
    for part in cache.glob(".*.part"):
        owner = part.name.split(".")[-2]
        if not owner.isdigit() or int(owner) == os.getpid():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(part, ignore_errors=True)
        except OSError:
            continue  # it is there, and somebody else's
