"""What is in a corpus: counts, lengths, languages, sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wordmill.core.progress import SILENT, Reporter, human_bytes, plural
from wordmill.corpus.folder import SPLITS, Corpus

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class SplitStats:
    """One split. `lengths` are quantiles of the characters of a document; `languages` and `sources` map a name to documents and bytes."""

    documents: int
    bytes: int
    characters: int
    lengths: dict[str, int]
    languages: dict[str, dict[str, int]]
    sources: dict[str, dict[str, int]]


@dataclass(frozen=True)
class CorpusStats:
    """Both splits, and what was dropped on the way."""

    splits: dict[str, SplitStats]
    dropped: dict[str, int]

    def plain(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def text(self, *, top: int = 10) -> str:
        """For people: the `top` largest sources of each split only."""
        lines = []
        for name, split in self.splits.items():
            lines.append(f"{name}: {plural(split.documents, 'document')}, {human_bytes(split.bytes)}, "
                         f"{plural(split.characters, 'character')}")
            if not split.documents:
                continue
            lines.append("  characters a document: " + ", ".join(f"{key} {value:,}" for key, value in split.lengths.items()))
            for title, table in (("languages", split.languages), ("sources", split.sources)):
                shown = list(table.items())[:top]
                more = f" and {len(table) - top:,} more" if len(table) > top else ""
                parts = [f"{key} {100 * value['bytes'] / max(1, split.bytes):.1f} % ({value['documents']:,})" for key, value in shown]
                lines.append(f"  {title}, share of bytes (documents): {', '.join(parts)}{more}")
        duplicates = self.dropped.get("duplicate", 0) + self.dropped.get("in_validation", 0)
        others = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if reason not in ("duplicate", "in_validation"))
        lines.append(f"duplicates taken out: {duplicates:,}" + (f"; dropped besides: {others}" if others else ""))
        return "\n".join(lines)


def corpus_stats(corpus: Corpus, *, reporter: Reporter = SILENT) -> CorpusStats:
    """Read a corpus once and count.

    Raises `DataError` naming a shard that can't be read.
    """
    total = sum(corpus.count(split) for split in SPLITS)
    with reporter.task("counting", total=total, unit="documents") as task:
        splits = {split: _split_stats(corpus, split, task) for split in SPLITS}
    return CorpusStats(splits, corpus.info["dropped"])


def _split_stats(corpus: Corpus, split: str, task: Any) -> SplitStats:
    import pyarrow.compute as pc

    lengths: list[Any] = []
    documents: dict[str, Counter[str]] = {"language": Counter(), "source": Counter()}
    sizes: dict[str, Counter[str]] = {"language": Counter(), "source": Counter()}
    for batch in corpus.batches(split, ["text", "source", "language"]):
        size = pc.binary_length(batch.column("text"))
        lengths.append(pc.utf8_length(batch.column("text")).to_numpy().astype(np.int32))
        for column in ("language", "source"):
            names = pc.fill_null(batch.column(column), "unknown").dictionary_encode()
            codes, known = names.indices.to_numpy(), names.dictionary.to_pylist()
            counts, weights = np.bincount(codes, minlength=len(known)), np.bincount(codes, weights=size.to_numpy(), minlength=len(known))
            documents[column].update(dict(zip(known, counts.tolist(), strict=True)))
            sizes[column].update({name: int(weight) for name, weight in zip(known, weights.tolist(), strict=True)})
        task.advance(batch.num_rows)
    every = np.concatenate(lengths) if lengths else np.zeros(0, np.int32)
    marks = np.quantile(every, QUANTILES, method="nearest").tolist() if len(every) else []
    names = ["shortest", *(f"{share:.0%}" for share in QUANTILES[1:-1]), "longest"]

    def table(column: str) -> dict[str, dict[str, int]]:
        return {name: {"documents": documents[column][name], "bytes": size} for name, size in sizes[column].most_common()}

    return SplitStats(
        documents=len(every),
        bytes=sum(sizes["source"].values()),
        characters=int(every.sum(dtype=np.int64)),
        lengths=dict(zip(names, map(int, marks), strict=False)),
        languages=table("language"),
        sources=table("source"),
    )
