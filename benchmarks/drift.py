"""What watching for drift costs: sketches against a plain aggregate in Spark and against Evidently, and comparing a year."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import BenchmarkError, say, say_machine, say_table
from benchmarks.peer_environments import PEERS, peer_bin
from mlops_tasks.adapters.spark import ConnectSpark
from mlops_tasks.artifacts import FeatureColumn, FeatureSchema
from mlops_tasks.core.drift import calibrate, score_window, training_baseline
from mlops_tasks.core.sketches import Reference, build_reference, sketch_parts, sketch_window
from mlops_tasks.specs import MonitorSpec

ROWS, DAYS, DAY_ROWS = 1_000_000, 365, 400
PART_ROWS = 1 << 18
NUMBERS, CATEGORIES = 14, 6
YEAR_COLUMNS = 50
REPEATS = 3
SPEC = MonitorSpec()
Took = tuple[float, float]
"""Wall and CPU seconds of this process."""


def make_table(rows: int, numbers: int, categories: int, seed: int) -> pd.DataFrame:
    """Make rows like those of a business: skewed and rounded numbers, nulls, categories of 3 to 300 values, a label."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for k in range(numbers):
        values = rng.gamma(1 + k % 4, 10, rows).round(k % 3) if k % 2 else rng.normal(k, 1 + k, rows)
        columns[f"n{k}"] = np.where(rng.random(rows) < 0.02 * (k % 3), np.nan, values)
    for k in range(categories):
        weights = 1 / np.arange(1, 3 * 10 ** (k % 3) + 1)
        columns[f"c{k}"] = rng.choice([f"value {v}" for v in range(weights.size)], rows, p=weights / weights.sum())
    return pd.DataFrame(columns).assign(label=rng.integers(0, 5, rows) == 0)


def schema_of(frame: pd.DataFrame) -> FeatureSchema:
    """Name the columns of `make_table`."""
    columns = tuple(
        FeatureColumn(name=name, kind="numeric" if name.startswith("n") else "categorical") for name in frame.columns[:-1]
    )
    return FeatureSchema(columns=columns, label="label", task="binary", event_time="at", entity_key=("id",))


def reference_of(frame: pd.DataFrame, days: int) -> Reference:
    """Sketch a table as so many windows of training data."""
    labels = pd.Series(np.arange(len(frame)) * days // len(frame)).astype(str)
    return Reference.from_json(build_reference(frame, schema_of(frame), labels))


def took(work: Callable[[], object]) -> Took:
    """Return the least of some tries."""
    tries = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        tries.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(tries)


def read_parts(path: Path) -> Iterator[pa.Table]:
    """Read a file as the monitor does."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=PART_ROWS):
        yield pa.Table.from_batches([batch])


def aggregate_in_spark(path: Path, frame: pd.DataFrame) -> float:
    """Return the wall seconds of count, nulls, sum, spread and range of each column, in a session that is warm."""
    from pyspark.sql import functions as F  # noqa: N812, PLC0415 - its usual name; only this part needs Spark

    spark = ConnectSpark("local[2]", "2g")
    data = spark.read([path.as_uri()])
    plain: list[Any] = [F.count("*")]
    for name in frame.columns:
        plain += [F.count(name), F.min(name), F.max(name)]
        plain += [F.sum(name), F.stddev(name)] if name.startswith("n") else []
    return took(lambda: data.agg(*plain).collect())[0]


def compare_in_evidently(then: Path, now: Path) -> dict[str, float]:
    """Let Evidently compare two files, in an environment of its own."""
    python, script = peer_bin("evidently") / "python", PEERS / "evidently" / "compare.py"
    done = subprocess.run([str(python), str(script), str(then), str(now)], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        msg = f"Evidently ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        raise BenchmarkError(msg)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_sketches(folder: Path) -> None:
    """Sketch a million rows, and compare them with another million; the same by Spark and Evidently as far as they go."""
    frames = [make_table(ROWS, NUMBERS, CATEGORIES, seed) for seed in (0, 1)]
    paths = [folder / f"{name}.parquet" for name in ("then", "now")]
    for frame, path in zip(frames, paths, strict=True):
        frame.to_parquet(path, index=False)
    reference = reference_of(frames[0], days=60)
    table = pa.Table.from_pandas(frames[1], preserve_index=False)
    baseline = training_baseline(reference)

    def whole() -> object:
        sketch = sketch_parts(read_parts(paths[1]), reference, "now")
        return score_window(baseline, calibrate(baseline, SPEC), sketch, SPEC)

    in_memory, from_disk, compared = (
        took(lambda: sketch_window(table, reference, "now")),
        took(lambda: sketch_parts(read_parts(paths[1]), reference, "now")),
        took(whole),
    )
    plain, evidently = aggregate_in_spark(paths[1], frames[1]), compare_in_evidently(*paths)
    rows = [
        ("sketch of a table in memory", f"{in_memory[0]:.2f}", f"{in_memory[1]:.2f}"),
        ("read from Parquet in parts and sketched: what `.monitor` does", f"{from_disk[0]:.2f}", f"{from_disk[1]:.2f}"),
        ("the same, compared with 60 windows and judged", f"{compared[0]:.2f}", f"{compared[1]:.2f}"),
        ("Spark, warm, local[2]: count, nulls, range, sum, spread of each column", f"{plain:.2f}", "-"),
        ("Evidently, `DataDriftPreset`", f"{evidently['wall_s']:.2f}", f"{evidently['cpu_s']:.2f}"),
    ]
    say(f"{ROWS:,} rows, {NUMBERS} numeric and {CATEGORIES} categorical columns and a label; least of {REPEATS} tries.\n")
    say_table(("", "wall, s", "CPU, s"), rows)
    say(f"\nSketching from Parquet takes {from_disk[0] / plain:.1f} times as long as Spark's plain aggregate; Evidently takes")
    say(f"{evidently['cpu_s'] / compared[1]:.0f} times the CPU of sketching, comparing and judging.\n")


def measure_a_year() -> None:
    """Compare each day of a year with all others, 50 columns, and one day with the year."""
    frame = make_table(DAYS * DAY_ROWS, YEAR_COLUMNS - 10, 9, seed=2)
    reference = reference_of(frame, DAYS)
    baseline = training_baseline(reference)
    calibration = calibrate(baseline, SPEC)
    day = reference.history.take(np.arange(DAYS) == 0)
    year, one = took(lambda: calibrate(baseline, SPEC)), took(lambda: score_window(baseline, calibration, day, SPEC))
    size = len(json.dumps(day.to_json(), separators=(",", ":")))
    say(f"A year of {DAYS} windows, {len(frame.columns)} columns, each window against the sum of all others: {year[0]:.2f} s,")
    say(f"{year[1]:.2f} s of them CPU. One window against the year: {1000 * one[0]:.0f} ms. The sketch of a window:")
    say(f"{size / 1024:.0f} KB of JSON.")
    if not math.isfinite(calibration.threshold):
        msg = "a year of windows must give a threshold"
        raise BenchmarkError(msg)


def main() -> int:
    """Measure both; return 1 if something could not be."""
    say_machine("Drift")
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-drift-") as folder:
            measure_sketches(Path(folder))
        measure_a_year()
    except BenchmarkError as error:
        say(f"not measured: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
