"""Command lines to calls, and errors to exit codes.

Each command imports what it needs when it runs, so `mlops --help` stays quick. Results go to stdout,
progress and errors to stderr; `--json` prints one object.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.parser import build_parser
from mlops_tasks.errors import PipelineError
from mlops_tasks.serving.logs import json_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

INTERRUPTED = 130
ALLOCATIONS_PER_COLLECTION = 100_000
"""Python's 700 make it go through the million objects of our libraries over and over: a third of what importing them takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    _collect_rarely()
    args = build_parser().parse_args(argv)
    try:
        result = importlib.import_module(f"mlops_tasks.cli.{args.module}").run(args)
    except PipelineError as error:
        _tell(error, args)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was finished is kept\n")
        return INTERRUPTED
    if args.json:
        print(json.dumps({} if result is None else result, indent=2, default=_plain))  # noqa: T201 - the command's result
    elif result is not None:
        importlib.import_module("mlops_tasks.cli.view").show(args.module, result)
    return 0


def _collect_rarely() -> None:
    """Look for garbage less often, and at the end, where everything goes anyway, not at all: that takes 3 s."""
    gc.set_threshold(ALLOCATIONS_PER_COLLECTION, 50, 100)
    atexit.register(gc.freeze)


def _plain(value: object) -> str:
    """Write times as other programs read them."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _tell(error: PipelineError, args: argparse.Namespace) -> None:
    """Print an error for people on stderr and, with --json, as the one object on stdout."""
    described: dict[str, Any] = {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    if args.json:
        print(json.dumps(described, indent=2))  # noqa: T201 - the command's result
    said = f"{type(error).__name__}: {error}"
    if getattr(args, "log_format", "text") == "json":
        json_line(said, logger=f"mlops.{args.command}", level="error")
    else:
        sys.stderr.write(f"{said}\n")
