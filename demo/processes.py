"""Background processes that outlive the command that started them; found again and ended by their records."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MARKER = "MLOPS_STARTED_UNDER"
"""Environment variable that every descendant inherits: tasks that left their process group are found by it."""


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
        try:
            record = json.loads(self._record(name).read_text())
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["started"]) < 1
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None

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
        while groups := self._alive():
            for name, members in groups.items():
                ended[name] = max(ended.get(name, 0), len(members))
            everyone = [process for members in groups.values() for process in members]
            _signal(everyone, kill=time.monotonic() > deadline)
            psutil.wait_procs(everyone, timeout=max(0.5, deadline - time.monotonic()))
        for name in self.names():
            self._record(name).unlink(missing_ok=True)
        return ended

    def _alive(self) -> dict[str, list[psutil.Process]]:
        """Group living processes by the recorded one that they descend from; others stand under `children`."""
        roots = {process.pid: name for name in self.names() if (process := self.find(name)) is not None}
        groups: dict[str, list[psutil.Process]] = {}
        for process in set(_marked(str(self.folder))) | {psutil.Process(pid) for pid in roots if psutil.pid_exists(pid)}:
            groups.setdefault(_owner(process, roots), []).append(process)
        return groups

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.pid"


def _marked(value: str) -> Iterator[psutil.Process]:
    """Yield this user's living processes that carry the marker in their environment."""
    for process in psutil.process_iter():
        # A process may end, or belong to somebody else, while it is looked at.
        with contextlib.suppress(psutil.Error, OSError):
            ours = process.pid != os.getpid() and process.environ().get(MARKER) == value
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _owner(process: psutil.Process, roots: Mapping[int, str]) -> str:
    if process.pid in roots:
        return roots[process.pid]
    with contextlib.suppress(psutil.Error):
        for parent in process.parents():
            if parent.pid in roots:
                return roots[parent.pid]
    return "children"


def _signal(processes: Sequence[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if kill:
                process.kill()
            else:
                process.terminate()
