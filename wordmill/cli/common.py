"""What the subcommands share: options, results, and how errors end a command.

A subcommand is a plain function in a module of its own, listed in `wordmill.cli.app.COMMANDS`. It raises
`WordmillError` for what the user can mend, sends progress to `reporter(quiet)` and its result to `emit`.
"""

from __future__ import annotations

import difflib
import errno
import json as json_module
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from wordmill.core.errors import WordmillError
from wordmill.core.handlers import handling
from wordmill.core.progress import Reporter

if TYPE_CHECKING:
    from wordmill.generate import Loaded

REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
           errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOMEM, errno.ENOTDIR}  # fmt: skip
"""What the system says for reasons that lie outside of us."""
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes; warnings still show.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model folder (runs/x/model, or runs/x), or a name on the Hugging Face hub.", show_default=False
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, or cuda:1 and the like.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, bf16 or fp32: the numbers to compute with.")]
TopKOption = Annotated[int, typer.Option("--top-k", help="Keep only so many of the likeliest tokens (0: all).")]
TopPOption = Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens that together have this probability.")]
MinPOption = Annotated[float, typer.Option("--min-p", help="Drop tokens below this share of the likeliest one's probability.")]
PenaltyOption = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1 makes tokens that were there before less likely.")
]
TEMPERATURE = "Below 1 safer, above 1 wilder; 0 always takes the likeliest token."

# typer's usage errors come from click, which newer versions of typer carry inside; this finds the class wherever it lives.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


class ClickCommand(Protocol):
    """What we use of a click command."""

    def make_context(self, info_name: str, args: list[str], **settings: Any) -> Any:
        """A context, for the help text."""

    def get_help(self, context: Any) -> str:
        """What --help prints."""

    def main(self, args: Sequence[str], *, prog_name: str, standalone_mode: bool) -> Any:
        """Parse `args` and call the function."""


def click_command(function: Callable[..., Any], name: str) -> ClickCommand:
    """The command line of a function, read from its signature and docstring."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    # Settings such as model.layers=6 may stand anywhere among the options, hence interspersed arguments (the default of click).
    app.command(name.split()[-1], context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})(function)
    command: ClickCommand = typer.main.get_command(app)
    return command


def reporter(quiet: bool) -> Reporter:
    """Where this command's progress goes: standard error, or nowhere but for warnings."""
    return Reporter(quiet=quiet)


def emit(json: bool, value: Mapping[str, Any], text: str) -> None:
    """The result on standard output: `value` as one line of JSON when `json`, `text` for people otherwise."""
    print(json_module.dumps(value, ensure_ascii=False) if json else text, flush=True)


def open_model(model: str, device: str, dtype: str, *, reading: bool = False, fast: bool = False) -> Loaded:
    """A model folder or a hub's model, opened. What is wrong with the folder is said before a second goes by.

    `reading`: one prompt at a time, bound by the reading of weights. `fast`: float32 products the fastest way that is as exact.
    """
    from wordmill.models.hub import resolve_model

    folder = resolve_model(model)
    from wordmill.core.device import choose_device, choose_dtype, crawls, tune_float32
    from wordmill.generate.loaded import load_on
    from wordmill.models.adapters import read_shape

    read_shape(folder)
    chosen = choose_device(device)
    numbers = choose_dtype(dtype, chosen, reading=reading)
    if (slow := crawls(dtype, chosen)) is not None:
        reporter(quiet=True).warn(slow)
    if fast and chosen.type == "cpu" and str(numbers) == "torch.float32":
        tune_float32()
    return load_on(folder, chosen, numbers)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a command has no better answer to it (training saves a checkpoint)."""


def _unwind(_number: int, _frame: object) -> None:
    """Answers SIGTERM so that what a command had begun is cleared away."""
    raise Terminated


def run(call: Callable[[], object]) -> int:
    """Call, and turn what ends it into an exit code and at most one line on standard error.

    0 when it returned; 2 for a `WordmillError` or wrong usage; 130 for Ctrl-C; 141 when the reader of the output went
    away; 143 for SIGTERM, which ends a command as Ctrl-C does: half-made folders are removed. What the system refuses (no permission, a
    disk that is full or broken) is said in one line too, wherever it happens. Other exceptions are faults of ours and keep their traceback.
    """
    try:
        with handling(_unwind, signal.SIGTERM):
            result = call()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except WordmillError as error:
        return _fail(error.one_line())
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        # Nobody reads any more: say nothing, and keep Python from trying to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{os.strerror(error.errno).lower()}. Mend that, then run the same command again (with --resume for a run)")
    except Terminated:
        print("stopped by SIGTERM", file=sys.stderr)
        return TERMINATED
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except _ClickException as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoSuchOption":
            return _fail(_no_option(getattr(error, "option_name", ""), context))
        hint = f" Try '{context.command_path} --help'." if context is not None else ""
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _fail(message.rstrip(".") + "." + hint)


def _no_option(name: str, context: Any) -> str:
    """What to say of an option that a command doesn't have: what it is called here, or the nearest."""
    from wordmill.cli.names import option_called

    options = [option for each in context.command.params for option in each.opts if option.startswith("--")]
    section = {"pretrain": "model", "finetune": "task"}.get((context.info_name or "").split()[-1])
    here = None if section is None else option_called(name, options, section)
    close = difflib.get_close_matches(name.lstrip("-"), [option.lstrip("-") for option in options], n=1)
    fix = here or (f"Did you mean --{close[0]}?" if close else f"Try '{context.command_path} --help'")
    return f"there is no option {name}. {fix}"


def _fail(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 2
