"""What the ways of answering questions share: data, scores, baselines, pages. The ways: answer.py (a span of the context) and
answer_written.py (a text that the model writes)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from wordmill.core.config import Config
from wordmill.core.errors import DataError, UsageError
from wordmill.core.progress import SILENT, Reporter, plural, verb
from wordmill.evaluate.bootstrap import Outcomes
from wordmill.tasks.answer_scores import HAN, AnswerOutcomes, Measure, f1, is_chinese
from wordmill.tasks.asked import without_effect
from wordmill.tasks.baselines import shared_words
from wordmill.tasks.examples import Record, Records, read_examples
from wordmill.tasks.labels import html_table
from wordmill.tasks.spans import cuts_words, words_of
from wordmill.tasks.squad import answers_of, find_roles, misplaced, no_column, place_of, questions
from wordmill.tasks.task import Task

FIELDS = ("id", "question", "context", "answers")
SHOWN = 20
"""Questions that went most wrong, in the report."""
NAMES = {"squad": "as SQuAD counts them: words, without case, punctuation and English articles",
         "cmrc": "as CMRC counts them: characters, without case and punctuation; F1 of the longest run in common"}  # fmt: skip


class QuestionConfig(Config):
    """Settings of every way of answering."""

    way: Literal["auto", "span", "write"] = "auto"
    """span: the answer is a span of the context. write: the model writes it. auto: encoders give spans, all others write."""
    question: str | None = None
    """The column with the question; None: found by looking."""
    context: str | None = None
    """The column with the context; None: found by looking."""
    answers: str | None = None
    """The column with the answer, or answers; None: found by looking."""
    answer_start: str | None = None
    """The column with the character of the context at which the answer begins; None: found by looking."""
    skip_bad: bool = False
    """Whether questions whose answer doesn't stand where the file says are left out of training, and counted, instead of refused."""
    measure: Literal["auto", "squad", "cmrc"] = "auto"
    """How exact match and F1 are counted: as SQuAD does, or as CMRC does for Chinese. auto: by the language of the contexts."""


