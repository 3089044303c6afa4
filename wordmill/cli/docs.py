"""Writes the reference of the command line from the commands themselves: `python -m wordmill.cli.docs > docs/cli.md`."""

from __future__ import annotations

from wordmill.cli.app import COMMANDS, Command, Group, build, overview

WIDTH = 110


def reference() -> str:
    """The help texts of all commands, as Markdown; a test compares it with docs/cli.md."""
    parts = [
        "# The command line",
        "This page is made from the commands themselves (`python -m wordmill.cli.docs > docs/cli.md`).",
        _block(overview(COMMANDS, "wordmill", "Raw text in, a language model that you can use out: on the machine that you have.")),
    ]
    for name, command in all_commands():
        parts += [f"## {name}", _block(help_of(name, command))]
    return "\n\n".join(parts) + "\n"


def help_of(name: str, command: Command) -> str:
    """What `NAME --help` prints, at a fixed width."""
    click = build(name, command)
    with click.make_context(name, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH) as context:
        return str(click.get_help(context))


def all_commands() -> list[tuple[str, Command]]:
    """Every subcommand with its full name (`wordmill corpus build`)."""
    rows = []
    for word, entry in COMMANDS.items():
        if isinstance(entry, Group):
            rows += [(f"wordmill {word} {below}", command) for below, command in entry.commands.items()]
        else:
            rows.append((f"wordmill {word}", entry))
    return rows


def _block(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


if __name__ == "__main__":
    print(reference(), end="")
