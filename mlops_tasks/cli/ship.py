"""`mlops ship`: the request log to the store."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from mlops_tasks.errors import SpecError
from mlops_tasks.serving.logs import logging_to_stderr, teller
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.serving.recording.shipper import Shipper


def run(args: argparse.Namespace) -> dict[str, int] | None:
    """Ship what is finished once, or until a signal or, with --attached, the end of standard input.

    Raises:
        SpecError: no server of the pipeline logged anything here.
        StoreUnavailable: the rest could not be shipped.

    """
    from mlops_tasks.serving.recording.segments import FOLDER, log_folder  # noqa: PLC0415 - numpy and pyarrow, at first use
    from mlops_tasks.serving.recording.shipper import Shipper  # noqa: PLC0415 - likewise

    adapters = Adapters()
    folder = log_folder(args.name, os.environ)
    if not args.attached and not folder.is_dir():
        msg = f"{folder}: there is no request log of {args.name!r}; set {FOLDER} to the folder that its server logs to"
        raise SpecError(msg)
    say = teller(args.log_format, adapters.progress.note, "mlops.ship")
    shipper = Shipper(folder, args.name, adapters.store, say)
    if args.once:
        return vars(shipper.ship())
    with logging_to_stderr(args.log_format):
        _ship_on(shipper, attached=args.attached)
    return None


def _ship_on(shipper: Shipper, *, attached: bool) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if attached:
        threading.Thread(target=_until_alone, args=(stop,), daemon=True).start()
    shipper.run(stop)


def _until_alone(stop: threading.Event) -> None:
    """Stop when the server at the other end of standard input has ended, however it did."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
