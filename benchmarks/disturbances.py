"""What clients notice when a model is replaced, and when a server is told to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.contenders import V2, Protocol, Rows, Server, our_server
from benchmarks.load import drive, post
from benchmarks.measuring import BenchmarkError, environment, say, say_table, spread, tree
from benchmarks.turns import running, wait_until_right
from mlops_tasks.core.scoring import Scorer

CLIENTS, BEFORE_S, WINDOW_S, GONE_S = 16, 1.0, 4.0, 40.0
VERSIONS = (1, 2)


@contextmanager
def promoter(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Keep a process that promotes the versions it is told."""
    command = [sys.executable, "-m", "benchmarks.inside.promotions"]
    with subprocess.Popen(  # noqa: S603 - this project's own module
        command, env=environment(folder), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def promote(process: subprocess.Popen[str], version: int) -> None:
    """Have a version promoted; return when it is the champion."""
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    process.stdin.write(f"{version}\n")
    process.stdin.flush()
    process.stdout.readline()


def pauses(port: int) -> tuple[int, float]:
    """Return how many swaps a server counted, and for how long requests waited for them in all."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    count, total = (
        sum(float(found) for found in re.findall(rf"^mlops_swap_pause_seconds_{what}{{.*?}} (\S+)$", text, re.MULTILINE))
        for what in ("count", "sum")
    )
    return int(count), total


def say_swaps(folder: Path, rows: Rows, scorer: Scorer, rounds: int) -> None:
    """Replace the champion under load, in both modes, and print what the clients saw. Raises: BenchmarkError."""
    headers, body = V2.encode(rows)
    request, table = post(V2.path, body, headers), []
    with promoter(folder) as process:
        for mode in ("hot", "single-slot"):
            promote(process, VERSIONS[-1])
            server = our_server(f"swaps-{mode}", None, "--swap", mode, "--poll", "0.2")
            with running(server, folder):
                wait_until_right(server, V2, rows, scorer)
                calm, swapped, waited = [], [], []
                for _ in range(rounds):
                    calm.append(drive(server.port, request, clients=CLIENTS, requests=10**9, seconds=WINDOW_S))
                    for version in VERSIONS:
                        before = pauses(server.port)
                        timer = threading.Timer(BEFORE_S, promote, [process, version])
                        timer.start()
                        swapped.append(drive(server.port, request, clients=CLIENTS, requests=10**9, seconds=WINDOW_S))
                        timer.join()
                        after = pauses(server.port)
                        if after[0] != before[0] + 1:
                            msg = f"{after[0] - before[0]} swaps instead of one within {WINDOW_S:g} s"
                            raise BenchmarkError(msg)
                        waited.append((after[1] - before[1]) * 1000)
                most = [[load.most_ms for load in loads] for loads in (calm, swapped)]
                p99 = [statistics.median(load.p99_ms for load in loads) for loads in (calm, swapped)]
                shown = [spread(values, "", 1) for values in (waited, *most)]
                table.append([mode, str(len(swapped)), *shown, f"{p99[0]:.1f} / {p99[1]:.1f}"])
    say(f"**Swaps under the load of {CLIENTS} clients**\n")
    head = ("mode", "swaps", "gate closed, ms", "longest answer without a swap, ms", "with one, ms")
    say_table((*head, "p99 without / with, ms"), table)
    say("A request that fails would have ended the benchmark.\n")


@dataclass
class Ended:
    """What became of the requests to servers that were told to end."""

    answers: int = 0
    lost: int = 0
    took_s: float = 0.0
    left: int = 0
    """Processes that outlived the first one."""


async def _ask_until_gone(port: int, request: bytes, ended: Ended, until: float) -> None:
    """Ask on, over new connections where old ones close, until none is let in; count what was sent and not answered."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            while time.monotonic() < until:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                answered = head.startswith(b"http/1.1 200")
                ended.answers += answered
                ended.lost += not answered
                if b"connection: close" in head:
                    break
        except (OSError, asyncio.IncompleteReadError):
            ended.lost += 1
        finally:
            writer.close()


async def _end_under_load(root: int, port: int, request: bytes, ended: Ended) -> None:
    asking = [asyncio.create_task(_ask_until_gone(port, request, ended, time.monotonic() + GONE_S)) for _ in range(CLIENTS)]
    await asyncio.sleep(BEFORE_S)
    processes = tree(root)
    os.kill(root, signal.SIGTERM)
    began = time.monotonic()
    await asyncio.gather(*asking)
    psutil.wait_procs(processes[:1], timeout=GONE_S)
    ended.took_s = max(ended.took_s, time.monotonic() - began)
    await asyncio.sleep(1)
    ended.left += sum(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def end_servers(
    who: str, server: Server, protocol: Protocol, *, rows: Rows, scorer: Scorer, folder: Path, times: int
) -> list[str]:
    """End a server under load some times; return its row of the table."""
    headers, body = protocol.encode(rows)
    ended = Ended()
    for _ in range(times):
        with running(server, folder) as root:
            wait_until_right(server, protocol, rows, scorer)
            asyncio.run(_end_under_load(root, server.port, post(protocol.path, body, headers), ended))
    return [who, str(times), str(ended.answers), str(ended.lost), f"{ended.took_s:.1f} s", str(ended.left)]


def say_endings(servers: Mapping[str, tuple[Server, Protocol]], rows: Rows, scorer: Scorer, folder: Path, times: int) -> None:
    """End each server under load, and print what was lost."""
    table: Sequence[Sequence[str]] = [
        end_servers(who, server, protocol, rows=rows, scorer=scorer, folder=folder, times=times)
        for who, (server, protocol) in servers.items()
    ]
    say(f"**SIGTERM under the load of {CLIENTS} clients**\n")
    head = ("server", "endings", "answered", "sent and not answered", "longest end", "processes left over")
    say_table(head, table)
