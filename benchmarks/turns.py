"""A running server and a request to one turn's figures: throughput, latencies, CPU of all its processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.contenders import ONE_THREAD, QUIET, Protocol, Rows, Server
from benchmarks.load import Throughput, drive
from benchmarks.measuring import BenchmarkError, environment, service, tree
from demo.processes import Processes
from mlops_tasks.core.scoring import Scorer

READY_S, CLOSE_ENOUGH = 120, 1e-5


@dataclass(frozen=True)
class Entry:
    """What has a row in the tables: a server, asked in one protocol."""

    who: str
    protocol: Protocol
    server: Server
    root: int
    """The server's first process."""


@dataclass(frozen=True)
class Round:
    """One turn of one entry."""

    load: Throughput
    cpu_us: float
    """Of all the server's processes, for one request."""


@contextmanager
def running(server: Server, folder: Path) -> Iterator[int]:
    """Keep a server for the block's time; yield its first process's id."""
    home = folder / "servers" / server.name.replace(" ", "-")
    home.mkdir(parents=True, exist_ok=True)
    env = environment(folder, **ONE_THREAD, **QUIET, **server.env)
    with service(server.name, server.command, env=env, folder=home):
        process = Processes(home / "processes" / server.name).find(server.name)
        if process is None:
            msg = f"{server.name} ended at once: {Processes(home / 'processes' / server.name).tail(server.name)}"
            raise BenchmarkError(msg)
        yield process.pid


def wait_until_right(server: Server, protocol: Protocol, rows: Rows, scorer: Scorer) -> None:
    """Wait until a server answers, and with the model's own scores. Raises: BenchmarkError."""
    headers, body = protocol.encode(rows)
    address = f"http://127.0.0.1:{server.port}{protocol.path}"
    until, said = time.monotonic() + READY_S, "nothing"
    while time.monotonic() < until:
        try:
            answer = httpx.post(address, content=body, headers=headers, trust_env=False)
        except httpx.TransportError as error:
            said = str(error)
        else:
            if answer.is_success:
                break
            said = answer.text
        time.sleep(0.3)
    else:
        msg = f"{server.name} does not answer {protocol.name} after {READY_S} s: {said[-500:]}"
        raise BenchmarkError(msg)
    got = protocol.scores(answer)
    own = scorer.score_arrays(rows.numeric, rows.categorical)
    if got is not None and not np.allclose(np.ravel(got), own, atol=CLOSE_ENOUGH):
        msg = f"{server.name} gives other scores than the model in {protocol.name}: {np.ravel(got)[:3]} for {own[:3]}"
        raise BenchmarkError(msg)


def cpu_s(root: int) -> float:
    """Return what a server's processes have worked so far."""
    total = 0.0
    for process in tree(root):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def turn(entry: Entry, request: bytes, clients: int, seconds: float) -> Round:
    """Ask one server for some seconds."""
    before = cpu_s(entry.root)
    load = drive(entry.server.port, request, clients=clients, requests=10**9, seconds=seconds)
    return Round(load, (cpu_s(entry.root) - before) / load.answers * 1e6)


def call_bare(scorer: Scorer, rows: Rows, seconds: float) -> Round:
    """Call ONNX Runtime on arrays that lie ready, in this process."""
    feed = {"numeric": rows.numeric, "categorical": rows.categorical}
    score: Callable[[], Any] = partial(scorer.session.run, ["score"], feed)
    took, before = [], time.process_time()
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        score()
        took.append(time.perf_counter() - began)
    cpu = (time.process_time() - before) / len(took) * 1e6
    p50, p99, most = (float(value) * 1000 for value in np.percentile(took, [50, 99, 100]))
    return Round(Throughput(len(took) / seconds, p50, p99, most, len(took)), cpu)
