"""How good written texts are: ROUGE (rouge-score) for summaries, BLEU and chrF (sacrebleu) for translations.

Shapes: N examples, M metrics, K numbers that a corpus-level metric adds up over its sentences.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from wordmill.batches.vocabulary import joins
from wordmill.core.errors import MissingExtraError
from wordmill.evaluate.bootstrap import Index

ROUGE = ("rouge1", "rouge2", "rougeL")
SHOWN, SHOWN_CHARACTERS = 10, 1000
"""Examples in the report, and characters of each text there."""


class Words:
    """Cuts a text into what ROUGE counts: words in small letters, and each character of a script that writes no spaces (Chinese, Japanese,
    Thai, …) by itself. On English it gives what rouge-score's own tokenizer gives; that one drops everything but a–z and 0–9."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        found: list[str] = []
        within = False
        for char in unicodedata.normalize("NFC", text).lower():
            if joins(char):
                if within:
                    found[-1] += char
                else:
                    found.append(char)
                within = True
                continue
            within = False
            if char.isalnum():
                found.append(char)
            elif found and unicodedata.category(char)[0] == "M":
                found[-1] += char
        return found


def require_rouge() -> Any:
    """The scorer of ROUGE-1, -2 and -L. Raises `MissingExtraError`."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtraError("rouge-score", "tasks", "ROUGE") from None
    return RougeScorer(list(ROUGE), tokenizer=Words())


def require_bleu(tokenize: str) -> tuple[Any, Any]:
    """BLEU with that tokenizer, and chrF. Raises `MissingExtraError`, also when it is the tokenizer that needs a further package."""
    try:
        from sacrebleu.metrics import BLEU, CHRF  # type: ignore[attr-defined]
    except ImportError:
        raise MissingExtraError("sacrebleu", "tasks", "BLEU") from None
    try:
        # force: our texts are as people write them; a corpus that is tokenised in itself would be reported by sacrebleu at every draw.
        return BLEU(tokenize=tokenize, force=True), CHRF()
    except (ImportError, RuntimeError):
        language = tokenize.partition("-")[0]
        raise MissingExtraError(f"sacrebleu[{language}]", "tasks", f"BLEU with the tokenizer {tokenize}") from None


def bleu_signature(tokenize: str) -> str:
    """What BLEU scores with that tokenizer may be compared with, in sacrebleu's notation."""
    import sacrebleu

    return f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{sacrebleu.__version__}"


@dataclass
class RougeOutcomes:
    """Summaries against those of the records: F1 of single words, of pairs of words, and of the longest common subsequence."""

    references: list[str]
    answers: list[str]
    headline: str = "rougeL"
    counted: str = "the longest common subsequence of words"
    scores: npt.NDArray[np.float64] = field(init=False)
    """(N, M)"""

    def __post_init__(self) -> None:
        scorer = require_rouge()
        rows = [scorer.score(right, said) for right, said in zip(self.references, self.answers, strict=True)]
        self.scores = np.array([[row[name].fmeasure for name in ROUGE] for row in rows]).reshape(len(rows), len(ROUGE))

    def __len__(self) -> int:
        return len(self.references)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """Means over the examples, 0 to 1."""
        means = (self.scores if index is None else self.scores[index]).mean(0)
        return {name: float(value) for name, value in zip(ROUGE, means, strict=True)}

    def correct(self) -> None:
        """A summary is not right or wrong."""

    def each(self) -> npt.NDArray[np.float64]:
        """(N,) ROUGE-L of each."""
        return self.scores[:, ROUGE.index("rougeL")]


@dataclass
class BleuOutcomes:
    """Translations against those of the records. BLEU and chrF belong to all sentences together: the counts are added up first."""

    references: list[str]
    answers: list[str]
    tokenize: str = "13a"
    headline: str = "bleu"
    names: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    counted: str = field(init=False)
    sums: list[npt.NDArray[np.float64]] = field(init=False)
    """For each metric (N, K)."""

    def __post_init__(self) -> None:
        self.counted = f"words by task.tokenize={self.tokenize}"
        self._metrics = require_bleu(self.tokenize)
        # What sacrebleu resamples itself (its paired bootstrap): the counts of each sentence.
        self.sums = [np.array(metric._extract_corpus_statistics(self.answers, [self.references]), np.float64) for metric in self._metrics]

    def __len__(self) -> int:
        return len(self.references)

    def metrics(self, index: Index | None = None) -> dict[str, float]:
        """BLEU and chrF, 0 to 100."""
        found = {}
        for name, metric, sums in zip(self.names, self._metrics, self.sums, strict=True):
            total = (sums if index is None else sums[index]).sum(0).astype(np.int64).tolist()
            found[name] = float(metric._compute_score_from_stats(total).score)
        return found

    def correct(self) -> None:
        """A translation is not right or wrong."""

    def each(self) -> npt.NDArray[np.float64]:
        """(N,) chrF of each sentence: BLEU says little of one."""
        return np.array([self._metrics[1]._compute_score_from_stats(row.astype(np.int64).tolist()).score for row in self.sums[1]])


def side_by_side(sources: Sequence[str], references: Sequence[str], answers: Sequence[str], scores: Any, name: str) -> str:
    """HTML for the report: the worst answers, and some as they come, beside their sources and what they should have been."""
    worst = np.argsort(scores, kind="stable")[:SHOWN].tolist()
    spread = list(range(0, len(scores), max(1, len(scores) // SHOWN)))[:SHOWN]

    def table(numbers: Sequence[int]) -> str:
        texts = {n: "".join(f"<td>{_shown(x[n])}</td>" for x in (sources, references, answers)) for n in numbers}
        rows = "".join(f'<tr><td class="number">{scores[n]:.3f}</td>{texts[n]}</tr>' for n in numbers)
        return (f'<div class="card"><table><tr><th class="number">{escape(name)}</th><th>source</th><th>as it should be</th>'
                f"<th>written</th></tr>{rows}</table></div>")  # fmt: skip

    return f"<h2>Most wrong</h2>{table(worst)}<h2>As they come</h2>{table(spread)}"


def _shown(text: str) -> str:
    return escape(text[:SHOWN_CHARACTERS] + (" …" if len(text) > SHOWN_CHARACTERS else "")).replace("\n", "<br>")
