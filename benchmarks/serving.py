"""How many requests the real server answers, against bare ONNX Runtime and against an echo on the same stack.

The model is a champion of the real pipeline, of full size but trained on few days for one epoch: its answers are poor,
its work is the same. Server and clients share the machine. Bare ONNX Runtime is called in this process, without HTTP.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.load import Throughput, drive, post
from benchmarks.measuring import (
    MLOPS,
    NO_GATES,
    PIPELINE,
    BenchmarkError,
    environment,
    measure,
    say,
    say_machine,
    say_table,
    service,
    spread,
    wait_for_port,
    workplace,
)
from demo.ports import any_free
from mlops_tasks.core.golden import rows_to_arrays
from mlops_tasks.core.scoring import Scorer

BATCH = 256
TRAINING = ["--start", "2013-01-01", "--end", "2013-01-20", "--set", "snapshot.test=5d", "--set", "train.max_epochs=1"]
READY_S = 60


@dataclass(frozen=True)
class Case:
    """One way to ask: what, and the request's bytes."""

    name: str
    clients: int
    rows: int
    body: bytes
    path: str


def make_champion(folder: Path) -> Path:
    """Run the whole loop once; return the candidate's folder. Raises: BenchmarkError."""
    command = [*MLOPS, "run", PIPELINE, *TRAINING, *(part for text in NO_GATES for part in ("--set", text))]
    measure(command, env=environment(folder), cwd=folder)
    return next((folder / ".mlops" / "store").rglob("candidates/**/model.onnx")).parent


def make_cases(rows: list[dict[str, Any]], scorer: Scorer) -> list[Case]:
    """Return the cases, in both protocols."""

    def v2(count: int) -> bytes:
        taken = list(itertools.islice(itertools.cycle(rows), count))
        kinds = dict.fromkeys(scorer.signature.numeric, "FP32") | dict.fromkeys(scorer.signature.categorical, "BYTES")
        tensors = [
            {"name": n, "shape": [count], "datatype": kind, "data": [row[n] for row in taken]} for n, kind in kinds.items()
        ]
        return orjson.dumps({"inputs": tensors})

    def records(count: int) -> bytes:
        return orjson.dumps({"dataframe_records": list(itertools.islice(itertools.cycle(rows), count))})

    infer = f"/v2/models/{PIPELINE}/infer"
    return [
        Case(f"{protocol}, {what}", clients, count, body(count), path)
        for protocol, body, path in (("v2 infer", v2, infer), ("/invocations", records, "/invocations"))
        for what, clients, count in (
            ("1 row, 1 client", 1, 1),
            ("1 row, 16 clients", 16, 1),
            (f"{BATCH} rows, 1 client", 1, BATCH),
        )
    ]


def call_bare(scorer: Scorer, rows: list[dict[str, Any]], count: int, calls: int, seconds: float) -> float:
    """Return how often a second ONNX Runtime scores `count` rows that lie ready as arrays."""
    arrays = rows_to_arrays(list(itertools.islice(itertools.cycle(rows), count)), scorer.signature)
    feed = {name: array for name, array in zip(("numeric", "categorical"), arrays, strict=True) if array is not None}
    score: Callable[[], Any] = partial(scorer.session.run, ["score"], feed)
    score()
    began = time.perf_counter()
    done = 0
    while done < calls and time.perf_counter() - began < seconds:
        score()
        done += 1
    return done / (time.perf_counter() - began)


def wait_until_ready(log: Path) -> int:
    """Wait until the server has its model; return its port. Raises: BenchmarkError."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        found = re.search(r"on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace"))
        if found and httpx.get(f"http://127.0.0.1:{found[1]}/v2/health/live", trust_env=False).is_success:
            port = int(found[1])
            if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", trust_env=False).is_success:
                return port
        time.sleep(0.2)
    msg = f"the server is not ready after {READY_S} s:\n{log.read_text(errors='replace')[-2000:]}"
    raise BenchmarkError(msg)


def say_case(case: Case, server: list[Throughput], echo: list[Throughput], bare: list[float]) -> list[str]:
    """Return a case's row of the table."""
    per_s = statistics.median(round_.per_s for round_ in server)
    return [
        case.name,
        spread([r.per_s for r in server], "", 0),
        f"{statistics.median(r.p50_ms for r in server):.2f} / {statistics.median(r.p99_ms for r in server):.2f}",
        spread([r.per_s for r in echo], "", 0),
        f"{per_s / statistics.median(r.per_s for r in echo):.2f}",
        spread(bare, "", 0),
        f"{per_s / statistics.median(bare):.2f}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="rounds of every case (default 5)")
    parser.add_argument("--requests", type=int, default=5000, help="most requests of a round (default 5000)")
    parser.add_argument("--seconds", type=float, default=4, help="most seconds of a round (default 4)")
    chosen = parser.parse_args()
    bounds = {"requests": chosen.requests, "seconds": chosen.seconds}
    say_machine("Serving")
    with workplace() as folder:
        model = make_champion(folder)
        scorer = Scorer.load(model)
        rows = json.loads((model / "golden.json").read_text())["rows"]
        echo_port, env = any_free(), environment(folder)
        ours = [*MLOPS, "serve", PIPELINE, "--port", "0"]
        plain = [sys.executable, "-m", "benchmarks.inside.echo_server", str(echo_port)]
        with service("server", ours, env=env, folder=folder) as log, service("echo", plain, env=env, folder=folder) as echo_log:
            port = wait_until_ready(log)
            wait_for_port(echo_port, echo_log)
            table = []
            for case in make_cases(rows, scorer):
                request, same = post(case.path, case.body), post("/echo", case.body)
                drive(port, request, clients=case.clients, requests=200, seconds=2)
                rounds = [
                    (
                        drive(port, request, clients=case.clients, **bounds),
                        drive(echo_port, same, clients=case.clients, **bounds),
                        call_bare(scorer, rows, case.rows, chosen.requests, chosen.seconds),
                    )
                    for _ in range(chosen.runs)
                ]
                server, echo, bare = (list(column) for column in zip(*rounds, strict=True))
                table.append(say_case(case, server, echo, bare))
    header = ("case", "requests/s", "p50 / p99 ms", "echo, requests/s", "of the echo", "bare ONNX Runtime, calls/s", "of it")
    say_table(header, table)
    say(f"Medians of {chosen.runs} rounds (least to greatest), each up to {chosen.requests} requests or {chosen.seconds:g} s.")


if __name__ == "__main__":
    main()
