"""A decision on a training that is held while it is made, and whose task is killed once it has asked for the training.

A pipe lies among the records that are read to decide: who reads it waits until somebody has written to it. Meanwhile the
process that passes the task's calls on to Airflow is stopped, so however late the kill comes, nothing was started. It is
killed, too, or it would pass on what it was told before: as when a machine is lost, nobody reports the task's end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from demo.airflow_process import Airflow
from mlops_tasks.core.retraining import Resumption
from tests.end_to_end.flights import NAME, wait

NOTHING = Resumption(after=0, who="a test", reason="changes no decision", at=datetime(2013, 1, 1, tzinfo=UTC))


def request_file(airflow: Airflow) -> Path:
    """Return where the first training is asked for."""
    return _records(airflow) / "requests" / "000001.json"


def _records(airflow: Airflow) -> Path:
    return Path(airflow.settings()["MLOPS_STORE"]) / NAME / "retraining"


@dataclass
class HeldDecision:
    """The first decision on trainings that is made while the pipe lies there."""

    airflow: Airflow
    pipe: Path
    writer: int | None = None

    def is_held(self) -> bool:
        """Tell whether somebody waits for what is in the pipe; nobody else will find it then."""
        if self.writer is None:
            try:
                self.writer = os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return False
            self.pipe.unlink()
        return True

    def go_on_and_die(self, pid: int) -> None:
        """Let the task of a process decide and ask for a training; kill it and its supervisor once the request is there."""
        processes = {process.pid: process for process in self.airflow.processes.alive()["scheduler"]}
        task = processes[pid]
        supervisor = processes[task.ppid()]
        supervisor.suspend()
        self._let_go()
        wait(request_file(self.airflow).exists, 60)
        for process in (task, supervisor):
            process.kill()
        psutil.wait_procs([task, supervisor], timeout=30)

    def _let_go(self) -> None:
        assert self.writer is not None
        os.write(self.writer, NOTHING.model_dump_json().encode())
        self.close()

    def close(self) -> None:
        """Let whoever still reads come to the end."""
        if self.writer is not None:
            os.close(self.writer)
            self.writer = None


@contextmanager
def held_decision(airflow: Airflow) -> Iterator[HeldDecision]:
    """Hold the next decision on trainings."""
    pipe = _records(airflow) / "resumptions" / "000000.json"
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    decision = HeldDecision(airflow, pipe)
    try:
        yield decision
    finally:
        decision.close()
        pipe.unlink(missing_ok=True)