class Questions(Task):
    """Questions about a context."""

    name: ClassVar[str] = "answer"
    keyed: ClassVar[str] = "context"
    shared: ClassVar[str] = "questions with an answer"
    lack: ClassVar[str] = "an empty question or context"
    settings: QuestionConfig
    way: ClassVar[str]
    in_context: ClassVar[bool] = True
    """Whether an answer that is learned must stand in its context."""

    # ── data ─────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, paths: Sequence[str | Path], *, learn: bool = False, reporter: Reporter = SILENT) -> Records:
        """The questions in some files; see `unfold`."""
        return self.unfold(read_examples(paths, reporter=reporter), reporter, learn=learn)

    def unfold(self, records: Records, reporter: Reporter, *, learn: bool) -> Records:
        """One record a question, each answer with its place; see squad.py. To be learned, an answer must stand where its file says."""
        nested = {"paragraphs", "qas"} & set(records.fields)
        s = self.settings
        asked = {"question": s.question, "context": s.context, "answers": s.answers, "answer_start": s.answer_start}
        place = records.files[0] if records.files else ""
        if nested and learn:
            without_effect([f"task.{role}" for role, name in asked.items() if name], f"{place} has the layout of SQuAD, without columns")
        columns = {} if nested else find_roles(records.fields, asked, place)
        for role in () if nested else ("question", "context"):
            if role not in columns:
                raise no_column(role, records.fields, place)
        found: list[Record] = []
        skipped: list[str] = []
        elsewhere: list[str] = []
        further = guessed = 0
        torn: list[str] = []
        for record in questions(records, columns):
            context, placed, wrong = record.values["context"], [], []
            for text, start in answers_of(record):
                bad = misplaced(context, text, start, record.where)
                guessed += start is None and bad is None and context.count(text) > 1
                at = None if bad is not None else place_of(context, text) if start is None else start
                if at is not None and cuts_words(context, at, at + len(text)):
                    torn.append(f"{record.where}, {text[:60]!r}")
                placed.append({"text": text, "answer_start": at})
                wrong += [bad] if bad is not None else []
            if learn and self.in_context and wrong:
                if len(wrong) == len(placed) and not s.skip_bad:
                    raise wrong[0]
                if len(wrong) == len(placed):
                    skipped.append(record.where)
                    continue
                further += len(wrong)
            elsewhere += [record.where] if wrong else []
            rest = {name: value for name, value in record.values.items() if name != "answers"}
            found.append(Record({**rest, **({"answers": placed} if nested or "answers" in columns else {})}, record.where))
        if learn and self.in_context:
            self._told(reporter, skipped, further, guessed, torn)
        elif learn and elsewhere:
            reporter.warn(f"the answers to {plural(len(elsewhere), 'question')} don't all stand in their context where the file says "
                          f"(first: {elsewhere[0]}); this model writes its answers, and learns these too")  # fmt: skip
        if not found:
            raise DataError("there is no question in these files" + (" whose answer stands in its context" if skipped else ""),
                            where=records.files[0])  # fmt: skip
        fields = [name for name in FIELDS if name != "id"] if nested else records.fields
        return Records(found, list(fields), records.kind, records.headed, records.files)

    def _told(self, reporter: Reporter, skipped: list[str], further: int, guessed: int, torn: list[str]) -> None:
        if skipped:
            whose = "its" if len(skipped) == 1 else "their"
            reporter.warn(f"{plural(len(skipped), 'question')} {verb(len(skipped), 'are')} left out: {whose} answer doesn't stand "
                          f"where the file says (first: {skipped[0]})")
        if further:
            several = "don't"
            reporter.warn(f"{plural(further, 'answer')} {verb(further, several)} stand where the file says; their questions have "
                          f"others, which are learned")
        if guessed:
            whose = "its" if guessed == 1 else "their"
            reporter.warn(f"{plural(guessed, 'answer')} {verb(guessed, 'stand')} several times in {whose} context, and where isn't "
                          f"said: the first "
                          f"place is taken")
        if torn:
            how = f"{verb(len(torn), 'begin')} or {verb(len(torn), 'end')}"
            reporter.warn(f"{plural(len(torn), 'answer')} {how} inside a word (first: {torn[0]}): are the offsets right?")

    def look(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        """What there is; see task.py."""
        train = splits["train"]
        if "answers" not in train.records[0].values:
            raise no_column("answers", train.fields, train.files[0])
        texts = [answer["text"] for record in train.records for answer in record.values["answers"]]
        if not texts:
            raise DataError("no question has an answer: there is nothing to learn", where=train.files[0])
        empty = sum(not record.values["answers"] for record in train.records)
        some = "".join(record.values["context"] for record in train.records[:: max(1, len(train) // 200)])
        measure = ("cmrc" if is_chinese(some) else "squad") if self.settings.measure == "auto" else self.settings.measure
        words = sorted(len(words_of(text)) for text in texts)
        self.spec |= {"way": self.way, "unanswerable": empty > 0, "measure": measure, "longest": max(map(len, texts)),
                      "usual": words[len(words) // 2], "whole_words": self._whole(train)}  # fmt: skip
        contexts = len({record.values["context"] for record in train.records})
        none = f"; {empty:,} without an answer in the context" if empty else ""
        reporter.note(f"{plural(len(train), 'question')} on {plural(contexts, 'context')}{none}; answers of up to "
                      f"{plural(self.spec['longest'], 'character')}")
        reporter.note(f"exact match and F1 are counted {NAMES[measure]}")
        for records in splits.values():
            self._fits(records, reporter)
        self._suspicious(splits, reporter)

    @staticmethod
    def _whole(train: Records) -> bool:
        """Whether answers are whole words, but for one in a hundred."""
        placed = [(record.values["context"], answer["answer_start"], answer["answer_start"] + len(answer["text"]))
                  for record in train.records for answer in record.values["answers"] if answer["answer_start"] is not None]  # fmt: skip
        return 100 * sum(cuts_words(*one) for one in placed) <= len(placed)

    def check(self, records: Records, reporter: Reporter) -> None:
        """See task.py."""
        self._fits(records, reporter)
        reporter.note(f"exact match and F1 are counted {NAMES[self.measure(records.records)]}")

    def _fits(self, records: Records, reporter: Reporter) -> None:
        if "answers" not in records.records[0].values:
            raise DataError(f"no column holds the answers; columns: {', '.join(records.fields)}", where=records.files[0],
                            fix="Without answers there are no scores: wordmill predict answers them")  # fmt: skip
        unplaced = [r for r in records.records if r.values["answers"] and all(a["answer_start"] is None for a in r.values["answers"])]
        if unplaced and self.in_context:
            reporter.warn(f"the answers to {len(unplaced):,} of {plural(len(records), 'question')} don't stand in their context where "
                          f"the file "
                          f"says (first: {unplaced[0].where}): they are counted all the same")  # fmt: skip
        if not self.spec.get("unanswerable") and any(not record.values["answers"] for record in records.records):
            reporter.warn("some questions have no answer, and this model was trained on questions that all had one: it always gives one")

    def inputs(self, records: Records) -> list[Record]:
        """See task.py."""
        return records.records

    def as_record(self, value: str | Mapping[str, Any], where: str) -> Record:
        """A mapping with question and context, or the two as a pair."""
        if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value):
            value = {"question": value[0], "context": value[1]}
        if isinstance(value, Mapping):
            columns = find_roles(list(value), {}, where)
            if all(isinstance(value.get(columns.get(role, "")), str) for role in ("question", "context")):
                rest = {name: text for name, text in value.items() if name not in columns.values()}
                return Record({"question": value[columns["question"]], "context": value[columns["context"]], **rest}, where)
        raise UsageError("an input is a question with its context", where=where, fix='Give {"question": "…", "context": "…"}')

    def _suspicious(self, splits: Mapping[str, Records], reporter: Reporter) -> None:
        seen: dict[str, str] = {}
        for name, records in splits.items():
            own: dict[tuple[str, str], set[str]] = {}
            twice = 0
            for record in records.records:
                pair = (record.values["question"], record.values["context"])
                twice += pair in own
                own.setdefault(pair, set()).update(answer["text"] for answer in record.values["answers"][:1])
            torn = sum(len(texts) > 1 for texts in own.values())
            if twice > 0.01 * len(records):
                reporter.warn(f"{twice:,} of {plural(len(records), 'question')} of {name} {verb(twice, 'repeat')} another on the same "
                              f"context")
            if torn:
                reporter.warn(f"{plural(torn, 'question')} of {name} {verb(torn, 'stand')} there with different answers")
            self.tell_lacking(records.records, name, reporter)
            contexts = {context for _, context in own}
            shared = [context for context in contexts if context in seen]
            if shared:
                reporter.warn(f"{plural(len(shared), 'context')} of {name} {verb(len(shared), 'stand')} in {seen[shared[0]]} too: "
                              f"scores on them say less")
            seen |= dict.fromkeys(contexts, name)

    def stratum(self, record: Record) -> str:
        """Whether there is an answer."""
        return "answer" if record.values["answers"] else "none"

    def key(self, record: Record) -> str:
        """The context: questions on one stay on one side of a split."""
        return " ".join(record.values["context"].split())

    def lacks(self, record: Record) -> bool:
        """See task.py."""
        return not all(map(str.strip, self.texts(record)))

    def texts(self, record: Record) -> list[str]:
        """Question and context."""
        return [record.values["question"], record.values["context"]]

    def counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Questions with and without an answer, where there are both."""
        some = sum(bool(record.values["answers"]) for record in records)
        return {"with an answer": some, "without": len(records) - some} if some < len(records) else {}

    # ── scores ───────────────────────────────────────────────────────────────────────────────────────────────

    def answer_text(self, record: Record, answer: Any) -> str:
        """The text of an answer; "" for none."""
        raise NotImplementedError

    def measure(self, records: Sequence[Record]) -> Measure:
        """How answers are counted; of a model from elsewhere by the language of these contexts."""
        known = self.spec.get("measure")
        return cast(Measure, known or ("cmrc" if is_chinese("".join(r.values["context"] for r in records[:200])) else "squad"))

    def outcomes(self, records: Sequence[Record], answers: Sequence[Any]) -> Outcomes:
        """Exact match and F1."""
        return self._outcomes(records, [self.answer_text(record, answer) for record, answer in zip(records, answers, strict=True)])

    def _outcomes(self, records: Sequence[Record], said: Sequence[str]) -> AnswerOutcomes:
        wanted = [[answer["text"] for answer in record.values["answers"]] for record in records]
        return AnswerOutcomes.of(wanted, said, self.measure(records))

    def baselines(self, train: Sequence[Record], test: Sequence[Record], reporter: Reporter) -> dict[str, Outcomes]:
        """Nothing, where that may be right; the sentence that shares most with the question, and the words beside those that it shares."""
        found: dict[str, Outcomes] = {}
        if any(not record.values["answers"] for record in test):
            found["no answer"] = self._outcomes(test, [""] * len(test))
        spans = [shared_words(record.values["question"], record.values["context"], self.spec.get("usual", 3)) for record in test]
        for number, name in enumerate(("sentence with most shared words", "words beside shared words")):
            found[name] = self._outcomes(test, [r.values["context"][span[number][0] : span[number][1]]
                                                for r, span in zip(test, spans, strict=True)])  # fmt: skip
        return found

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """How answers are counted, and how good they are by the question's first word and by the length of the answer."""
        return {"measure": self.measure(records), "by_question": self._by(records, answers)}

    def _by(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, dict[str, float]]:
        outcomes = self._outcomes(records, [self.answer_text(r, a) for r, a in zip(records, answers, strict=True)])
        groups: dict[str, list[int]] = {}
        for n, record in enumerate(records):
            groups.setdefault(question_word(record.values["question"]), []).append(n)
        kept = sorted(((name, rows) for name, rows in groups.items() if name), key=lambda item: -len(item[1]))[:10]
        return {name: {"f1": float(outcomes.f1[rows].mean()), "exact_match": float(outcomes.exact[rows].mean()), "questions": len(rows)}
                for name, rows in kept}  # fmt: skip

    def pages(self, records: Sequence[Record], answers: Sequence[Any]) -> str:
        """A table by kind of question, and the answers that are furthest from what was wanted."""
        measure = self.measure(records)
        rows = []
        for record, answer in zip(records, answers, strict=True):
            texts, said = [one["text"] for one in record.values["answers"]], self.answer_text(record, answer)
            score = max((f1(said, text, measure) for text in texts), default=float(not said))
            if score < 1:
                sure = getattr(answer, "probability", None) if said else getattr(answer, "none", None)
                rows.append((score, -(sure or 0.0), texts[0] if texts else "–", said or "–", sure, record.values["question"]))
        rows.sort(key=lambda row: row[:2])
        lines = []
        for _, _, wanted, said, sure, question in rows[:SHOWN]:
            cells = [escape(wanted[:200]), escape(said[:200]), "" if sure is None else f"{sure:.3f}", escape(question[:300])]
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>wanted</th><th>said</th><th>sure</th><th>question</th></tr>"
        table = self._by(records, answers)
        by = f"<h2>By question</h2>{html_table(table, 'asks')}" if table else ""
        worst = f'<h2>Most wrong</h2><div class="card"><table>{head}{"".join(lines)}</table></div>' if lines else ""
        return by + worst


ASKS = ("how many", "how much", "who", "whom", "whose", "what", "when", "where", "which", "why", "how",
        "什么时候", "为什么", "怎么", "多少", "哪里", "哪儿", "谁", "什么", "哪", "几", "何", "如何")  # fmt: skip


def question_word(question: str) -> str:
    """What a question asks for: the first of the usual words in it; "" where there is none."""
    low = question.lower()
    places = [(low.find(word) if HAN.match(word) else _at(low, word), -len(word), word) for word in ASKS]
    return min((place for place in places if place[0] >= 0), default=(0, 0, ""))[2]


def _at(text: str, word: str) -> int:
    found = re.search(rf"\b{word}\b", text)
    return found.start() if found else -1

