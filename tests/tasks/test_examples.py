"""Tables as people have them."""

from __future__ import annotations

import io

import pytest

from wordmill.core.errors import DataError
from wordmill.core.progress import Reporter
from wordmill.tasks.examples import read_examples


def _read(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    stream = io.StringIO()
    return [record.values for record in read_examples([path], reporter=Reporter(stream=stream)).records], stream.getvalue()


NORMAL = [f"{'ham' if i % 3 else 'spam'}\tmessage number {i}" for i in range(20)]


def test_tabs_and_quotes_inside_texts_stay_in_them(tmp_path):
    rows, said = _read(tmp_path / "sms", ['ham\tfirst\tsecond "third', *NORMAL])
    assert rows[0] == {"1": "ham", "2": 'first\tsecond "third'} and len(rows) == 21
    assert "1 of 21 lines has tabs in the text (first: line 1)" in said
    rows, _ = _read(tmp_path / "turned.tsv", ["a, then\tb?\tham", *("\t".join(reversed(row.split("\t"))) for row in NORMAL)])
    assert rows[0] == {"1": "a, then\tb?", "2": "ham"}


def test_columns_that_all_lines_have_and_hardly_any_fills_are_left_out_and_said(tmp_path):
    rows, said = _read(tmp_path / "sms", ["ham\tGo on, then …\t\t\t0", *(f"{row}\t\t\t" for row in NORMAL)])
    assert rows[0] == {"1": "ham", "2": "Go on, then …"}
    assert "columns from 3 on are empty in all but 1 of 21 lines" in said


def test_many_wide_lines_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"sms:2: 4 columns where most lines have 2"):
        _read(tmp_path / "sms", [NORMAL[0], *["ham\ta\tb\tc"] * 5, *NORMAL])
