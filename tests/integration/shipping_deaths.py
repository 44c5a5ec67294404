"""Kills a shipper at each moment of its work: `python -m tests.integration.shipping_deaths LOG_FOLDER RESULTS_FOLDER`.

For the nth moment there is a copy of the log in `RESULTS/n/log` and a store in `RESULTS/n/store`, as two shippers left them:
one that was killed at that moment, and one that came after. It prints what the first was about to do at each.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.serving.recording.shipper import Shipper

MOMENTS = ((LocalStore, "create"), (LocalStore, "read"), (os, "link"), (os, "fsync"),
           (Path, "unlink"), (Path, "rename"), (Path, "write_bytes"))  # fmt: skip


def die_at(number: int, told: int) -> None:
    """Make this process kill itself before or after its nth change: both count."""
    counted = itertools.count(1)

    def reach(what: str) -> None:
        if next(counted) == number:
            os.write(told, f"{what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, name in MOMENTS:
        setattr(owner, name, _wrapped(getattr(owner, name), name, reach))


def _wrapped(real: Any, name: str, reach: Any) -> Any:
    @functools.wraps(real)
    def wrapped(*args: Any, **more: Any) -> Any:
        reach(f"before {name}")
        result = real(*args, **more)
        reach(f"after {name}")
        return result

    return wrapped


def ship(folder: Path) -> None:
    Shipper(folder / "log", "shop", LocalStore(folder / "store"), lambda _: None).ship()


def forked(work: Any) -> int:
    """Do it in a process of its own; return how that ended."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the child ends here
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    template, results = Path(sys.argv[1]), Path(sys.argv[2])
    for number in itertools.count(1):
        folder = results / str(number)
        shutil.copytree(template, folder / "log")

        def dying(folder: Path = folder, number: int = number) -> None:
            die_at(number, sys.stdout.fileno())
            ship(folder)

        code = forked(dying)
        if not code:
            shutil.rmtree(folder)
            return
        assert code == -signal.SIGKILL
        assert forked(lambda folder=folder: ship(folder)) == 0


if __name__ == "__main__":
    main()
