"""Questions with contexts and answers, as files have them: SQuAD 1.1 and 2.0 (and CMRC's own layout), or one question a row.

Each becomes a record {"id", "question", "context", "answers": [{"text", "answer_start"}]}; "answer_start" counts characters of the context
and is null for an answer that is not there. A question without answers has none in its context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wordmill.core.errors import DataError, WordmillError, nearest
from wordmill.tasks.examples import Record, Records, text_of
from wordmill.tasks.spans import cuts_words

ROLES: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "query_text"),
    "context": ("context", "context_text", "passage", "paragraph", "document", "article", "text"),
    "answers": ("answers", "answer", "answer_text"),
    "answer_start": ("answer_start", "start"),
    "id": ("id", "qid", "question_id", "query_id"),
    "is_impossible": ("is_impossible",),
}
"""What the columns are usually called."""
SKIP = "Mend it, or leave such questions out, counted: task.skip_bad=true"


def find_roles(fields: Sequence[str], asked: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Role → column, of those that are there. Raises `DataError` for a column that is asked for and not there."""
    for role, column in asked.items():
        if column and column not in fields:
            raise DataError(f"there is no column {column!r}; columns: {', '.join(fields)}", where=where,
                            fix=f"Set it by task.{role}=NAME. {nearest(column, fields)}")  # fmt: skip
    lower = {name.lower(): name for name in reversed(fields)}
    found = {role: asked.get(role) or next((lower[name] for name in names if name in lower), None) for role, names in ROLES.items()}
    return {role: column for role, column in found.items() if column}


def no_column(role: str, fields: Sequence[str], where: str) -> DataError:
    """That no column holds what a role stands for; `fields`: the names that the file has."""
    if "data" in fields and set(fields) <= {"data", "version"}:  # SQuAD's frame
        return DataError("there is no question in this file: its list of articles is empty", where=where)
    return DataError(f"no column holds the {role}; columns: {', '.join(fields)}", where=where,
                     fix=f"Call it {role}, or name it in training: task.{role}=NAME")  # fmt: skip


def questions(records: Records, columns: Mapping[str, str]) -> Iterator[Record]:
    """The questions of some records, answers as they stand there. Raises `DataError` for one without question or context."""
    number = 0
    for record in records.records:
        for values in _each(record.values, columns, record.where):
            number += 1
            name = values.get("id")
            values["id"] = str(number) if name is None or name == "" else str(name)
            where = f"{record.where}, question {values['id']}"
            for role in ("question", "context"):
                fix = "Each needs a question and a context, as texts"
                if values.get(role) is None:
                    raise DataError(f"there is no {role} here", where=where, fix=fix)
                values[role] = text_of(values[role], f"the {role}", where, fix)
            yield Record(values, where)


def _each(values: dict[str, Any], columns: Mapping[str, str], where: str) -> Iterator[dict[str, Any]]:
    """The questions in an article, a paragraph, or a row."""
    if "paragraphs" in values:
        for paragraph in _list(values["paragraphs"], "paragraphs", where):
            yield from _each(paragraph, columns, where)
    elif "qas" in values:
        context = next((values[name] for name in ROLES["context"] if name in values), None)
        for one in _list(values["qas"], "qas", where):
            own = {role: next((one[name] for name in names if name in one), None) for role, names in ROLES.items()}
            yield {"id": own["id"], "question": own["question"], "context": context, "answers": own["answers"],
                   **({"is_impossible": True} if own["is_impossible"] else {})}  # fmt: skip
    else:
        given = {role: values.get(column) for role, column in columns.items()}
        rest = {name: value for name, value in values.items() if name not in columns.values()}
        if given.get("answer_start") is not None and not isinstance(given.get("answers"), list | dict):
            given["answers"] = {"text": [given.get("answers")], "answer_start": [given["answer_start"]]}
        impossible = str(given.get("is_impossible") or "").lower() in ("true", "1", "yes")
        yield {"id": given.get("id"), "question": given.get("question"), "context": given.get("context"), "answers": given.get("answers"),
               **({"is_impossible": True} if impossible else {}), **rest}  # fmt: skip


def _list(value: Any, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"{name!r} must be a list of objects", where=where)
    return value


def answers_of(record: Record) -> list[tuple[str, int | None]]:
    """Text and start (None where it isn't said) of each answer, in any of the usual forms: objects, texts, one text, or
    {"text": […], "answer_start": […]}. Raises `DataError` for another, and for an answer to what is marked as impossible."""
    value = record.values.get("answers")
    if isinstance(value, dict):
        texts, starts = value.get("text", []), value.get("answer_start", [])
        if not isinstance(texts, list) or not isinstance(starts, list) or len(starts) not in (0, len(texts)):
            raise DataError("'text' and 'answer_start' must be lists of the same length", where=record.where)
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts or [None] * len(texts), strict=True)]
    items = value if isinstance(value, list) else [value]
    found: list[tuple[str, int | None]] = []
    for item in items:
        text, start = (item.get("text"), item.get("answer_start")) if isinstance(item, dict) else (item, None)
        if text is None or text == "":
            continue
        if not isinstance(text, str | int | float) or isinstance(text, bool):
            raise DataError(f"can't read the answer {item!r}", where=record.where, fix='Write {"text": "…", "answer_start": 0}')
        found.append((str(text), _whole(start, record.where)))
    if found and record.values.get("is_impossible"):
        raise DataError("this question is marked as impossible, and has an answer", where=record.where, fix="Mend one of the two")
    return found


def _whole(start: Any, where: str) -> int | None:
    if start is None or start == "":
        return None
    try:
        if isinstance(start, bool) or int(start) != float(start):
            raise ValueError
        return int(start)
    except (ValueError, TypeError):
        raise DataError(f"answer_start is {start!r}, not a whole number", where=where) from None


def place_of(context: str, text: str) -> int:
    """Where an answer stands first; as whole words, if it does anywhere. −1: nowhere."""
    first = at = context.find(text)
    while at >= 0 and text and cuts_words(context, at, at + len(text)):
        at = context.find(text, at + 1)
    return first if at < 0 else at


def misplaced(context: str, text: str, start: int | None, where: str) -> WordmillError | None:
    """What is wrong with an answer's place; None where it is right, or nobody said where it is and it stands somewhere."""
    at = context.find(text)
    if at < 0:
        return DataError(f"the answer {text[:80]!r} does not stand in its context", where=where, fix=SKIP)
    if start is None or (start >= 0 and context.startswith(text, start)):
        return None
    held = context[max(0, start) : max(0, start) + len(text)]
    what = f"the answer {text[:80]!r} does not stand at {start}, where {held[:80]!r} is; it stands at {at}"
    before = context[: context.find(text)]
    if len(before.encode()) == start:
        what += " (these starts count bytes: they must count characters)"
    elif len(before.encode("utf-16-le")) // 2 == start:
        what += " (these starts count UTF-16 units: they must count characters)"
    return DataError(what, where=where, fix=SKIP)
