from __future__ import annotations

import errno
import hashlib
import io

import pytest

from wordmill.core.errors import DataError, DiskFullError, UsageError, WriteError, disk_errors
from wordmill.core.files import (
    hash_file,
    hash_values,
    new_folder,
    occupied,
    read_json,
    standard_lines,
    write_atomic,
    write_json,
    write_text,
)


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(part):
        part.write_text("ha")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_space_left_is_said(tmp_path):
    def full(part):
        part.write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="no space left while writing a.txt"):
        write_atomic(tmp_path / "a.txt", full)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PermissionError), disk_errors(tmp_path, "writing"):
        raise PermissionError  # nothing that the system said: a fault of ours


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFullError, "no space left while"),
        (errno.EDQUOT, DiskFullError, "quota while"),
        (errno.EFBIG, DiskFullError, "ulimit -f.* while"),
        (errno.EROFS, WriteError, "read-only file system while"),
        (errno.EACCES, WriteError, "permission denied while"),
        (errno.EIO, WriteError, "input/output error while"),
    ],
)
def test_what_the_system_refuses_is_one_line(tmp_path, number, kind, words):
    with pytest.raises(kind, match=words) as caught:
        write_atomic(tmp_path / "a.txt", lambda part: (_ for _ in ()).throw(OSError(number, "what it says", str(part))))
    assert "\n" not in str(caught.value) and "a.txt" in str(caught.value)


def test_json(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="no such file"):
        read_json(path)
    write_json(path, {"文": [1, 2]})
    assert "文" in path.read_text(encoding="utf-8")
    assert read_json(path) == {"文": [1, 2]}
    path.write_text('{\n"a": \n}')
    with pytest.raises(DataError, match=r"a\.json:3"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="object"):
        read_json(path)


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1}) != hash_values({"a": 1, "b": 3})


def test_a_new_folder_overwrites_nothing(tmp_path):
    assert new_folder(tmp_path / "a" / "b").is_dir()
    assert new_folder(tmp_path / "a" / "b").is_dir()
    with pytest.raises(UsageError, match="already exists"):
        new_folder(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        new_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="can't make"):
        new_folder(tmp_path / "file" / "below")


def test_a_folder_is_worked_in_by_one_alone(tmp_path):
    with occupied(tmp_path), pytest.raises(UsageError, match="another wordmill is at work"), occupied(tmp_path):
        pass
    with occupied(tmp_path):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"


def test_a_byte_order_mark_is_no_text(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff很好吃\n\ufeffno\n"))
    assert list(standard_lines()) == ["很好吃\n", "\ufeffno\n"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_standard_input_that_is_no_text_is_refused(monkeypatch, errors):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\xe4\xba\x8c\n"), "utf-8", errors))
    assert list(standard_lines()) == ["one\n", "二\n"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9\n"), "utf-8", errors))
    with pytest.raises(DataError, match="standard input.*not UTF-8"):
        list(standard_lines())
