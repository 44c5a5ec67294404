"""What the benchmarks share: a clean environment, processes measured with all that they start, tables."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from demo.ports import any_free
from demo.processes import Processes

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = "nyc_flights"
MLOPS = [sys.executable, "-m", "mlops_tasks"]
NO_GATES = ("evaluate.gates=[{metric: roc_auc, min: 0.3}]", "evaluate.slices=[]")
"""For short ranges, whose models are measured for their time alone."""
SAMPLES_PER_S = 5
START_TIMEOUT_S = 120
GB = 1e9
LIBRARIES = ("apache-airflow", "pyspark", "great-expectations", "torch", "scikit-learn", "mlflow", "onnxruntime")


class BenchmarkError(Exception):
    """What was to be measured failed."""


@dataclass(frozen=True)
class Measured:
    """What one process, with all that it started, took and said."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Greatest sum of proportional set sizes (shared pages count once) over the process tree, looked at 5 times a second."""
    out: str
    err: str


def say(text: str = "") -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_machine(title: str) -> None:
    """Print what the figures depend on: machine, load and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / GB
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    say(f"### {title}\n")
    say(f"{cores} cores, {memory:.0f} GB memory, load {os.getloadavg()[0]:.1f} before the start, {platform.system()},")
    say(f"Python {platform.python_version()}, {', '.join(found)}.\n")


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    say("| " + " | ".join(header) + " |")
    say("|" + "---|" * len(header))
    for row in rows:
        say("| " + " | ".join(row) + " |")
    say()


def spread(values: Sequence[float], unit: str = " s", digits: int = 2) -> str:
    """Write the median with least and greatest: `3.10 s (3.02 to 3.31)`."""
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit}" if len(values) == 1 else f"{middle}{unit} ({least} to {most})"


def limited(what: str, values: Sequence[float], limit: float, unit: str = " s", digits: int = 2) -> list[str]:
    """Return a table's row: what, median (least to greatest), limit, share of the limit, verdict."""
    median = statistics.median(values)
    verdict = "met" if median <= limit else "**missed**"
    return [what, spread(values, unit, digits), f"{limit:g}{unit}", f"{median / limit:.2f}", verdict]


LIMITED = ("what", "median (least to greatest)", "limit", "of the limit", "")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with bytecode on and all state, scratch files too, under `home`."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    dropped = ("MLOPS_", "MLFLOW_", "AIRFLOW", "SPARK_", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "MLOPS_PIPELINES": str(ROOT / "dags" / "pipelines"),
        "MLOPS_STORE": str(home / ".mlops" / "store"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / '.mlops' / 'mlflow.db'}",
        "TMPDIR": str(home / "tmp"),
        "NO_PROXY": "127.0.0.1,localhost",
        **more,
    }


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Give a temporary folder, removed at the end, also when SIGTERM ends the benchmark."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="mlops-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def measure(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout_s: float = 1800) -> Measured:
    """Run a command to its end and measure it with its children. Raises: BenchmarkError."""
    cwd.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the benchmarks' own command lines
            command, env=dict(env), cwd=cwd, stdout=out, stderr=err, stdin=subprocess.DEVNULL
        )
        sampler = _Sampler(process.pid)
        alarm = threading.Timer(timeout_s, end_tree, [process.pid])
        try:
            sampler.start()
            alarm.start()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            alarm.cancel()
            sampler.ended.set()
            if process.returncode is None:
                end_tree(process.pid)
                process.wait()
        sampler.join()
        said = [_read(stream) for stream in (out, err)]
    if process.returncode:
        msg = f"{' '.join(command)} ended with {process.returncode}:\n{said[1][-3000:]}"
        raise BenchmarkError(msg)
    return Measured(wall, usage.ru_utime + usage.ru_stime, sampler.peak, said[0], said[1])


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


class _Sampler(threading.Thread):
    """Follows the memory of a process and all its descendants.

    Proportional sizes cost the kernel a walk over all pages, so they are read only where the cheap resident sizes,
    which count shared pages several times, sum to one percent more than ever before.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.ended, self.peak = threading.Event(), 0
        self._pid, self._resident = pid, 0

    def run(self) -> None:
        """Sample until `ended`."""
        while not self.ended.wait(1 / SAMPLES_PER_S):
            processes = tree(self._pid)
            resident = sum(map(_resident, processes))
            if resident > 1.01 * self._resident:
                self._resident = resident
                self.peak = max(self.peak, sum(map(_proportional, processes)))


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its living descendants."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        return int(process.memory_info().rss)
    return 0


def _proportional(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    return 0


def end_tree(pid: int) -> None:
    """End a process that was started here, and all that it started."""
    everyone = tree(pid)
    for process in everyone:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(everyone, timeout=10)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def service(name: str, command: Sequence[str], *, env: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Keep a background process, its children too, for the block's time; yield its log."""
    processes = Processes(folder / "processes" / name)
    try:
        processes.start(name, command, env=env, cwd=folder)
        yield processes.log(name)
    finally:
        processes.stop()


@contextlib.contextmanager
def spark_server(folder: Path, memory: str = "2g") -> Iterator[dict[str, str]]:
    """Keep a Spark Connect server; yield the variables that lead to it. Raises: BenchmarkError."""
    port = any_free()
    found = {"MLOPS_SPARK": f"sc://localhost:{port}", "SPARK_CONNECT_AUTHENTICATE_TOKEN": secrets.token_urlsafe(24)}
    command = [*MLOPS, "spark", "--port", str(port), "--memory", memory]
    with service("spark", command, env=environment(folder, **found), folder=folder) as log:
        wait_for_port(port, log)
        yield found


def wait_for_port(port: int, log: Path) -> None:
    """Wait until something listens on a loopback port. Raises: BenchmarkError with the log's end."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    msg = f"nothing listens on port {port} after {START_TIMEOUT_S} s: {log.read_text(errors='replace')[-2000:]}"
    raise BenchmarkError(msg)
