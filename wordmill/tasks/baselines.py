"""What is had without a language model, so that a score means something."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from wordmill.core.progress import Reporter


def tfidf_classifier(train: Sequence[str], labels: Any, test: Sequence[str], reporter: Reporter) -> Any:
    """Logistic regression on TF-IDF of words and pairs of words, of one to three characters where a text has few spaces (Chinese):
    the labels' numbers for `test`. None, with a note, where scikit-learn is not installed."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
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
    model = LogisticRegression(C=10.0, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known, labels)
    return model.predict(vectors.transform(test))
