"""What a container adds to a stage: one that is cached, by the Docker runtime and by the process runtime, in turn.

Beside it stands bare `docker run --rm IMAGE true`, and the start of Python with the package in the same image. Needs an
engine and the image `spark` (`make images`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measuring import (
    PIPELINE,
    ROOT,
    BenchmarkError,
    environment,
    measure,
    say,
    say_machine,
    say_table,
    spread,
    workplace,
)

FIRST, NEXT = "2013-01-02", "2013-01-03"
WARM_UP = 1


def bare(image: str, command: list[str], rounds: int) -> list[float]:
    """Return the seconds of `docker run --rm` with a command of the image. Raises: BenchmarkError."""
    found = []
    for _ in range(rounds + WARM_UP):
        began = time.perf_counter()
        full = ["docker", "run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:]]
        done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - our own command line
        if done.returncode:
            msg = f"{' '.join(full)}: {done.stderr[-2000:]}"
            raise BenchmarkError(msg)
        found.append(time.perf_counter() - began)
    return found[WARM_UP:]


def stages(folder: Path, image: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the cached stage by each runtime. Raises: BenchmarkError."""
    env = environment(folder, MLOPS_IMAGE_SPARK=image, MLOPS_DOCKER_NETWORK="none", MLOPS_DEPLOYMENT=f"bench-{os.getpid()}")
    measure([sys.executable, "-m", "benchmarks.inside.ingestion", PIPELINE, FIRST, NEXT], env=env, cwd=folder)
    env |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "AIRFLOW_HOME": str(folder / "airflow")}
    command = [sys.executable, "-m", "benchmarks.inside.container_stages", PIPELINE, FIRST, str(rounds + WARM_UP)]
    found: dict[str, list[float]] = json.loads(measure(command, env=env, cwd=folder).out.splitlines()[-1])
    return {runtime: seconds[WARM_UP:] for runtime, seconds in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--image", default="mlops-tasks/spark:latest", help="image of the stage (default %(default)s)")
    chosen = parser.parse_args()
    say_machine("What a container adds to a stage")
    with workplace() as folder:
        found = stages(folder, chosen.image, chosen.runs)
    true = bare(chosen.image, ["true"], chosen.runs)
    start = bare(chosen.image, ["mlops", "perform", "--help"], chosen.runs)
    added = [docker - process for docker, process in zip(found["docker"], found["process"], strict=True)]
    say_table(
        ("", "median (least to greatest)"),
        [
            ["a cached stage by the process runtime", spread(found["process"], digits=3)],
            ["the same by the Docker runtime", spread(found["docker"], digits=3)],
            ["what its container adds", spread(added, digits=3)],
            ["above starting `mlops` in a container of its image", spread(above(found["docker"], start), digits=3)],
            ["`docker run --rm IMAGE true`", spread(true, digits=3)],
            ["`docker run --rm IMAGE mlops perform --help`", spread(start, digits=3)],
        ],
    )
    say(f"Median of {chosen.runs} rounds.")


def above(values: list[float], base: list[float]) -> list[float]:
    """Return each value less the median of another."""
    middle = statistics.median(base)
    return [value - middle for value in values]


if __name__ == "__main__":
    main()
