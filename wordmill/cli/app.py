"""The `wordmill` command: a table of subcommands, each a plain function that is imported when it is called.

A function's signature and docstring are its command line (typer reads them). The table repeats the first line of
each docstring, so that `wordmill --help` imports nothing: not even typer, which alone takes 0.2 s. The tests
compare the two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from wordmill import __version__
from wordmill.core.errors import UsageError, nearest

if TYPE_CHECKING:
    from wordmill.cli.common import ClickCommand


@dataclass(frozen=True)
class Command:
    """One subcommand: `place` is "module:function" below `wordmill.cli`; `help` the first line of its docstring."""

    place: str
    help: str


@dataclass(frozen=True)
class Group:
    """Subcommands under a common word (`wordmill corpus build`)."""

    help: str
    commands: dict[str, Command]


COMMANDS: dict[str, Command | Group] = {
    "demo": Command("demo:demo", "The whole way on this machine's own Python library, offline."),
    "corpus": Group(
        "Text into a corpus folder, and what is in one.",
        {
            "build": Command("corpus:build", "Turn files and folders of text into a corpus folder."),
            "show": Command("corpus:show", "Show a corpus: its counts, and the first few documents."),
            "stats": Command("corpus:stats", "Count documents, bytes, lengths, languages and sources of a corpus."),
        },
    ),
    "tokenizer": Group(
        "Train a tokenizer, and see what one does.",
        {
            "train": Command(
                "tokenizer:train", "Train a tokenizer on the training documents of a corpus, and report on its validation documents."
            ),
            "show": Command("tokenizer:show", "Show a tokenizer: kind, size, special tokens, and the report made when it was trained."),
            "encode": Command("tokenizer:encode", "Show the tokens of a text with their ids."),
        },
    ),
    "pretrain": Command("pretrain:pretrain", "Train a language model on text, in the time you have."),
    "finetune": Command("finetune:finetune", "Fine-tune a model for a task, from a table of examples."),
    "evaluate": Command("evaluate:evaluate", "How good a model is: its task's metric, or bits per byte and perplexity on text."),
    "predict": Command("predict:predict", "Answer inputs with a fine-tuned model, one JSON object each."),
    "compare": Command("predict:compare", "Compare two fine-tuned models on the same examples, with a confidence interval."),
    "generate": Command("generate:generate", "Continue a text, or write the target of a source."),
    "chat": Command("chat:chat", "Talk with a model."),
    "fill": Command("fill:fill", "Fill the gaps of a text with likely words."),
    "embed": Command("embed:embed", "Turn texts into vectors."),
    "info": Command("info:info", "What a model is: its parts, size, memory, tokenizer and origin."),
    "doctor": Command("doctor:doctor", "What this machine can do, measured, and what wordmill will use."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 an error that the user can mend, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS, "wordmill", "Raw text in, a language model that you can use out: on the machine that you have."))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"wordmill {__version__}")
        return 0
    from wordmill.cli.common import run

    def checked() -> object:
        check_text(words)
        return call(words)

    return run(checked)


def check_text(words: Sequence[str]) -> None:
    """Raises `UsageError` for a word with bytes that are not text in the terminal's encoding: it would be read as something else. Names of
    files may have such bytes."""
    for number, word in enumerate(words, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            name = word.partition("=")[2] if word.startswith("-") else word
            if not os.path.lexists(name):
                shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                raise UsageError(f"these bytes are not UTF-8: {shown!r}", where=f"argument {number}", fix="Write it in UTF-8") from None


def call(words: Sequence[str]) -> object:
    """Run one subcommand: what it returns, or raises. A number returned is the exit code."""
    name, command, rest = _find(words)
    if isinstance(command, Group):
        print(overview(command.commands, name, command.help))
        return 0
    return build(name, command).main(rest, prog_name=name, standalone_mode=False)


def build(name: str, command: Command) -> ClickCommand:
    """Import a subcommand's module and make its command line."""
    from wordmill.cli.common import click_command

    module, function = command.place.split(":")
    return click_command(getattr(import_module(f"wordmill.cli.{module}"), function), name)


def overview(commands: dict[str, Command] | dict[str, Command | Group], name: str, about: str) -> str:
    """The help of a group: one line a subcommand."""
    rows: list[tuple[str, str]] = []
    for word, command in commands.items():
        inner = command.commands if isinstance(command, Group) else {"": command}
        rows += [(f"{word} {below}".strip(), entry.help) for below, entry in inner.items()]
    width = max(len(word) for word, _ in rows)
    lines = [f"  {word:{width}}  {text}" for word, text in rows]
    head, foot = f"Usage: {name} COMMAND …\n\n  {about}\n\nCommands:", f"\n`{name} COMMAND --help` tells more about one."
    return "\n".join([head, *lines, foot])


def _find(words: Sequence[str]) -> tuple[str, Command | Group, list[str]]:
    """The full name of the command that `words` begin with, its entry, and the words left over."""
    word, rest = words[0], list(words[1:])
    if word not in COMMANDS:
        raise UsageError(f"there is no command {word!r}", fix=nearest(word, COMMANDS))
    entry = COMMANDS[word]
    if not isinstance(entry, Group) or not rest or rest[0] in ("-h", "--help"):
        return f"wordmill {word}", entry, rest
    if rest[0] not in entry.commands:
        raise UsageError(f"there is no command '{word} {rest[0]}'", fix=nearest(rest[0], entry.commands))
    return f"wordmill {word} {rest[0]}", entry.commands[rest[0]], rest[1:]
