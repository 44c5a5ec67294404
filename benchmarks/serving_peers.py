"""Our model server beside KServe's SDK, LitServe, BentoML and `mlflow models serve`: same models, same clients, turn by turn.

Each peer serves the same ONNX file through the API that its documentation recommends, in an environment of its own, with one
worker and one thread of ONNX Runtime, without access log; ours logs every request. Every server's scores are compared with
the model's own before anything is measured. Two models: the default network and a linear one, whose own time is small.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson

from benchmarks import contenders
from benchmarks.contenders import Protocol, Rows, Server
from benchmarks.disturbances import say_endings, say_swaps
from benchmarks.load import post
from benchmarks.measuring import MLOPS, NO_GATES, PIPELINE, environment, measure, say_machine, workplace
from benchmarks.peer_environments import installed_peers
from benchmarks.serving import TRAINING
from benchmarks.serving_tables import BARE, BATCH, OURS, PEERS, UNLOGGED, Results, say_case, say_memory, say_verdicts
from benchmarks.turns import Entry, call_bare, running, turn, wait_until_right
from mlops_tasks.core.golden import rows_to_arrays
from mlops_tasks.core.scoring import Scorer

MODELS = {"linear": 1, "tabm": 2}
"""Model -> its version in the registry; the default network is trained last and serves."""
CASES = {"1 row, 1 client": (1, 1), "1 row, 16 clients": (16, 1), f"{BATCH} rows, 1 client": (1, BATCH)}
"""Case -> clients, rows."""
PROTOCOLS = {"litserve": [contenders.LITSERVE], "bentoml": [contenders.BENTOML], "mlflow": [contenders.MLFLOW]}


def make_models(folder: Path) -> dict[str, Path]:
    """Train and register the models, unless they are there; return their folders in MLflow. Raises: BenchmarkError."""
    logged = sorted((folder / ".mlops").rglob("artifacts/model/MLmodel"), key=lambda path: path.stat().st_mtime)
    if len(logged) == len(MODELS):
        return {model: path.parent for model, path in zip(MODELS, logged, strict=True)}
    made: dict[str, Path] = {}
    gates = [part for text in NO_GATES for part in ("--set", text)]
    for model in MODELS:
        chosen = ["--set", f"train.model={model}"]
        measure([*MLOPS, "run", PIPELINE, *TRAINING, *gates, *chosen], env=environment(folder), cwd=folder)
        found = {path.parent for path in (folder / ".mlops").rglob("artifacts/model/MLmodel")} - set(made.values())
        (made[model],) = found
    return made


def take_rows(model: Path, scorer: Scorer, count: int) -> Rows:
    """Return real rows without nulls, which not every peer's JSON can hold."""
    golden = [row for row in orjson.loads((model / "golden.json").read_bytes())["rows"] if None not in row.values()]
    numeric, categorical = rows_to_arrays((golden * count)[:count], scorer.signature)
    assert numeric is not None  # the pipeline has both kinds
    assert categorical is not None
    return Rows(numeric, categorical, scorer.signature.numeric, scorer.signature.categorical)


def start_all(model: Path, version: int, peers: dict[str, Path], folder: Path, stack: ExitStack) -> list[Entry]:
    """Start every server; return what is measured."""
    v2 = [contenders.V2, contenders.V2_BINARY]
    wanted: list[tuple[str, Server, list[Protocol]]] = [
        (OURS, contenders.our_server("ours", version), [*v2, contenders.V2_COLUMNS, contenders.MLFLOW]),
        (UNLOGGED, contenders.our_server("unlogged", version, "--no-request-log"), [contenders.V2]),
        ("echo", contenders.echo_server(), [contenders.ECHO]),
    ]
    for peer, programs in peers.items():
        wanted.append((PEERS[peer], contenders.peer_server(peer, programs, model), PROTOCOLS.get(peer, v2)))
    entries = []
    for who, server, protocols in wanted:
        root = stack.enter_context(running(server, folder))
        entries += [Entry(who, protocol, server, root) for protocol in protocols]
    return entries


def measure_case(entries: Sequence[Entry], rows: Rows, scorer: Scorer, clients: int, chosen: argparse.Namespace) -> Results:
    """Let everybody answer in turn, several times; the first turn of each warms it up and does not count."""
    requests = []
    for entry in entries:
        headers, body = entry.protocol.encode(rows)
        requests.append(post(entry.protocol.path, body, headers))
        wait_until_right(entry.server, entry.protocol, rows, scorer)
        turn(entry, requests[-1], clients, 1)
    results: Results = {key: [] for key in (*((entry.who, entry.protocol.name) for entry in entries), BARE)}
    for _ in range(chosen.rounds):
        for entry, request in zip(entries, requests, strict=True):
            results[entry.who, entry.protocol.name].append(turn(entry, request, clients, chosen.seconds))
        results[BARE].append(call_bare(scorer, rows, chosen.seconds / 2))
    return results


def compare(model: str, folder: Path, logged: Path, peers: dict[str, Path], chosen: argparse.Namespace) -> None:
    """Measure one model behind every server."""
    scorer = Scorer.load(logged)
    with ExitStack() as stack:
        entries = start_all(logged, MODELS[model], peers, folder, stack)
        for entry in entries:
            wait_until_right(entry.server, entry.protocol, take_rows(logged, scorer, 1), scorer)
        results = {}
        for case, (clients, count) in CASES.items():
            results[case] = measure_case(entries, take_rows(logged, scorer, count), scorer, clients, chosen)
            say_case(case, model, results[case])
        say_verdicts(model, results)
        say_memory(entries)


def disturb(folder: Path, logged: Path, peers: dict[str, Path], times: int) -> None:
    """Replace models and end servers under load; `logged` is what serves."""
    scorer = Scorer.load(logged)
    row = take_rows(logged, scorer, 1)
    say_swaps(folder, row, scorer, times)
    servers = {OURS: (contenders.our_server("ending", MODELS["tabm"]), contenders.V2)}
    for peer, programs in peers.items():
        server = contenders.peer_server(peer, programs, logged)
        servers[PEERS[peer]] = server, PROTOCOLS.get(peer, [contenders.V2])[0]
    say_endings(servers, row, scorer, folder, times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every case (default 5)")
    parser.add_argument("--seconds", type=float, default=2, help="seconds of a turn (default 2)")
    parser.add_argument("--endings", type=int, default=3, help="how often each server is ended under load (default 3)")
    parser.add_argument("--home", type=Path, help="keep the trained models in this folder, and use them if they are there")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: both")
    chosen = parser.parse_args()
    say_machine("Serving, beside the peers")
    with workplace() as scratch:
        folder = chosen.home.resolve() if chosen.home else scratch
        folder.mkdir(parents=True, exist_ok=True)
        peers = installed_peers([peer for peer in PEERS if peer != "mlflow"]) | {"mlflow": Path(MLOPS[0]).parent}
        models = make_models(folder)
        logged = {model: folder / "models" / model for model in MODELS}
        for model, path in logged.items():
            shutil.copytree(models[model], path, dirs_exist_ok=True)
            contenders.limit_threads(path)
        for model in chosen.models:
            compare(model, folder, logged[model], peers, chosen)
        disturb(folder, logged["tabm"], peers, chosen.endings)


if __name__ == "__main__":
    main()
