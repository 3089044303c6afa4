"""Tasks that write one text for another, from records with a column for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from wordmill.core.config import Config
from wordmill.core.errors import DataError, UsageError, nearest
from wordmill.core.progress import Reporter, plural, verb
from wordmill.tasks.columns import require_columns
from wordmill.tasks.doubts import tell_shared
from wordmill.tasks.examples import Record, Records, text_of
from wordmill.tasks.written import Written, WrittenConfig


class PairsConfig(WrittenConfig):
    """Settings of tasks that write one text for another."""

    source: str | None = None
    """The column with the text to read; None: found by looking."""
    target: str | None = None
    """The column with the text to write; None: found by looking."""


class Pairs(Written):
    """The base of `summarize` and `translate`: `spec["columns"]` holds "source" and "target"."""

    Settings: ClassVar[type[Config]] = PairsConfig
    sources: ClassVar[tuple[str, ...]] = ()
    """Usual names of the source's column, the likeliest first."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Usual names of the target's column."""
    keyed: ClassVar[str] = "source"
    lack: ClassVar[str] = "an empty source"
    settings: PairsConfig

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """Columns, and what looks wrong; see task.py."""
        train = splits["train"]
        asked = {"source": self.settings.source, "target": self.settings.target}
        for role, column in asked.items():
            if column and column not in train.fields:
                raise DataError(f"there is no column {column!r}; columns: {', '.join(train.fields)}", where=f"{train.files[0]}:1",
                                fix=f"Set it by task.{role}=NAME. {nearest(column, train.fields)}")  # fmt: skip
        source, target = self.find(train, asked["source"], asked["target"], reporter)
        if source is None or target is None or source == target:
            raise DataError(f"can't tell which column holds the source and which the target; columns: {', '.join(train.fields)}",
                            where=f"{train.files[0]}:1", fix=f"Say so: task.source=NAME "
                                                             f"task.target=NAME{self._no_names(train)}")  # fmt: skip
        self.spec = {"columns": {"source": source, "target": target}}
        others = [name for name in train.fields if name not in (source, target)]
        kind = "" if train.headed else " (there is no header line)"
        reporter.note(f"columns{kind}: source is {source!r}, target is {target!r}"
                      + (f"; not used: {', '.join(others[:8])}" if others else ""))  # fmt: skip
        seen: dict[str, str] = {}
        for name, records in splits.items():
            self.check(records, reporter)
            self._doubts(name, records, seen, reporter)

    def _no_names(self, train: Records) -> str:
        """What else may be wrong with a table whose first line was taken for the names of its columns: that line, and the first row with
        an empty cell."""
        if train.kind != "table" or not train.headed:
            return ""
        names = "source<tab>target" if train.files[0].endswith(".tsv") else "source,target"
        empty = next(((record.where, name) for record in train.records for name, cell in record.values.items() if not cell.strip()), None)
        lacks = f"; and {empty[0]} has nothing in its column {empty[1]!r}" if empty else ""
        return f"; if the first line is an example too, put a line of names above it: {names}{lacks}"

    def find(self, train: Records, source: str | None, target: str | None, reporter: Reporter) -> tuple[str | None, str | None]:
        """The columns, where they are not asked for: by usual names, else by what they hold."""
        lower = {name.lower(): name for name in reversed(train.fields)}
        named = [lower[usual] for usual in self.targets if usual in lower]
        sources = [lower[usual] for usual in self.sources if usual in lower]
        target = target or next((name for name in named if name != source and (source or set(sources) - {name})), None)
        return source or next((name for name in sources if name != target), None), target

    def texts_in(self, train: Records) -> list[str]:
        """Columns that hold texts (no numbers, nor a few words again and again), the longest on average first. What is empty speaks against
        none; in a table without names a column with nothing in it may be meant, so that what it lacks is said."""
        rows = [record.values for record in train.records[:1000]]
        found = {}
        for name in train.fields:
            values = [value for row in rows if (value := row.get(name)) is not None and value != ""]
            texts = all(isinstance(value, str) for value in values) and any(char.isalpha() for value in values for char in str(value))
            if not values and not train.headed:
                found[name] = 0.0
            elif texts and len(set(values)) > 0.2 * len(values):
                found[name] = sum(map(len, values)) / len(rows)
        return sorted(found, key=lambda name: -found[name])

    def check(self, records: Records, reporter: Reporter) -> None:
        """See task.py: every record has both texts, and the target says something."""
        require_columns(records, tuple(self.spec["columns"].values()))
        for record in records.records:
            self.source(record)
            self.target(record)

    def inputs(self, records: Records) -> list[Record]:
        """See task.py."""
        require_columns(records, (self.spec["columns"]["source"],))
        return records.records

    @property
    def alone(self) -> str | None:
        """See task.py."""
        return str(self.spec["columns"]["source"])

    def is_answer(self, name: str) -> bool:
        """See task.py."""
        return bool(name == self.spec["columns"]["target"])

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """A text, or a mapping with the source's column."""
        column = self.spec["columns"]["source"]
        if isinstance(value, str):
            return Record({column: value}, where)
        if not isinstance(value, Mapping) or column not in value:
            raise UsageError(f"an input is a text, or a mapping with {column!r}", where=where)
        return Record(dict(value), where)

    def lacks(self, record: Record) -> bool:
        """See task.py."""
        return not self.source(record).strip()

    def _doubts(self, name: str, records: Records, seen: dict[str, str], reporter: Reporter) -> None:
        """Name what may be wrong in a split, with counts; `seen`: the keys of the splits before it."""
        self.tell_lacking(records.records, name, reporter)
        same = sum(self.source(record).split() == self.target(record).split() for record in records.records)
        if same > 0.01 * len(records):
            reporter.warn(f"{same:,} of {plural(len(records), 'target')} of {name} {verb(same, 'repeat')} the source word for word")
        pairs = [(self.key(record), self.target(record)) for record in records.records]
        twice = len(pairs) - len(set(pairs))
        if twice > 0.01 * len(records):
            reporter.warn(f"{twice:,} of {plural(len(records), 'example')} of {name} {verb(twice, 'repeat')} another")
        tell_shared((key for key, _ in pairs), seen, name, self.keyed, reporter)

    def key(self, record: Record) -> str:
        """The source."""
        return " ".join(self.source(record).split())

    def texts(self, record: Record) -> list[str]:
        """Source and target."""
        return [self.source(record), self.target(record)]

    def source(self, record: Record) -> str:
        """The text to read. Raises `DataError` for what is no text."""
        return self._text(record, "source")

    def target(self, record: Record) -> str:
        """The text to write. Raises `DataError` where there is none."""
        text = self._text(record, "target")
        if not text.strip():
            raise DataError(f"this row has no {self.said} (column {self.spec['columns']['target']!r} is empty)", where=record.where,
                            fix="Give one, or take the row out")  # fmt: skip
        return text

    def _text(self, record: Record, role: str) -> str:
        value = record.values.get(self.spec["columns"][role])
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return "\n".join(value)
        return text_of(value, f"the {role}", record.where, "Write a text, or a list of texts")
