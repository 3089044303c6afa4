"""What is said of data to classify that may not be what they seem."""

from __future__ import annotations

import pytest

from tests.tasks.test_classify import look


def test_suspicious_data_are_named_with_counts():
    rows = [
        {"text": t, "label": label}
        for t, label in [("a mill", "x"), ("a mill", "y"), ("  ", "x"), *[(f"river {i}", "xy"[i % 2]) for i in range(9)]]
    ]
    _, reporter = look(rows, ["text", "label"])
    told = "\n".join(reporter.warnings)
    assert "1 text of train stands there with different labels, for example 'a mill'" in told
    assert "1 example of train has no text (first: f:3)" in told


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1.0", "5.0"], "taken for whole numbers, and answered so: 40 examples, such as '1.0' for '1'"),
        ([1.0, 5.0], "taken for whole numbers, and answered so: 40 examples, such as '1.0' for '1'"),
        (["long;neg", "neg;short", "long;pos"], "labels such as 'long;neg' look like several in one: if they are, task.multi_label=true"),
        (["new york", "york"], None),
        (["a;b", "c"], None),
        ([1, 5], None),
        (["-1.0", "yes"], None),
        ([-1.0, 1.0], "such as '-1.0' for '-1'"),
    ],
)
def test_labels_that_are_not_what_they_seem_are_named(labels, said):
    _, reporter = look([{"text": f"mill {i}", "label": labels[i % len(labels)]} for i in range(40)], ["text", "label"])
    told = "\n".join(reporter.warnings)
    assert said in told if said else not told
