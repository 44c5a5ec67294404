"""Background processes that outlive the command that started them; found again and ended by their records."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MARKER = "MLOPS_STARTED_UNDER"
"""Environment variable that every descendant inherits; one that left our sessions is found by it."""


@dataclass(frozen=True)
class Processes:
    """The background processes whose records and logs lie in one folder."""

    folder: Path

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> psutil.Process:
        """Start a process in its own group, unless it runs already; its output goes to `<name>.log`."""
        running = self.find(name)
        if running is not None:
            return running
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                env={**env, MARKER: str(self.folder)},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,  # passwords, tokens and databases are for this user alone
            )
        process = psutil.Process(child.pid)
        record = {"pid": child.pid, "started": process.create_time(), "command": list(command)}
        self._record(name).write_text(json.dumps(record))
        return process

    def find(self, name: str) -> psutil.Process | None:
        """Return a recorded process if it still runs and is the one that was started, not a reused id."""
        record = self._read(name)
        if record is None or not _is_same(record):
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(record["pid"])
            return process if process.status() != psutil.STATUS_ZOMBIE else None
        return None

    def names(self) -> list[str]:
        """Return the names of all recorded processes, running or not."""
        return sorted(path.stem for path in self.folder.glob("*.pid"))

    def log(self, name: str) -> Path:
        """Return the path of a process's output."""
        return self.folder / f"{name}.log"

    def tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of a process's output."""
        path = self.log(name)
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self, *, grace_s: float = 10) -> dict[str, int]:
        """End all of them and whatever they started: ask, wait, then kill. Return name -> processes ended."""
        ended: dict[str, int] = {}
        deadline = time.monotonic() + grace_s
        # Again until none is left: a scheduler may fork one more task between the look and the signal.
        while groups := self.alive():
            for name, members in groups.items():
                ended[name] = max(ended.get(name, 0), len(members))
            everyone = [process for members in groups.values() for process in members]
            _signal(everyone, kill=time.monotonic() > deadline)
            psutil.wait_procs(everyone, timeout=max(0.5, deadline - time.monotonic()))
        for name in self.names():
            self._record(name).unlink(missing_ok=True)
        return ended

    def alive(self) -> dict[str, list[psutil.Process]]:
        """Group living processes by the recorded one whose session they are in; marked others stand under `children`."""
        sessions = self._sessions()
        groups: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            # A process may end, or belong to somebody else, while it is looked at.
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                name, started = sessions.get(os.getsid(process.pid), ("", 0.0))
                if name and process.create_time() >= started - 1:
                    groups.setdefault(name, []).append(process)
                elif process.environ().get(MARKER) == str(self.folder):
                    groups.setdefault("children", []).append(process)
        return groups

    def _sessions(self) -> dict[int, tuple[str, float]]:
        """Return session id -> name and start time of each recorded process; one whose id is somebody else's is left out.

        The system gives no new process an id that still names a session, so members of a dead process's session are ours.
        """
        sessions = {}
        for name in self.names():
            record = self._read(name)
            reused = record is not None and psutil.pid_exists(record["pid"]) and not _is_same(record)
            if record is not None and not reused and record["started"] > psutil.boot_time():
                sessions[record["pid"]] = (name, record["started"])
        return sessions

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._record(name).read_text())
        except (OSError, ValueError):
            return None
        return record

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.pid"


def _is_same(record: Mapping[str, Any]) -> bool:
    """Tell whether a record's id still names the process that was started, ended or not."""
    try:
        created: float = psutil.Process(record["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return bool(abs(created - record["started"]) < 1)


def _signal(processes: Sequence[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if kill:
                process.kill()
            else:
                process.terminate()
