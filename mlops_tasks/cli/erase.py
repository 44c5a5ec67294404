"""`mlops erase`: somebody's answers out of the request log."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.arguments import read_pairs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.console import Console


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Erase. Raises: SpecError when nobody is named; DataRejected when a damaged file may still hold something."""
    from mlops_tasks.runner.erasing import Subject, erase  # noqa: PLC0415 - only this command needs it

    subject = Subject(tuple(args.entity), read_pairs(args.key, "--key") or None, tuple(args.id))
    who, now = getpass.getuser(), datetime.now(UTC)
    return erase(args.name, subject, who=who, reason=args.reason, now=now, dry_run=args.dry_run)


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print what is gone, what is not, and where."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    did = "would be erased" if result["dry_run"] else "erased"
    say(f"{result['rows']} rows {did} from {result['files']} files of the request log of {result['pipeline']}")
    if result["days"]:
        say(f"They were answered on {', '.join(result['days'])} (UTC)")
    for item in result["may_still_hold"]:
        say(f"May still hold them: {item['kind']} of {item['pipeline']} ({item['about']})")
        for what in item["what"]:
            say(f"  {what}")
    for text in result["not_reached"]:
        say(f"Not reached from here: {text}")
