"""A server that logs and ships, started as `python -m tests.integration.logging_server NAME MODEL_FOLDER [CLOCK_FILE]`.

It answers with the model in a folder. Its clock, where it has a file, stands at the time in it, in nanoseconds, and goes on
by a microsecond at each look. Logs go to MLOPS_REQUEST_LOG, from there to MLOPS_STORE.
"""

from __future__ import annotations

import itertools
import signal
import socket
import sys
import time
from pathlib import Path

import uvicorn

from mlops_tasks.core.golden import load_proven
from mlops_tasks.core.promotion import LOOSE_TOLERANCE
from mlops_tasks.serve_specs import RequestLogSpec
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.recording.session import recording
from mlops_tasks.serving.slot import LoadedModel, Slot


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def stand_still(clock: Path) -> None:
    """Take the time from a file."""
    looks = itertools.count()
    time.time_ns = lambda: int(clock.read_text()) + 1000 * next(looks)


def main() -> None:
    name, model_folder = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) > 3:
        stand_still(Path(sys.argv[3]))
    scorer, golden = load_proven(model_folder, LOOSE_TOLERANCE, what="the model", threads=1)
    slot = Slot(name, LoadedModel(name, 1, scorer, golden, {}, {}))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when it has ended
    with recording(name, RequestLogSpec(segment_mb=1), announce=say) as recorder:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        say(f"serving on http://127.0.0.1:{listener.getsockname()[1]}")
        uvicorn.Server(uvicorn.Config(make_app(Parts(slot, recorder=recorder)), log_level="warning")).run(sockets=[listener])
    say("ended")


if __name__ == "__main__":
    main()
