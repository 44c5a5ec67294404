"""The command line's parser to docs/reference/cli.md; not its `--help`, whose layout differs between Pythons."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING

from mlops_tasks.cli.parser import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRO = """# mlops

Each command's own help (`mlops COMMAND --help`) says the same. `--json` prints one object on stdout; progress and
tables for people go to stderr. [errors.md](errors.md) lists the exit codes, [environment.md](environment.md) the
variables.
"""


def cli_page() -> str:
    """Return the page."""
    return INTRO + "\n" + "\n\n".join(_section(parser) for parser in _commands(build_parser())) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands."""
    yield parser
    for action in _subcommands(parser):
        for command in dict.fromkeys(action.choices.values()):
            yield from _commands(command)


def _section(parser: argparse.ArgumentParser) -> str:
    arguments = [action for action in parser._actions if _is_shown(action)]  # noqa: SLF001 - argparse names no public way
    parts = [f"## `{parser.prog}`", inspect.cleandoc(parser.description or "")]
    if arguments:
        rows = [f"| `{_form(action)}` | {_meaning(parser, action)} |" for action in arguments]
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    return "\n\n".join(part for part in parts if part)


def _subcommands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001 - as above


def _is_shown(action: argparse.Action) -> bool:
    hidden = (argparse._SubParsersAction, argparse._HelpAction)  # noqa: SLF001 - as above
    return not isinstance(action, hidden) and action.help != argparse.SUPPRESS


def _form(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return metavar
    takes_value = action.nargs != 0
    choices = "{" + ",".join(str(choice) for choice in action.choices) + "}" if action.choices else metavar
    return ", ".join(action.option_strings) + (f" {choices}" if takes_value else "")


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = " ".join((action.help or "").split()).replace("|", "\\|")
    values = {**vars(action), "prog": parser.prog}
    return text % values if text else ""
