"""`mlops ship`: the request log to the store."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from mlops_tasks.errors import SpecError
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse


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
    shipper = Shipper(folder, args.name, adapters.store, adapters.progress.note)
    if args.once:
        return vars(shipper.ship())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.attached:
        threading.Thread(target=_until_alone, args=(stop,), daemon=True).start()
    shipper.run(stop)
    return None


def _until_alone(stop: threading.Event) -> None:
    """Stop when the server at the other end of standard input has ended, however it did."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
