from __future__ import annotations

import io
import json
import os
import signal

import pytest

from wordmill.cli import app
from wordmill.cli import chat as module
from wordmill.generate import Dialogue


@pytest.fixture
def folder(make_loaded, tmp_path):
    make_loaded(max_positions=256).save(tmp_path / "model")
    return str(tmp_path / "model")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def talk(folder, monkeypatch, capsys):
    """Runs `wordmill chat` on lines; returns its exit code, output and notes."""

    def run(lines, *options, terminal=False):
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr("sys.stdin", Terminal(text) if terminal else io.StringIO(text))
        if terminal:
            left = iter(lines)

            def typed(_ask):
                line = next(left, None)
                if line is None:
                    raise EOFError
                if line == "^C":
                    raise KeyboardInterrupt
                return line

            monkeypatch.setattr("builtins.input", typed)
        code = app.main(["chat", folder, "--max-tokens", "8", *options])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_plain_lines_where_the_input_is_no_terminal(talk):
    code, out, err = talk(["the river", "", "the mill"], "-t", "0")
    assert code == 0 and out.endswith("\n")
    assert "was not trained to chat" in err and "›" not in out
    assert talk(["the river", "", "the mill"], "-t", "0")[1] == out


def test_bytes_that_are_no_text_are_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hel\xe9lo\n"), encoding="utf-8", errors="surrogateescape"))
    assert app.main(["chat", folder, "--max-tokens", "8", "--json"]) == 2
    out = capsys.readouterr()
    assert "standard input, line 1: not UTF-8 text" in out.err and not out.out
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff/reset\nthe river\n"))
    assert app.main(["chat", folder, "--max-tokens", "8", "--json", "--quiet"]) == 0
    assert [turn["content"] for turn in json.loads(capsys.readouterr().out)["messages"][:1]] == ["the river"]


def test_json_is_one_object(talk):
    code, out, _ = talk(["/system Be short.", "the river", "//etc"], "--json", "--quiet")
    found = json.loads(out)
    assert code == 0
    assert [turn["role"] for turn in found["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert found["messages"][3]["content"] == "/etc"


def test_commands_at_a_terminal(talk, tmp_path):
    place = tmp_path / "talk.jsonl"
    lines = ["the river", "^C", "/help", "/nothing", "/reset now", "/save", f"/save {place}", f"/save {place}", "/reset",
             "/system Be short.", "hi", "/exit", "never said"]  # fmt: skip
    code, _, err = talk(lines, terminal=True)
    assert code == 0
    assert json.loads(place.read_text("utf-8"))["messages"][0] == {"role": "user", "content": "the river"}
    for said in ("Ctrl-D ends", "/system  TEXT", "no command '/nothing'", "/reset takes nothing", "wants the name of a file",
                 "there already", "begun anew", "the system says: Be short."):  # fmt: skip
        assert said in err
    assert "never said" not in err


def test_an_empty_conversation_is_not_saved(talk, tmp_path):
    place = tmp_path / "talk.jsonl"
    code, _, err = talk([f"/save {place}", "/system Be short.", f"/save {place}", "hi", "/reset", f"/save {place}", "/exit"], terminal=True)
    assert code == 0 and err.count("there is nothing to save yet") == 3 and not place.exists() and "written to" not in err


def test_ctrl_c_stops_the_answer_and_not_the_program(talk, monkeypatch):
    def say(self, text):
        self.messages.append({"role": "user", "content": text})
        for piece in ("one", "two", "three"):
            if text == "stop" and piece == "two":
                os.kill(os.getpid(), signal.SIGINT)
            yield piece

    monkeypatch.setattr(Dialogue, "say", say)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = talk(["stop", "go on"], terminal=True)
    assert (code, out) == (0, "onetwo\nonetwothree\n\n")
    assert "stopped" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_it(talk, monkeypatch):
    def say(self, text):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        yield "never"

    monkeypatch.setattr(Dialogue, "say", say)
    code, out, _ = talk(["stop"], terminal=True)
    assert code == 130 and "never" not in out


def test_errors_end_a_pipe_with_2(talk):
    assert talk(["/nothing"])[0] == 2
    assert talk([])[0] == 2
    code, _, err = talk(["the mill " * 400])
    assert code == 2 and "Shorten it" in err
    assert talk(["hi"], "--context", "1000")[0] == 2
    assert talk(["hi"], "-t", "-1")[0] == 2


def test_after_a_bad_line_the_rest_of_a_pipe_is_read(talk):
    code, out, err = talk(["/nothing", "the river", "/save", "the mill"], "--json", "--quiet")
    assert code == 2
    assert [turn["content"] for turn in json.loads(out)["messages"] if turn["role"] == "user"] == ["the river", "the mill"]
    for said in ("line 1: there is no command '/nothing'", "line 3: /save wants the name of a file", "2 lines of standard input"):
        assert said in err


def test_json_holds_what_was_said_before_a_reset_too(talk):
    code, out, _ = talk(["/system Be short.", "one", "/reset", "/reset", "two", "/system"], "--json", "--quiet")
    found = json.loads(out)
    assert code == 0
    talks = [*found["before"], found["messages"]]
    assert [[turn["content"] for turn in said if turn["role"] == "user"] for said in talks] == [["one"], ["two"]]
    assert "before" not in json.loads(talk(["one"], "--json", "--quiet")[1])


def test_every_command_has_its_help():
    assert set(module.COMMANDS) == {"/reset", "/system", "/save", "/help", "/exit"}
