"""`python -m demo start` and `python -m demo stop`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from demo import DemoError
from demo.services import Services

STATE = Path(".mlops")
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="A real Airflow runs the whole loop on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start", help="start what does not run, run what was not run yet, leave it running")
    commands.add_parser("stop", help="end everything that start started, children included")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=False, highlight=False, soft_wrap=not sys.stdout.isatty())
    services = Services(STATE.resolve())
    if chosen.command == "stop":
        return _stop(services, console)
    return _start(services, console)


def _start(services: Services, console: Console) -> int:
    from demo.loop import run_loop  # noqa: PLC0415 - stop must work whatever is broken in the rest

    try:
        run_loop(services, console)
    except DemoError as error:
        console.print(f"[red]make demo failed:[/] {error}", markup=True)
        console.print("What was started still runs: make stop ends it, make demo goes on from here.")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. What was started still runs: make stop ends it, make demo goes on from here.")
        return INTERRUPTED
    return 0


def _stop(services: Services, console: Console) -> int:
    ended = services.stop()
    for name, count in sorted(ended.items()):
        console.print(f"ended {name} ({count} process{'es' if count > 1 else ''})")
    if not ended:
        console.print("Nothing was running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
