"""What the runner, the cache, the records and the command line cost: `mlops run` against its own functions called plainly.

Two months of flights and a linear model, in fresh processes on fresh stores and fresh MLflow databases, against one
warm Spark Connect server. The two take turns in going first; one pair before them warms the server up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import yaml

from benchmarks.measuring import (
    MLOPS,
    NO_GATES,
    PIPELINE,
    BenchmarkError,
    Measured,
    environment,
    measure,
    say,
    say_machine,
    say_table,
    spark_server,
    spread,
    workplace,
)

LIMIT = 1.3
PEERS = {"Flyte": 1.4, "Kedro": 1.6, "Metaflow": 2.4, "Kubeflow's local runner": 2.7}
"""Measured elsewhere, on comparable work."""


def run_pair(
    folder: Path, spark: dict[str, str], span: tuple[str, str], overrides: list[str], *, ours_first: bool
) -> dict[str, Measured]:
    """Run both once; return them under `plain` and `mlops`. Raises: BenchmarkError also when their results differ."""
    parsed = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in overrides)}
    plain = [sys.executable, "-m", "benchmarks.inside.plain_chain", PIPELINE, *span, json.dumps(parsed)]
    ours = [*MLOPS, "run", PIPELINE, "--start", span[0], "--end", span[1], "--json"]
    ours += [part for text in overrides for part in ("--set", text)]
    commands = {"mlops": ours, "plain": plain} if ours_first else {"plain": plain, "mlops": ours}
    found = {
        name: measure(command, env=environment(folder / name, **spark), cwd=folder / name) for name, command in commands.items()
    }
    metrics = {name: json.loads(run.out)["metrics"]["roc_auc"] for name, run in found.items()}
    if metrics["plain"] != metrics["mlops"]:
        msg = f"the two did not do the same work: ROC AUC {metrics}"
        raise BenchmarkError(msg)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs (default 5)")
    parser.add_argument("--start", default="2013-01-01")
    parser.add_argument("--end", default="2013-03-01")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `mlops run`, for both")
    chosen = parser.parse_args()
    overrides = ["train.model=linear", *NO_GATES, *chosen.set]
    span = (chosen.start, chosen.end)
    say_machine(f"A small chain, {span[0]} to {span[1]}, linear model: plain calls against mlops run")
    with workplace() as folder, spark_server(folder) as spark:
        pairs = [run_pair(folder / f"pair{n}", spark, span, overrides, ours_first=n % 2 == 1) for n in range(chosen.runs + 1)]
    pairs = pairs[1:]
    ratios = [pair["mlops"].wall_s / pair["plain"].wall_s for pair in pairs]
    ratio = statistics.median(ratios)
    rows = [
        [name, spread([p[name].wall_s for p in pairs]), spread([p[name].cpu_s for p in pairs])] for name in ("plain", "mlops")
    ]
    say_table(("", "wall, median (least to greatest)", "CPU, less Spark's server"), rows)
    verdict = "met" if ratio <= LIMIT else "**missed**"
    rows = [["mlops run / plain calls, paired", spread(ratios, "x"), f"{LIMIT}x", verdict]]
    rows += [[f"{name} / plain calls", f"{value}x", "", "measured elsewhere"] for name, value in PEERS.items()]
    say_table(("ratio", "median (least to greatest)", "limit", ""), rows)
    say(f"Median of {chosen.runs} pairs.")


if __name__ == "__main__":
    main()
