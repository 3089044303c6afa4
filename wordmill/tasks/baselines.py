"""What is had without a language model, so that a score means something."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from wordmill.core.progress import Reporter


def tfidf_classifier(train: Sequence[str], labels: Any, test: Sequence[str], reporter: Reporter) -> Any:
    """Logistic regression on TF-IDF (see `_vectors`): the labels' numbers for `test`, from numbers (N,); or which labels hold (M, L) bool,
    each judged alone, from (N, L) bool. None, with a note, where scikit-learn is not installed, or the texts have no words."""
    found = _vectors(train, test, reporter)
    if found is None:
        return None
    if labels.ndim == 1:
        return _regression(*found, labels)
    # A label that all or none of the examples have needs no regression, which would refuse it.
    columns = [_regression(*found, each) if each.any() and not each.all() else np.full(len(test), each.all()) for each in labels.T]
    return np.stack(columns, 1)


def _regression(known: Any, asked: Any, labels: Any) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known, labels)
    return model.predict(asked)


def _vectors(train: Sequence[str], test: Sequence[str], reporter: Reporter) -> tuple[Any, Any] | None:
    """TF-IDF of words and pairs of words, of one to three characters where a text has few spaces (Chinese)."""
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
        known = vectors.fit_transform(train)
    except ValueError:  # no text with a word in it
        reporter.note("the baseline TF-IDF + logistic regression finds no words in these texts")
        return None
    return known, vectors.transform(test)
