from __future__ import annotations

import errno
import json
import os
import signal
import time

import pytest

from wordmill.cli import common
from wordmill.cli.app import COMMANDS, Group, main
from wordmill.core.errors import DataError


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word, entry in COMMANDS.items():
        for below in entry.commands if isinstance(entry, Group) else [""]:
            assert f"{word} {below}".strip() in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wordmill 0.")


def test_a_misspelt_command_gets_the_nearest_name(capsys):
    assert main(["docter"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'docter'. Did you mean 'doctor'?\n"


def test_a_misspelt_option_gets_the_nearest_name_in_one_line(capsys):
    assert main(["doctor", "--devise", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: No such option: --devise")
    assert "--device" in error
    assert error.count("\n") == 1


def test_an_error_that_the_user_can_mend_is_one_line_and_exit_code_2(capsys):
    def broken() -> None:
        raise DataError("not valid JSON", where="a.jsonl:3", fix="Mend it")

    assert common.run(broken) == 2
    assert capsys.readouterr().err == "error: a.jsonl:3: not valid JSON. Mend it\n"


def test_our_own_faults_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        common.run(lambda: 1 / 0)


def test_ctrl_c_is_130(capsys):
    def stopped() -> None:
        raise KeyboardInterrupt

    assert common.run(stopped) == 130


def test_a_number_returned_is_the_exit_code():
    assert common.run(lambda: 1) == 1
    assert common.run(lambda: None) == 0


def test_emit(capsys):
    common.emit(True, {"bpb": 1.5, "文": "字"}, "for people")
    common.emit(False, {}, "for people")
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"bpb": 1.5, "文": "字"}
    assert second == "for people"


def test_every_reporting_command_takes_json_and_quiet():
    from wordmill.cli.docs import all_commands, help_of

    for name, command in all_commands():
        text = help_of(name, command)
        assert "--quiet" in text, name
        assert "--json" in text, name


def test_sigterm_unwinds_so_that_nothing_half_made_is_left(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    part = tmp_path / ".corpus.part"

    def work():
        part.mkdir()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            part.rmdir()

    assert common.run(work) == 143
    assert not part.exists() and "SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EFBIG, errno.EDQUOT, errno.ENOTDIR])
def test_what_the_system_refuses_is_one_line_wherever_it_happens(capsys, number):
    def refused():
        raise OSError(number, os.strerror(number), "somewhere/file")

    assert common.run(refused) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: somewhere/file: {os.strerror(number).lower()}") and error.count("\n") == 1

    def fault():
        raise FileNotFoundError(errno.ENOENT, "a fault of ours", "x")

    with pytest.raises(FileNotFoundError):
        common.run(fault)


def test_bytes_that_are_no_text_are_refused_with_their_place(capsys, tmp_path):
    word = os.fsdecode(b"caf\xe9")
    assert main(["generate", "model", word]) == 2
    assert capsys.readouterr().err == "error: argument 3: these bytes are not UTF-8: 'caf\\\\xe9'. Write it in UTF-8\n"
    assert main(["fill", "model", "--device", "cpu", word]) == 2
    assert "argument 5" in capsys.readouterr().err
    (tmp_path / f"{word}.txt").write_text("".join(f"Name {n} of a file may have them.\n" for n in range(60)))
    assert main(["corpus", "build", str(tmp_path / f"{word}.txt"), "-o", str(tmp_path / "c"), "-q"]) == 0
