"""What the commands' grammars share: a command with examples, a pipeline's name, a range, overrides."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse names no public type


def add_command(commands: Commands, name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
    """Add a command with its examples; `module` names the module of `mlops_tasks.cli` that runs it."""
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(module=name)
    return command


def add_name(command: argparse.ArgumentParser) -> None:
    """Add the pipeline."""
    command.add_argument("name", metavar="NAME", help="the pipeline: a folder under dags/pipelines (or MLOPS_PIPELINES)")


def add_range(command: argparse.ArgumentParser) -> None:
    """Add the range of windows, which must be given."""
    command.add_argument("--start", required=True, metavar="DATE", help="first window's start, UTC, e.g. 2013-01-01")
    command.add_argument("--end", required=True, metavar="DATE", help="last window's end, UTC, not included itself")


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Add changes of the spec and their reason."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the spec for this run",
    )
    command.add_argument("--reason", default="", help="why, for the ledger and the tracker")
