"""How good answers to questions are: exact match and F1.

`squad` (Rajpurkar and others 2016, 2018): answers are words; case, punctuation and the English articles don't count; F1 of the words that
answer and reference share, in any order. `cmrc` (Cui and others 2019, for Chinese): Chinese characters, and words of other letters; case
and punctuation don't count; F1 of the longest run that answer and reference share. Of several references the best counts. A question
without an answer is right when nothing is said, and 1 or 0 in both scores.

Shapes: N questions.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wordmill.evaluate.bootstrap import Index
from wordmill.tasks.labels import prf

Measure = Literal["squad", "cmrc"]
COUNTED = {"squad": "words in any order", "cmrc": "the longest run of characters"}
"""What F1 counts."""
MARKS = frozenset(string.punctuation)
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def is_chinese(text: str) -> bool:
    """Whether three of ten characters or more are Chinese."""
    return len(HAN.findall(text)) >= 0.3 * max(1, sum(not c.isspace() for c in text))


@lru_cache(maxsize=100_000)
def parts(text: str, measure: Measure) -> tuple[str, ...]:
    """What of an answer counts: its words, or characters and words."""
    if measure == "squad":
        bare = "".join(c for c in text.lower() if c not in MARKS)
        # SQuAD's articles end where a letter meets another sign, also within what spaces set apart: “the” of “the–end” goes.
        return tuple(re.sub(r"\b(?:a|an|the)\b", " ", bare).split())
    found: list[str] = []
    for run in text.lower().split():
        word = ""
        for c in run:
            if HAN.match(c):
                found += [word, c] if word else [c]
                word = ""
            elif unicodedata.category(c)[0] not in "PS":
                word += c
        found += [word] if word else []
    return tuple(found)


def exact(said: str, wanted: str, measure: Measure) -> bool:
    """Whether the two are the same in what counts; with `cmrc` spaces don't count either."""
    a, b = parts(said, measure), parts(wanted, measure)
    return "".join(a) == "".join(b) if measure == "cmrc" else a == b


def f1(said: str, wanted: str, measure: Measure) -> float:
    """F1 of what the two share."""
    a, b = parts(said, measure), parts(wanted, measure)
    if not a or not b:
        return float(a == b)
    shared = common_run(a, b) if measure == "cmrc" else sum((Counter(a) & Counter(b)).values())
    return float(prf(shared, len(a), len(b))[2])


def common_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest run of neighbours that stands in both."""
    best, before = 0, [0] * (len(b) + 1)
    for x in a:
        now = [0] * (len(b) + 1)
        for j, y in enumerate(b):
            if x == y:
                now[j + 1] = before[j] + 1
        best, before = max(best, *now), now
    return best


@dataclass
class AnswerOutcomes:
    """Answers against what the records accept."""

    exact: npt.NDArray[np.float64]
    """(N,) 1 where the answer is one of those accepted."""
    f1: npt.NDArray[np.float64]
    """(N,) the best F1."""
    answered: npt.NDArray[np.bool_]
    """(N,) whether the question has an answer."""
    counted: str
    headline: str = "f1"

    @classmethod
    def of(cls, wanted: Sequence[Sequence[str]], said: Sequence[str], measure: Measure) -> AnswerOutcomes:
        """`wanted`: the accepted answers of each question, none where it has no answer; `said`: "" for none."""
        found = np.zeros((2, len(said)))
        for n, (texts, text) in enumerate(zip(wanted, said, strict=True)):
            # What is nothing but punctuation can't be told from no answer; where other references say more, they count alone.
            real = [one for one in texts if parts(one, measure)] or [""]
            found[:, n] = max(exact(text, one, measure) for one in real), max(f1(text, one, measure) for one in real)
        return cls(found[0], found[1], np.array([bool(texts) for texts in wanted], bool), f"{COUNTED[measure]}, task.measure={measure}")

    def __len__(self) -> int:
        return len(self.f1)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """F1 and exact match; where some questions have no answer, of each kind too."""
        e, f, has = (self.exact, self.f1, self.answered) if index is None else (self.exact[index], self.f1[index], self.answered[index])
        found = {"f1": float(f.mean()), "exact_match": float(e.mean())}
        if not self.answered.all():
            found |= {"has_answer_f1": _mean(f[has]), "has_answer_exact_match": _mean(e[has]), "no_answer_right": _mean(e[~has])}
        return found

    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is exactly one of those accepted."""
        return self.exact > 0


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else float("nan")
