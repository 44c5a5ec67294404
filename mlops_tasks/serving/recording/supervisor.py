"""The shipper as a child of the server: started again when it dies, told to finish when the server ends.

Its standard input is a pipe from the server, so it learns of a server that was killed, too.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)
LONGEST_WAIT_S = 30.0
WELL_AFTER_S = 60.0
"""A child that ran this long is started again at once."""


class SupervisedShipper:
    """A `mlops ship` that is there as long as this process is."""

    def __init__(self, command: Sequence[str], announce: Callable[[str], None]) -> None:
        self._command, self._announce = list(command), announce
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._child = self._launch()
        self._announce(f"request log: shipped by process {self._child.pid}")
        self._thread = threading.Thread(target=self._keep, name="request-log-shipper", daemon=True)
        self._thread.start()

    def stop(self, patience_s: float = 20.0) -> bool:
        """Let it ship what is finished, then end; return whether it did within `patience_s`. What is left stays on disk."""
        self._ended.set()
        with self._lock:
            if self._child.poll() is not None:  # it died a moment ago, and what is finished waits
                self._child = self._launch()
            child = self._child
        assert child.stdin is not None  # a pipe was asked for
        child.stdin.close()
        try:
            code = child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
            self._announce("request log: not all segments are shipped; the next server or `mlops ship` takes them over")
        self._thread.join()
        return code == 0

    def _launch(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is for the server, which tells the shipper when it is done.
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own command line

    def _keep(self) -> None:
        wait_s = 1.0
        while True:
            began = time.monotonic()
            code = self._child.wait()
            if self._ended.is_set():
                return
            wait_s = 1.0 if time.monotonic() - began > WELL_AFTER_S else min(LONGEST_WAIT_S, 2 * wait_s)
            self._announce(f"request log: the shipper ended with {code}; it is started again, its segments wait on disk")
            if self._ended.wait(wait_s * random.uniform(0.5, 1)):  # noqa: S311 - jitter, not a secret
                return
            with self._lock:
                if self._ended.is_set():
                    return
                if self._child.stdin is not None:
                    self._child.stdin.close()
                self._child = self._launch()


def start_shipper(name: str, *, announce: Callable[[str], None] = log.warning, log_format: str = "text") -> SupervisedShipper:
    """Start `mlops ship NAME` for this process's environment, and keep it running until `stop`."""
    command = [sys.executable, "-m", "mlops_tasks", "ship", name, "--attached", "--log-format", log_format]
    return SupervisedShipper(command, announce)
