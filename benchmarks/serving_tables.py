"""Rounds of model servers to tables: what each answers, and what ours was to reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.contenders import ECHO, V2, V2_BINARY
from benchmarks.measuring import say, say_table, spread, tree
from benchmarks.turns import Entry, Round

BATCH = 256
PEERS = {"kserve": "KServe SDK", "litserve": "LitServe", "bentoml": "BentoML", "mlflow": "mlflow models serve"}
OURS, UNLOGGED = "ours", "ours, no log"
MEGABYTE = 1e6
PEERS_RATIO, ECHO_RATIO, BARE_RATIO, LOG_SHARE = 4, 3, 2.5, 0.2
"""What was to be reached."""
HEAD = ("server", "requests/s", "p50 / p99 ms", "CPU us a request", "ours is quicker by", "ours takes less CPU by")
Results = dict[tuple[str, str], list[Round]]
"""(who, protocol) -> its rounds."""
BARE = ("bare ONNX Runtime", "")


def times(ours: Sequence[Round], theirs: Sequence[Round], figure: Callable[[Round], float]) -> list[float]:
    """Return how many times theirs is ours, round by round: the machine's speed drifts."""
    return [figure(b) / figure(a) for a, b in zip(ours, theirs, strict=True)]


def reference_of(key: tuple[str, str]) -> tuple[str, str]:
    """Return the row of ours that is asked in the same protocol, or in the one that is nearest."""
    who, protocol = key
    return (OURS, protocol if who in PEERS.values() and protocol != "JSON" else V2.name)


def say_case(case: str, model: str, results: Results) -> None:
    """Print a case's table."""
    say(f"**{model}: {case}**\n")
    rows = []
    for key, rounds in results.items():
        ours = results[reference_of(key)]
        slower = [1 / ratio for ratio in times(ours, rounds, lambda r: r.load.per_s)]
        p50, p99 = (statistics.median(getattr(r.load, name) for r in rounds) for name in ("p50_ms", "p99_ms"))
        rows.append(
            [
                " ".join((key[0], f"({key[1]})" if key[1] else "")).strip(),
                spread([r.load.per_s for r in rounds], "", 0),
                f"{p50:.2f} / {p99:.2f}",
                spread([r.cpu_us for r in rounds], "", 0),
                spread(slower, "x", 2),
                spread(times(ours, rounds, lambda r: r.cpu_us), "x", 2),
            ]
        )
    say_table(HEAD, rows)


def say_verdicts(model: str, results: dict[str, Results]) -> None:
    """Print what was to be reached, from the same rounds."""
    one, many, batch = results.values()
    ours = (OURS, V2.name)
    rows = []
    for key in many:
        if key[0] in PEERS.values():
            against = reference_of(key)
            ratio = 1 / statistics.median(times(many[against], many[key], lambda r: r.load.per_s))
            cpu = statistics.median(times(many[against], many[key], lambda r: r.cpu_us))
            rows.append(
                [
                    f"{key[0]} ({key[1]}), 1 row, 16 clients",
                    f"{ratio:.1f}x, by CPU {cpu:.1f}x",
                    f"{PEERS_RATIO}x",
                    _met(ratio >= PEERS_RATIO),
                ]
            )
    echo = statistics.median(times(one["echo", ECHO.name], one[ours], lambda r: r.load.p50_ms))
    rows.append(["p50 at one client, of the echo's", f"{echo:.2f}x", f"{ECHO_RATIO}x", _met(echo <= ECHO_RATIO)])
    for protocol in (V2.name, V2_BINARY.name):
        bare = statistics.median(times(batch[BARE], batch[OURS, protocol], lambda r: r.load.p50_ms))
        rows.append(
            [f"{BATCH} rows ({protocol}), of bare ONNX Runtime's", f"{bare:.2f}x", f"{BARE_RATIO}x", _met(bare <= BARE_RATIO)]
        )
    for case, found in (("1 client", one), ("16 clients", many)):
        unlogged = found[UNLOGGED, V2.name]
        cpu = statistics.median(times(unlogged, found[ours], lambda r: r.cpu_us)) - 1
        lost = statistics.median(times(found[ours], unlogged, lambda r: r.load.per_s)) - 1
        rows.append(
            [
                f"request log, {case}",
                f"CPU {cpu:+.0%}, throughput without {lost:+.0%}",
                f"{LOG_SHARE:.0%}",
                _met(max(cpu, lost) <= LOG_SHARE),
            ]
        )
    say(f"**{model}: what was to be reached**\n")
    say_table(("what", "measured", "wanted", ""), rows)


def _met(holds: bool) -> str:
    return "met" if holds else "**missed**"


def say_memory(entries: Sequence[Entry]) -> None:
    """Print what the servers take after all that load."""
    rows = []
    for who, root in {entry.who: entry.root for entry in entries}.items():
        sizes = [process.memory_full_info() for process in tree(root)]
        rows.append(
            [
                who,
                str(len(sizes)),
                f"{max(size.rss for size in sizes) / MEGABYTE:.0f} MB",
                f"{sum(size.pss for size in sizes) / MEGABYTE:.0f} MB",
            ]
        )
    say("**Memory after load**\n")
    say_table(("server", "processes", "resident, the largest", "proportional, all"), rows)
