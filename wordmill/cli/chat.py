"""`wordmill chat`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmill.cli.common import (
    TEMPERATURE,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    QuietOption,
    SeedOption,
    Terminated,
    TopKOption,
    TopPOption,
    emit,
    open_model,
    reporter,
)
from wordmill.core.errors import UsageError, WordmillError, nearest
from wordmill.core.files import standard_lines
from wordmill.core.progress import Reporter, plural, verb

if TYPE_CHECKING:
    from wordmill.generate.chat import Dialogue

COMMANDS = {
    "/reset": "begin anew",
    "/system": "TEXT: set what the system says; without TEXT take it away",
    "/save": "FILE: write the conversation as a line of JSON that can be trained on",
    "/help": "this list",
    "/exit": "end (so does Ctrl-D)",
}
ASK = "› "


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option("--system", help="What the system says first.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help=TEMPERATURE)] = 0.8,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", help="Tokens of the conversation at most; older turns are forgotten. [default: as trained]", show_default=False
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Talk with a model.

    At a terminal: type, read the answer as it comes, and stop one with Ctrl-C; /help lists what else there is. A line that begins with //
    is said with one / of them. Where the input is no terminal, each of its lines is a message or a command, and the answers are printed as
    plain lines.

    Example: echo "How many sacks are there?" | wordmill chat runs/x/model --temperature 0
    """
    from wordmill.generate import SamplingConfig

    settings: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    config = SamplingConfig.of({**settings, "repetition_penalty": repetition_penalty, "seed": seed}, where="chat")
    loaded = open_model(model, device, dtype, reading=True)
    from wordmill.generate.chat import Dialogue

    report, typed = reporter(quiet), sys.stdin.isatty()
    dialogue = Dialogue(loaded, config, system=system, context=context, reporter=report)
    if typed:
        report.note(f"{loaded.folder}: up to {dialogue.context:,} tokens; /help lists what can be done")
    bad, ended = 0, list[list[dict[str, Any]]]()
    for number, line in enumerate(_typed(report), 1) if typed else _piped():
        try:
            if line.startswith("/") and not line.startswith("//"):
                before = list(dialogue.messages)
                if not command(dialogue, line, report):
                    break
                if line == "/reset" and any(turn["role"] == "assistant" for turn in before):
                    ended.append(before)
            else:
                answer(dialogue, line.removeprefix("/") if line.startswith("//") else line, report, silent=json)
        except WordmillError as error:
            report.warn(error.one_line() if typed else f"line {number}: {error.one_line()}")
            bad += 1
    if json:
        emit(True, {"model": model, "settings": config.plain(), "messages": dialogue.messages, **({"before": ended} if ended else {})}, "")
    if bad and not typed:
        raise UsageError(f"{plural(bad, 'line')} of standard input {verb(bad, 'were')} not answered", fix="See the warnings above")


def command(dialogue: Dialogue, line: str, report: Reporter) -> bool:
    """Do what a line that begins with / says; False: it ends the conversation. Raises `UsageError` for one that isn't known."""
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "/system":
        dialogue.system(rest)
        report.note(f"the system says: {rest}" if rest else "the system says nothing")
        return True
    if word not in COMMANDS:
        raise UsageError(f"there is no command {word!r}", fix=f"To say what begins with /, type // instead. {nearest(word, COMMANDS)}")
    if bool(rest) != (word == "/save"):
        raise UsageError("/save wants the name of a file" if word == "/save" else f"{word} takes nothing behind it")
    if word == "/save":
        dialogue.save(rest)
        report.note(f"written to {rest}")
    elif word == "/reset":
        dialogue.reset()
        report.note("begun anew")
    elif word == "/help":
        report.note("\n".join(f"{name:8} {what}" for name, what in COMMANDS.items()))
    return word != "/exit"


def answer(dialogue: Dialogue, text: str, report: Reporter, *, silent: bool) -> None:
    """Say a message and print the answer as it comes, until it ends or Ctrl-C stops it."""
    with _stoppable() as stopped:
        pieces = dialogue.say(text)
        for piece in pieces:
            if not silent:
                print(piece, end="", flush=True)
            if stopped:
                break
        pieces.close()  # type: ignore[attr-defined]
    if not silent:
        print(flush=True)
    if stopped:
        report.note("stopped")
    elif dialogue.reason in ("length", "context"):
        most = f"{dialogue.config.max_tokens:,} tokens (--max-tokens)" if dialogue.reason == "length" else "the end of the context"
        report.warn(f"the answer was cut at {most}")


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C only puts something into the list: the model is never left in the middle of a step. A second one ends it."""
    stopped: list[int] = []

    def note(number: int, _frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _typed(report: Reporter) -> Iterator[str]:
    """Lines typed at a terminal, until Ctrl-D; Ctrl-C throws a line away."""
    with suppress(ImportError):  # there is none on some systems
        import readline  # noqa: F401 (input() then knows the arrow keys)
    while True:
        try:
            line = input(ASK).strip()
        except EOFError:
            print()
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            print()
            report.note("/exit or Ctrl-D ends")
            continue
        if line:
            yield line


def _piped() -> Iterator[tuple[int, str]]:
    """The lines of standard input that say something, with their numbers."""
    found = False
    for number, line in enumerate(standard_lines(), 1):
        if line.strip():
            found = True
            yield number, line.strip()
    if not found:
        raise UsageError("standard input holds no message", fix='For example: echo "hi" | wordmill chat MODEL')
