"""Log records to lines on stderr, as text or JSON objects; neither holds what a request held."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_tasks.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger(__name__)
OURS = "mlops.serve"
CHAIN = 8
"""Errors that led to one another and are shown."""


@contextmanager
def logging_to_stderr(log_format: str) -> Iterator[None]:
    """Write what any library logs, from a warning on, in the chosen format as long as the context is open.

    Raises:
        SystemExit: 1, for an error that nobody foresaw: it is logged, since Python would show its message.

    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    try:
        yield
    except PipelineError:
        raise
    except Exception:
        log.critical("the server crashed, which is a bug", exc_info=True)
        raise SystemExit(1) from None
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(capture=False)


def teller(log_format: str, announce: Callable[[str], None], logger: str = OURS) -> Callable[[str], None]:
    """Return what says a line to people: JSON to stderr if that is the format, else `announce`."""
    return partial(json_line, logger=logger) if log_format == "json" else announce


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip(),
        }
        if record.exc_info:
            said["errors"] = describe(record.exc_info[1])
        return json.dumps(said, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """A record as a line, and an error's types and places below it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines; a text that another handler made of the error is not used."""
        record.exc_text = None
        try:
            return super().format(record)
        finally:
            record.exc_text = None

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return the first line; what a message quotes can't begin another."""
        return super().formatMessage(record).rstrip().replace("\r", "\\r").replace("\n", "\\n")

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the library's name
        """Return type and places of an error and of those that led to it."""
        lines = []
        for error in describe(ei[1]):
            lines.append(": ".join(filter(None, (error["type"], error.get("message", "")))))
            lines += [f"  {place}" for place in error["at"]]
        return "\n".join(lines)


def describe(error: BaseException | None) -> list[dict[str, Any]]:
    """Return an error and those that led to it, the last first: type, places, and the message where it holds no values.

    Messages of our own errors and of the operating system's name files and keys; a library's may quote what it was given.
    """
    found: list[dict[str, Any]] = []
    while error is not None and len(found) < CHAIN:
        frames = traceback.extract_tb(error.__traceback__, limit=-20)
        kind = type(error)
        described = {"type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"}
        if isinstance(error, PipelineError | OSError):
            described["message"] = str(error)
        found.append({**described, "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def json_line(message: str, *, logger: str, level: str = "info") -> None:
    """Write one JSON object to stderr."""
    line = {"time": _time(), "level": level, "logger": logger, "message": message}
    sys.stderr.write(f"{json.dumps(line, ensure_ascii=False)}\n")
    sys.stderr.flush()


def _time(seconds: float | None = None) -> str:
    now = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return now.isoformat(timespec="milliseconds")
