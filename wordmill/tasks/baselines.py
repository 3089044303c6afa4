"""What is had without a language model, so that a score means something."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wordmill.core.progress import Reporter
from wordmill.tasks.spans import words_of

ENDS = frozenset(".!?。！？")
"""Signs that end a sentence."""


def tfidf_classifier(train: Sequence[str], labels: Any, reporter: Reporter) -> Callable[[Sequence[str]], Any] | None:
    """Logistic regression on TF-IDF (see `_vectors`), fitted to `train`: gives the labels' numbers (M,) of M texts, from numbers (N,); or
    which labels hold (M, L) bool, each judged alone, from (N, L) bool. None, with a note, where scikit-learn is not installed, or the texts
    have no words."""
    found = _vectors(train, reporter)
    if found is None:
        return None
    vectors, known = found
    columns = labels[:, None] if labels.ndim == 1 else labels
    # A label that all or none of the examples have needs no regression, which would refuse it.
    fitted = [_regression(known, one) if len(np.unique(one)) > 1 else lambda asked, one=one: np.full(asked.shape[0], one[0])
              for one in columns.T]  # fmt: skip

    def said(texts: Sequence[str]) -> Any:
        asked = vectors.transform(texts)
        told = np.stack([each(asked) for each in fitted], 1)
        return told[:, 0] if labels.ndim == 1 else told

    return said


def _regression(known: Any, labels: Any) -> Callable[[Any], Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known, labels)
    return model.predict  # type: ignore[no-any-return]


def _vectors(train: Sequence[str], reporter: Reporter) -> tuple[Any, Any] | None:
    """What makes TF-IDF of words and pairs of words (where a text has few spaces, of one to three characters), and that of `train`."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        reporter.note("the baseline TF-IDF + logistic regression needs scikit-learn: pip install 'wordmill[tasks]'")
        return None
    some = "".join(train[:200])
    spaces = sum(map(str.isspace, some)) / max(1, len(some))
    settings: dict[str, Any] = {"ngram_range": (1, 2)} if spaces > 0.08 else {"analyzer": "char", "ngram_range": (1, 3)}
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=1 if len(train) < 2000 else 2, max_features=300_000, **settings)
    try:
        return vectors, vectors.fit_transform(train)
    except ValueError:  # no text with a word in it
        reporter.note("the baseline TF-IDF + logistic regression finds no words in these texts")
        return None


def shared_words(question: str, context: str, usual: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two answers to a question without a model, as places in its context: the sentence that shares most words with it (a word counts the
    less, the more sentences have it), and the `usual` words of that sentence that lie closest to the shared ones without being any."""
    places = words_of(context)
    words = [context[a:b].lower() for a, b in places]
    asked = {question[a:b].lower() for a, b in words_of(question)}
    sentences: list[list[int]] = [[]]
    for n, word in enumerate(words):
        sentences[-1].append(n)
        if word in ENDS:
            sentences.append([])
    sentences = [one for one in sentences if one]
    if not sentences:
        return (0, 0), (0, 0)
    spread = Counter(word for one in sentences for word in {words[n] for n in one})
    best = max(sentences, key=lambda one: sum(1 / spread[word] for word in {words[n] for n in one} & asked))
    shared = [n for n in best if words[n] in asked]
    whole = places[best[0]][0], places[best[-1]][1]
    runs = [range(first, min(first + usual, best[-1] + 1)) for first in best]
    free = [run for run in runs if not any(words[n] in asked or words[n] in ENDS for n in run)]
    if not shared or not free:
        return whole, whole
    near = max(free, key=lambda run: sum(1 / min(abs(n - run[0]), abs(n - run[-1])) for n in shared))
    return whole, (places[near[0]][0], places[near[-1]][1])
