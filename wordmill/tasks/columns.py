"""Which column of a table holds what, by looking at names and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wordmill.core.errors import DataError, nearest
from wordmill.core.progress import Reporter
from wordmill.tasks.examples import Records

PAIRS = (
    ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"), ("text1", "text2"), ("text_1", "text_2"),
    ("text_a", "text_b"), ("premise", "hypothesis"), ("question1", "question2"), ("s1", "s2"), ("query", "passage"),
    ("question", "sentence"), ("question", "passage"),
)  # fmt: skip
"""What the columns of two texts that are judged together are usually called, the likeliest first."""
TEXTS = ("text", "sentence", "content", "review", "text_a", "text1", "text_1", "sentence1", "sentence_1", "sentence_a", "s1", "premise",
         "question1", "message", "body", "comment", "tweet", "document", "utterance", "query", "title", "question")  # fmt: skip
"""What the column of a text is usually called."""
LABELS = ("label", "labels", "class", "category", "categories", "sentiment", "target", "intent", "gold_label", "stars", "rating", "topic",
          "tag", "y")  # fmt: skip

SAME_NAMES = "Call the columns of all files as those that the model learns from are called"
"""What to do where a file lacks a column that the model knows."""


def find_columns(records: Records, asked: Mapping[str, str | None], reporter: Reporter) -> dict[str, str]:
    """The columns of `text`, `label` and, where there is one, `pair`: those asked for, else by usual names, else by what they hold.

    Says what was taken for what. Raises `DataError` for a column that isn't there, or when nothing tells.
    """
    names, where = records.fields, records.files[0]
    for role, column in asked.items():
        if column and column not in names:
            raise DataError(f"there is no column {column!r}; columns: {', '.join(names)}", where=f"{where}:1",
                            fix=f"Set it by task.{role}=NAME. {nearest(column, names)}")  # fmt: skip
    lower = {name.lower(): name for name in reversed(names)}
    label = asked.get("label") or next((lower[usual] for usual in LABELS if usual in lower), None)
    text, pair = _texts({name: column for name, column in lower.items() if column != label}, asked.get("text"), asked.get("pair"))
    if label is None or text is None:
        label, text = _by_content(records, label, text, pair)
    if label is None or text is None:
        lacking = " or ".join(name for name, found in (("the text", text), ("the label", label)) if found is None)
        raise DataError(f"can't tell which column holds {lacking}; columns: {', '.join(names)}", where=f"{where}:1",
                        fix="Say so: task.text=NAME task.label=NAME")  # fmt: skip
    for role, column in (("text", text), ("pair", pair)):
        if column == label or (role == "pair" and column == text):
            other = "label" if column == label else "text"
            raise DataError(f"{role} and {other} can't both be the column {column!r}", where=where)
    found = {"text": text, **({"pair": pair} if pair else {}), "label": label}
    others = [name for name in names if name not in found.values()]
    kind = "" if records.headed else " (there is no header line)"
    reporter.note(f"columns{kind}: " + ", ".join(f"{role} is {column!r}" for role, column in found.items())
                  + (f"; not used: {', '.join(others[:8])}" if others else ""))  # fmt: skip
    return found


def _texts(lower: Mapping[str, str], text: str | None, pair: str | None) -> tuple[str | None, str | None]:
    """The columns of the text and of the second text, those asked for first, then a usual pair, then a usual name of one text; `lower`: the
    columns that may be, by their names in small letters. A `pair` of "" stays: there is no second text."""
    for first, second in () if pair == "" else PAIRS:
        both = lower.get(first), lower.get(second)
        if None not in both and text in (None, both[0]) and pair in (None, both[1]):
            return both
    return text or next((lower[usual] for usual in TEXTS if usual in lower and lower[usual] != pair), None), pair


def _by_content(records: Records, label: str | None, text: str | None, pair: str | None) -> tuple[str | None, str | None]:
    """The longest values are the text; few different short ones are labels."""
    rows = [record.values for record in records.records[:2000]]
    length, distinct = {}, {}
    for name in records.fields:
        values = [str(row.get(name) if row.get(name) is not None else "") for row in rows]
        length[name] = sum(map(len, values)) / len(values)
        distinct[name] = len(set(values))
    free = [name for name in records.fields if name not in (label, text, pair)]
    if text is None and free:
        best = max(free, key=lambda name: length[name])
        if isinstance(rows[0].get(best), str) and length[best] > 3:
            text = best
            free.remove(best)
    if label is None:
        few = [name for name in free if 1 <= distinct[name] <= max(2, min(200, len(rows) // 2)) and length[name] <= 40]
        label = min(few, key=lambda name: distinct[name] if distinct[name] > 1 else 10**6) if few else None
    return label, text


def require_columns(records: Records, columns: Iterable[str]) -> None:
    """Raises `DataError` for records without one of these columns, or for the first one that lacks it."""
    for column in columns:
        if column not in records.fields:
            fix = "Give two files, source and target" if records.kind == "lines" else SAME_NAMES
            raise DataError(f"there is no column {column!r} here; columns: {', '.join(records.fields)}", where=records.files[0], fix=fix)
        lacking = next((record for record in records.records if column not in record.values), None)
        if lacking is not None:
            raise DataError(f"this example has no {column!r}; it has {', '.join(map(repr, lacking.values)) or 'nothing'}",
                            where=lacking.where, fix="Give it one, or take it out")  # fmt: skip
