"""`answer` with a model that writes: context and question are the prompt, the answer is written behind it (written.py).

A context that is too long is cut at its end, and counted. Where a question may have no answer, nothing is written before the end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import model_validator

from wordmill.core.config import Config
from wordmill.tasks.examples import Record
from wordmill.tasks.questions import QuestionConfig, Questions
from wordmill.tasks.written import FIELD, Answer, Asked, Written, WrittenConfig

QUESTION = "{question}"
"""What stands for the question in a prompt."""


class WrittenAnswerConfig(QuestionConfig, WrittenConfig):
    """Settings of answering in writing; in `prompt`, {source} stands for the context and {question} for the question."""

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.prompt is not None and self.prompt.count(QUESTION) != 1:
            raise ValueError(f"a prompt holds {QUESTION} once, where the question stands")
        return self


class WrittenAnswer(Questions, Written):
    """An answer in writing."""

    Settings: ClassVar[type[Config]] = WrittenAnswerConfig
    settings: WrittenAnswerConfig
    way: ClassVar[str] = "write"
    in_context: ClassVar[bool] = False
    prompts: ClassVar[Mapping[bool, str]] = {True: f"question: {QUESTION} context: {FIELD}", False: f"{FIELD}\n\nQ: {QUESTION}\nA:\n"}

    def idle(self, records: Sequence[Record] = ()) -> dict[str, str]:
        """See task.py."""
        why = "what is written need not stand in the context, so where answers stand is not looked at"
        return {**super().idle(records), "skip_bad": why}

    def source(self, record: Record) -> str:
        """The context."""
        return str(record.values["context"])

    def target(self, record: Record) -> str:
        """The first answer; nothing where there is none."""
        return next((str(answer["text"]) for answer in record.values["answers"]), "")

    def asked(self, record: Record) -> Asked:
        """The prompt for a record; what a question holds is never taken for a place in the template."""
        parts = (part.replace(QUESTION, record.values["question"]) for part in str(self.spec["prompt"]).split(FIELD))
        before, after = parts
        return Asked(before, self.source(record), after)

    def answer_text(self, record: Record, answer: Answer) -> str:
        """What was written."""
        return answer.text

    def say(self, record: Record, answer: Answer) -> dict[str, Any]:
        """The text, and where in the context it stands first, if it does."""
        at = self.source(record).find(answer.text) if answer.text else -1
        start, end = (None, None) if at < 0 else (at, at + len(answer.text))
        return {**Written.say(self, record, answer), "start": start, "end": end}

    def details(self, records: Sequence[Record], answers: Sequence[Any]) -> dict[str, Any]:
        """Of both."""
        return {**Questions.details(self, records, answers), **Written.details(self, records, answers)}
