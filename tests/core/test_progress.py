from __future__ import annotations

import io

import pytest

from wordmill.core import progress
from wordmill.core.errors import MissingExtraError, WordmillError, nearest
from wordmill.core.progress import Reporter, human_bytes, human_count, human_time, plural, verb


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3725, "1:02:05"), (-1, "0:00")])
def test_human_time(seconds, text):
    assert human_time(seconds) == text


def test_human_numbers():
    assert human_count(13_900_000) == "13.9M"
    assert human_count(999) == "999"
    assert human_bytes(1_500_000) == "1.5 MB"
    assert human_bytes(12) == "12 B"


def test_one_thing_and_several():
    assert [plural(n, "row") for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    some = ["are", "were", "have", "don't", "repeat", "teach"]
    assert [verb(1, word) for word in some] == ["is", "was", "has", "doesn't", "repeats", "teaches"]
    assert [verb(2, word) for word in some] == some


def test_plain_lines_away_from_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    with reporter.task("encoding", total=10) as task:
        task.advance(5, speed="3 MB/s")
        left = task.seconds_left()
    reporter.note("done")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("encoding · 50 % · speed 3 MB/s · 0:00 passed, ")
    assert second == "done"
    assert left is not None


def test_what_an_earlier_sitting_did_says_nothing_about_the_pace(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Reporter(quiet=True).task("training", total=1.0) as task:
        task.begin(0.5)
        assert task.seconds_left() is None
        clock[0] += 10
        task.set(0.6)
        assert task.seconds_left() == pytest.approx(40)  # a tenth in ten seconds, four tenths to go


def test_quiet_shows_warnings_only():
    stream = io.StringIO()
    reporter = Reporter(quiet=True, stream=stream)
    reporter.note("note")
    reporter.write("text")
    with reporter.task("work", total=1) as task:
        task.advance()
    reporter.warn("look out")
    assert stream.getvalue() == "warning: look out\n"
    assert reporter.warnings == ["look out"]


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    reporter = Reporter(stream=stream)
    with reporter.task("training", total=2) as task:
        task.advance(1, loss="3.2")
        reporter.note("in between [not markup]")
        task.set(2)
    assert "in between [not markup]" in stream.getvalue()


def test_errors_in_one_line():
    assert WordmillError("it is broken", where="a:1", fix="Mend it").one_line() == "a:1: it is broken. Mend it"
    assert WordmillError("is it broken?", fix="Mend it").one_line() == "is it broken? Mend it"
    assert "pip install 'wordmill[track]'" in str(MissingExtraError("tensorboard", "track", "--track"))
    assert nearest("layer", ["layers", "width"]) == "Did you mean 'layers'?"
    assert nearest("gemma3", ["gemma2", "gemma3_text"]) == "Did you mean 'gemma3_text'?"
    assert nearest("qqq", ["b", "a"]) == "Known: a, b"
