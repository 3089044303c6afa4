"""Tables as people have them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wordmill.core.errors import DataError
from wordmill.core.progress import SILENT, Reporter
from wordmill.tasks.examples import read_examples
from wordmill.tasks.tag import Tag


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


SENTENCE = "the O\nmill O\nAnna B-PER\n\n"


@pytest.mark.parametrize("name", ["a.conll", "a.txt"])
@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("# O\nAnna B-PER\n", ["#", "Anna"]),
        ("# O\n# O\nAnna B-PER\n", ["#", "#", "Anna"]),
        ("# B-PER\nAnna I-PER\n", ["#", "Anna"]),
        ("#\tO\nAnna\tB-PER\n", ["#", "Anna"]),
        ("#mill O\nAnna B-PER\n", ["#mill", "Anna"]),
        ("[ O\nAnna B-PER\n", ["[", "Anna"]),
        ("{ O\nAnna B-PER\n", ["{", "Anna"]),
        ("# sent_id = 4\n# text = the mill O\nAnna B-PER\n", ["Anna"]),
        ("# 4\nAnna B-PER\n", ["Anna"]),
        ("# id 4\tdomain=en\nAnna B-PER\n", ["Anna"]),
    ],
)
def test_a_word_may_be_a_hash_and_a_comment_is_none(sentence, words, name, tmp_path):
    rest = SENTENCE.replace(" ", "\t") if "#\t" in sentence else SENTENCE
    for text, place in ((sentence + "\n" + rest, 0), (rest + sentence, 1)):
        rows, said = _read(tmp_path / name, [text])
        assert len(rows) == 2 and rows[place]["tokens"] == words
        assert ("left out" in said) == (len(words) == 1)


def test_comments_between_columns_are_left_out_and_said(tmp_path):
    lines = ["# newdoc", "# text = # is it", "1\t#\tSYM", "2\tit\tPRON", "", "# text = mill", "1\tmill\tNOUN"]
    rows, said = _read(tmp_path / "a.conll", lines)
    assert [row["tags"] for row in rows] == [["SYM", "PRON"], ["NOUN"]]
    assert "a.conll: 3 comment lines are left out (first: line 1, '# newdoc')" in said


WORD = "{}\t{}\t_\t{}\t{}\t_\t_\t_\t_\t_"
UNIVERSAL = ["#sent_id = 1", "# text = Vámonos al mar", "#", WORD.format("1-2", "Vámonos", "_", "_"), WORD.format(1, "Vamos", "VERB", "v"),
             WORD.format(2, "nos", "PRON", "p"), "# in between", WORD.format("2.1", "ya", "ADV", "a"), WORD.format(3, "al", "ADP", "s"), "",
             WORD.format(1, "mar", "NOUN", "n")]  # fmt: skip


@pytest.mark.parametrize("name", ["a.conllu", "a.conll", "a.txt"])
def test_conll_u_has_its_words_in_the_second_column_and_their_parts_of_speech_as_tags(name, tmp_path):
    for end in ("\n", "\r\n"):
        rows, said = _read(tmp_path / name, [line + end.strip("\n") for line in UNIVERSAL])
        assert [row["tokens"] for row in rows] == [["Vamos", "nos", "al"], ["mar"]]
        assert [row["tags"] for row in rows] == [["VERB", "PRON", "ADP"], ["NOUN"]] and "CoNLL-U" in said
    own = ["\t".join("_" if n == 3 else cell for n, cell in enumerate(line.split("\t"))) for line in UNIVERSAL]
    assert [row["tags"] for row in _read(tmp_path / name, own)[0]] == [["v", "p", "s"], ["n"]]
    bare = ["\t".join("_" if n in (3, 4) else cell for n, cell in enumerate(line.split("\t"))) for line in UNIVERSAL]
    assert [list(row) for row in _read(tmp_path / name, bare)[0]] == [["tokens", "lines"]] * 2, "words alone, for predict"


def test_what_is_no_word_of_conll_u_is_named_with_its_line(tmp_path):
    for bad in ("\t".join(["2", "mar"] + ["_"] * 7), "2 mar _ NOUN", "\t".join(["x", "mar"] + ["_"] * 8)):
        with pytest.raises(DataError, match="a.conllu:12: not a word of CoNLL-U"):
            _read(tmp_path / "a.conllu", [*UNIVERSAL, bad])
    with pytest.raises(DataError, match="a.conllu:12: the word 'mar' has no part of speech"):
        _read(tmp_path / "a.conllu", [*UNIVERSAL, WORD.format(2, "mar", "_", "n")])
    entities = [f"{n}\tAnna\tNN\tx\ty\ta\tb\tc\td\t{tag}" for n, tag in ((1, "B-PER"), (2, "O"))]
    assert _read(tmp_path / "a.conll", entities)[0][0]["tags"] == ["B-PER", "O"], "ten columns of another kind"


@pytest.mark.parametrize("between", [" ", "\t"])
@pytest.mark.parametrize("bad", ["York", "York B_LOC\nDelft B_LOC", "York loc\nis o"])
def test_few_words_with_mistakes_are_words_with_tags(bad, between, tmp_path):
    """So that the line is named, and not the file as one of no known kind."""
    task, path = Tag(), tmp_path / "a.txt"
    path.write_text((SENTENCE.rstrip("\n") + f"\nwent O\nto O\n{bad}\n").replace(" ", between), encoding="utf-8")
    with pytest.raises(DataError, match=r"a.txt:6: (a word without a tag: 'York'|the tag 'B_LOC' is neither O|the tag 'loc' is neither O)"):
        task.look({"train": task.read([path])}, SILENT)


@pytest.mark.parametrize("label", ["E-commerce", "O"])
def test_a_table_of_texts_is_no_file_of_tags(label, tmp_path):
    path = tmp_path / "a.txt"
    for number in ("", "{n}\t"):
        rows = (f"{number.format(n=n)}the mill {n}\t{(label if n % 3 else 'shop') if n else 'W-LAN'}\n" for n in range(12))
        path.write_text("".join(rows), encoding="utf-8")
        assert read_examples([path]).kind == "table"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_two_columns_of_one_name_are_an_error(name, tmp_path):
    path, between = tmp_path / name, "," if name == "a.csv" else "\t"
    if name == "a.parquet":
        pq.write_table(pa.table([["mill"], ["river"], ["x"]], names=["text", "text", "label"]), path)
    else:
        path.write_text("\n" + "\n".join(between.join(row) for row in (["text", "text", "label", "", ""], ["a", "b", "x", "1", "2"])))
    line = "" if name == "a.parquet" else ":2"
    with pytest.raises(DataError, match=f"{name}{line}: 2 columns are called 'text'. Give each a name of its own"):
        read_examples([path])


def test_the_numbers_that_pandas_writes_first_have_no_name(tmp_path):
    rows, _ = _read(tmp_path / "a.csv", [",said,mood", *(f"{n},the mill {n},{'good' if n % 2 else 'bad'}" for n in range(9))])
    assert rows[0] == {"column 1": "0", "said": "the mill 0", "mood": "bad"} and len(rows) == 9
    rows, _ = _read(tmp_path / "a.csv", [",ham", *(f"message {n},{'ham' if n % 3 else 'spam'}" for n in range(9))])
    assert rows[0] == {"1": "", "2": "ham"} and len(rows) == 10
    rows, _ = _read(tmp_path / "a.csv", [",egg", *(f"message {n},{'ham' if n % 3 else 'spam'}" for n in range(9))])
    assert rows[0] == {"1": "", "2": "egg"} and len(rows) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('text\nabc\n""\n   \nxyz\n\n', ["abc", "", "   ", "xyz"]),
        ("text,label\n\nabc,a\n,\nxyz,b\n,\n,\n", ["abc", "", "xyz"]),
        (",\ntext,label\nabc,a\n  \nxyz,b\n", ["abc", "xyz"]),
        ("text\tlabel\nabc\ta\n\t\nxyz\tb\n\t\n\n", ["abc", "", "xyz"]),
    ],
)
def test_a_row_of_nothing_between_others_stays_a_row(tmp_path, text, expected):
    """Answers would stand beside the wrong lines; empty rows at the ends, as spreadsheets leave them, are none."""
    path = tmp_path / ("a.tsv" if "\t" in text else "a.csv")
    path.write_text(text)
    assert [record.values["text"] for record in read_examples([path]).records] == expected


@pytest.mark.parametrize("text", [",\n,\n", "\t\t\n\n\t\t\n"])
def test_a_table_of_nothing_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match="no row of this table holds anything|empty"):
        read_examples([tmp_path / "a.csv"])


@pytest.mark.parametrize(("data", "place"), [(b"text,label\nab\x00c,a\n", 13), (b"\x89PNG\r\n\x1a\n picture", 0)])
def test_bytes_that_no_text_has_are_said_once_with_their_place(tmp_path, data, place):
    (tmp_path / "a.csv").write_bytes(data)
    said = io.StringIO()
    with pytest.raises(DataError, match=rf"a\.csv, from byte {place}: not text\. Write it as text in UTF-8, without NUL bytes"):
        read_examples([tmp_path / "a.csv"], reporter=Reporter(stream=said))
    assert not said.getvalue()
