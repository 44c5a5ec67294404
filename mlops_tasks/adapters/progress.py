"""Progress for people: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_tasks.ports import Bar, Progress

LOG_EVERY_S = 5.0


def progress_for(stream: TextIO | None = None) -> Progress:
    """Return bars if the stream (default: stderr) is a terminal, else lines."""
    stream = stream or sys.stderr
    return TerminalProgress(stream) if stream.isatty() else LogProgress(stream)


class LogProgress:
    """Writes one plain line at a bar's start and end, and every five seconds between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def bar(self, description: str, total: float | None) -> Iterator[Bar]:
        """Show one bar as lines."""
        bar = _LogBar(self, description, total)
        yield bar
        bar.finish()

    def note(self, message: str) -> None:
        """Write one line."""
        self._stream.write(message + "\n")
        self._stream.flush()


class _LogBar:
    def __init__(self, progress: LogProgress, description: str, total: float | None) -> None:
        self._progress, self._description, self._total = progress, description, total
        self._done, self._fields = 0.0, dict[str, object]()
        self._started = self._told = time.monotonic()

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._done += amount
        self._fields |= fields
        if time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            self._say()

    def finish(self) -> None:
        self._say(f" in {time.monotonic() - self._started:.1f} s")

    def _say(self, end: str = "") -> None:
        total = f"/{self._total:g}" if self._total is not None else ""
        self._progress.note(f"{self._description}: {self._done:g}{total}{_shown(self._fields)}{end}")


class TerminalProgress:
    """Draws rich bars with elapsed and remaining time and the fields that a bar is given."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - not needed in logs

        self._console = Console(file=stream)

    @contextmanager
    def bar(self, description: str, total: float | None) -> Iterator[Bar]:
        """Show one bar."""
        from rich import progress as rich  # noqa: PLC0415 - not needed in logs

        columns = (
            rich.TextColumn("{task.description:<18}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[shown]}", style="cyan"),
        )
        with rich.Progress(*columns, console=self._console) as drawn:
            yield _TerminalBar(drawn, drawn.add_task(description, total=total, shown=""))

    def note(self, message: str) -> None:
        """Write one line."""
        self._console.print(message, markup=False, highlight=False)


class _TerminalBar:
    def __init__(self, drawn: object, task: object) -> None:
        self._drawn, self._task, self._fields = drawn, task, dict[str, object]()

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._fields |= fields
        self._drawn.update(self._task, advance=amount, shown=_shown(self._fields))  # type: ignore[attr-defined]  # rich is imported late


def _shown(fields: dict[str, object]) -> str:
    parts = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in fields.items())
    return "  ".join(["", *parts]) if fields else ""
