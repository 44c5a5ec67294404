"""`mlops spark`: a warm Spark Connect server in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> None:
    """Serve until a signal. Raises: StoreUnavailable when the server ends by itself, SpecError."""
    from mlops_tasks.adapters.spark_server import Server, run_server  # noqa: PLC0415 - only here

    status = run_server(Server(args.master, args.memory, args.port, args.host))
    if status > 0 and status != 143:  # noqa: PLR2004 - a JVM's status after SIGTERM
        msg = f"spark: the server ended with status {status}; see its output above"
        raise StoreUnavailable(msg)
