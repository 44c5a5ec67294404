"""How long the DAG files of 50 pipelines take to parse, beyond importing airflow.sdk: `python -m benchmarks.dag_parsing`.

Each round is a process of its own that imports airflow.sdk, then runs every DAG file once for all pipelines,
and once as a task's process does, for one DAG. Seconds of CPU (parsing is single-threaded, so on a free machine
that is the wall time), medians; the aim is under 1 s for all files together. `slowest alone` is what Airflow's
DAG processor waits for: it gives each file a process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = "nyc_flights"

PROBE = """
import importlib.machinery, importlib.util, json, sys, time
from pathlib import Path
started = time.process_time()
from airflow.sdk import DAG, BaseOperator, CronDataIntervalTimetable, Param, TaskGroup, get_parsing_context
from airflow.sdk.definitions._internal.contextmanager import DagContext
imported = time.process_time()
files = {}
for file in map(Path, sys.argv[1:]):
    begun = time.process_time()
    loader = importlib.machinery.SourceFileLoader("dag_" + file.stem, str(file))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    DagContext.current_autoregister_module_name = loader.name
    loader.exec_module(module)
    files[file.name] = time.process_time() - begun
dags = len(DagContext.autoregistered_dags)
print(json.dumps({"sdk": imported - started, "files": files, "dags": dags}))
"""


def make_pipelines(folder: Path, count: int) -> None:
    """Copy the example under `count` names."""
    for number in range(count):
        target = folder / f"pipeline_{number:03d}"
        shutil.copytree(ROOT / "dags" / "pipelines" / EXAMPLE, target)
        spec = target / "pipeline.yaml"
        spec.write_text(spec.read_text().replace(f"name: {EXAMPLE}", f"name: {target.name}"))


def probe(pipelines: Path, home: Path, files: list[Path], dag_id: str | None = None) -> dict[str, float]:
    """Parse the files in a fresh process; return seconds by part, and the number of DAGs."""
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "MLOPS_PIPELINES": str(pipelines),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}",
        **({"_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id} if dag_id else {}),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROBE, *map(str, files)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    found = json.loads(done.stdout.splitlines()[-1])
    return {"sdk": found["sdk"], "dags": found["dags"], "parse": sum(found["files"].values()), **found["files"]}


def measure(count: int, rounds: int) -> dict[str, float]:
    """Return medians in seconds over `rounds` processes."""
    files = sorted((ROOT / "dags").glob("*.py"))
    with tempfile.TemporaryDirectory() as temporary:
        pipelines, home = Path(temporary, "pipelines"), Path(temporary, "home")
        make_pipelines(pipelines, count)
        probe(pipelines, home, files)  # writes bytecode and Airflow's configuration
        found = [probe(pipelines, home, files) for _ in range(rounds)]
        alone = [max(probe(pipelines, home, [file])["parse"] for file in files) for _ in range(rounds)]
        task = [probe(pipelines, home, [ROOT / "dags" / "training.py"], "pipeline_000.train") for _ in range(rounds)]
    medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
    return {
        **medians,
        "slowest alone": statistics.median(alone),
        "one task's own DAG": statistics.median(row["parse"] for row in task),
    }


def main() -> None:
    """Print the medians, for people or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    medians = measure(chosen.pipelines, chosen.rounds)
    if chosen.json:
        print(json.dumps(medians))  # noqa: T201 - the benchmark's result
        return
    for name, value in medians.items():
        print(f"{name:24} {value:8.3f}")  # noqa: T201 - the benchmark's result


if __name__ == "__main__":
    main()
