"""What a person sees while work goes on: a bar with time left on a terminal, plain lines elsewhere.

Everything here goes to standard error, so that standard output holds results only. A `Reporter` is passed down
from the command (or the Python call) to whatever takes long; library code never prints.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

SECONDS_BETWEEN_LINES = 10.0


def human_time(seconds: float) -> str:
    """`75` → `1:15`; hours where there are any."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def human_count(number: float) -> str:
    """`13_900_000` → `13.9M`."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def plural(count: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


VERBS = {"are": "is", "were": "was", "have": "has", "don't": "doesn't", "teach": "teaches"}


def verb(count: int, several: str) -> str:
    """A verb as `count` things have it, given as several do: are → is, repeat → repeats for one."""
    return several if count != 1 else VERBS.get(several, several if several.endswith("ed") else f"{several}s")


def human_bytes(number: float) -> str:
    """`1_500_000` → `1.5 MB` (powers of ten)."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


class Task:
    """One piece of long work. `advance` says how far it is; `fields` are shown beside the bar (`loss="3.21"`)."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.begun = 0.0
        self.fields: dict[str, str] = {}
        self.started = time.monotonic()

    def advance(self, amount: float = 1, **fields: str) -> None:
        """Add `amount` to what is done and update the fields shown."""
        self.done += amount
        self.fields.update(fields)
        self._show()

    def set(self, done: float, **fields: str) -> None:
        """Set what is done in all."""
        self.done = done
        self.fields.update(fields)
        self._show()

    def begin(self, done: float) -> None:
        """Say what was done in an earlier sitting: it counts for how far the work is, not for its pace."""
        self.done = self.begun = done

    def seconds_left(self) -> float | None:
        """Time left at the pace so far; None before there is a pace or without a total."""
        passed = time.monotonic() - self.started
        here = self.done - self.begun
        if not self.total or here <= 0 or passed <= 0:
            return None
        return max(0.0, (self.total - self.done) * passed / here)

    def line(self) -> str:
        """The state in one plain line."""
        passed = time.monotonic() - self.started
        parts = [self.name]
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f} %")
        left = self.seconds_left()
        parts += [f"{name} {value}" for name, value in self.fields.items()]
        parts.append(f"{human_time(passed)} passed" + ("" if left is None else f", {human_time(left)} left"))
        return " · ".join(parts)

    def _show(self) -> None:
        """Drawn by the subclasses."""


class _LineTask(Task):
    def __init__(self, name: str, total: float | None, unit: str, stream: TextIO) -> None:
        super().__init__(name, total, unit)
        self.stream, self.last = stream, time.monotonic()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            print(self.line(), file=self.stream, flush=True)


class _BarTask(Task):
    def __init__(self, name: str, total: float | None, unit: str, bar: object) -> None:
        super().__init__(name, total, unit)
        self.bar = bar
        self.row = bar.add_task(name, total=total, fields="")  # type: ignore[attr-defined]

    def _show(self) -> None:
        text = " · ".join(f"{name} {value}" for name, value in self.fields.items())
        self.bar.update(self.row, completed=self.done, fields=text)  # type: ignore[attr-defined]


class Reporter:
    """Where notes, warnings and progress go. `quiet` drops all but warnings."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.warnings: list[str] = []
        self._bar: object | None = None

    @property
    def live(self) -> bool:
        """Whether a person is watching on a terminal."""
        return not self.quiet and self.stream.isatty()

    def note(self, text: str) -> None:
        """One line of information."""
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """One line that should not be missed; also kept in `warnings` for reports."""
        self.warnings.append(text)
        self._print(f"warning: {text}")

    def write(self, text: str) -> None:
        """Text as it is, without a line end: for what is streamed."""
        if not self.quiet:
            self.stream.write(text)
            self.stream.flush()

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)  # type: ignore[attr-defined]
        else:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Show a piece of long work: `with reporter.task("encoding", total=n) as task: task.advance()`."""
        if not self.live or self._bar is not None:
            yield Task(name, total, unit) if self.quiet else _LineTask(name, total, unit, self.stream)
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[fields]}"),
            TimeElapsedColumn(),
            TextColumn("passed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        ]
        with Progress(*columns, console=Console(file=self.stream), transient=True) as bar:
            self._bar = bar
            try:
                yield _BarTask(name, total, unit, bar)
            finally:
                self._bar = None


SILENT = Reporter(quiet=True)
"""For calls from Python that ask for no output (warnings still show)."""
