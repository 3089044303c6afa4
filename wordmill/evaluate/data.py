"""The texts to evaluate on: files and folders as they are, or a corpus folder's validation split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import SILENT, Reporter
from wordmill.corpus.config import CorpusConfig
from wordmill.corpus.document import regroup
from wordmill.corpus.filters import clean_and_filter
from wordmill.corpus.folder import Corpus
from wordmill.corpus.ledger import Ledger
from wordmill.corpus.read import Reading, read_source
from wordmill.corpus.sources import find_sources, is_built


class Texts:
    """An iterable of texts, each a document. `total_bytes` is about how many bytes there are; `dropped` counts, while it
    is read, what was no text. Text files are one document each, however long."""

    def __init__(
        self,
        data: Sequence[str | Path],
        *,
        split: str | None = None,
        field: str | None = None,
        encoding: str | None = None,
        skip_bad: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        """`data` are files and folders, or one corpus folder, of which `split` (validation by default) is read. `field`, `encoding` and
        `skip_bad` are those of `CorpusConfig`.

        Raises `DataError` for what is missing or can't be read, `UsageError` for a split of what is no corpus, and for what says how
        to read files where there is a corpus.
        """
        if not data:
            raise UsageError("there is nothing to evaluate on", fix="Name files, folders or a corpus folder")
        paths = [Path(item) for item in data]
        self.corpus = Corpus.open(paths[0]) if len(paths) == 1 and is_built(paths[0]) else None
        self.split, self.reporter = split or "validation", reporter
        self.config = CorpusConfig.of({"field": field, "encoding": encoding, "skip_bad": skip_bad, "split_text": "file"}, where="evaluate")
        if self.corpus is not None:
            asked = {"field": field, "encoding": encoding, "skip_bad": skip_bad}
            wrong = ", ".join(f"--{name.replace('_', '-')}" for name, value in asked.items() if value)
            if wrong:
                raise UsageError(f"{wrong} can't be honoured: this is a corpus folder, whose texts are read already", where=paths[0])
            self.total_bytes = self.corpus.bytes(self.split)
            if not self.total_bytes:
                raise DataError(f"the {self.split} split of this corpus is empty", where=paths[0])
            return
        if split is not None:
            raise UsageError("only a corpus folder has splits", where=paths[0], fix="Leave out --split")
        self.found = find_sources(paths)
        if self.found.skipped:
            reporter.note(f"left out: {self.found.skipped_text()}")
        self.total_bytes = sum(source.size for source in self.found.files)
        self.ledger = Ledger(reporter, skip_bad=skip_bad)

    @property
    def dropped(self) -> int:
        """Inputs that were no text, so far."""
        return 0 if self.corpus is not None else self.ledger.drops.total()

    def why(self) -> str:
        """`2 empty, 1 binary`."""
        return "" if self.corpus is not None else ", ".join(f"{count} {reason}" for reason, count in self.ledger.drops.most_common())

    def __iter__(self) -> Iterator[str]:
        if self.corpus is not None:
            yield from self.corpus.texts(self.split)
            return
        reading = Reading(self.config, self.ledger, lambda size: None)
        raw = (batch for source in self.found.files for batch in read_source(source, reading))
        for batch in regroup(raw):
            yield from (text.decode() for text in clean_and_filter(batch, self.config, self.ledger).encoded)
