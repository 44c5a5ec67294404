"""A source's size, told from its first rows: near the truth for rows in the order of time and for rows in none."""

from __future__ import annotations

import gzip
import random
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.adapters.sources.sampling import measure_source
from mlops_tasks.specs import Source

DAY = timedelta(days=1)
START = datetime(2030, 1, 1, tzinfo=UTC)
ROWS, DAYS = 240_000, 120


def lines(*, shuffled: bool) -> list[str]:
    times = [START + DAYS * DAY * n / ROWS for n in range(ROWS)]
    if shuffled:
        random.Random(0).shuffle(times)
    return [f"{time:%Y-%m-%dT%H:%M:%SZ},{n},some text that takes room\n" for n, time in enumerate(times)]


def source(path: Path) -> Source:
    columns = {"at": "timestamp", "n": "int"}
    return Source.model_validate({"path": str(path), "event_time": "at", "columns": columns})


def write(folder: Path, text: str, suffix: str) -> Path:
    path = folder / f"visits{suffix}"
    if suffix == ".csv.gz":
        path.write_bytes(gzip.compress(text.encode(), 1))
    elif suffix == ".csv.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("visits.csv", text)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zip"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_and_density_are_near_the_truth(tmp_path: Path, suffix: str, shuffled: bool) -> None:
    text = "at,n,text\n" + "".join(lines(shuffled=shuffled))
    found = measure_source(source(write(tmp_path, text, suffix)), DAY)
    assert found.rows == pytest.approx(ROWS, rel=0.05)
    assert found.rows_per_window == pytest.approx(ROWS / DAYS, rel=0.1)
    assert not found.exact


def test_parquet_is_counted_by_its_footer(tmp_path: Path) -> None:
    for part in range(3):
        times = [START + (part * 100 + n) * DAY / 10 for n in range(100)]
        pq.write_table(pa.table({"at": times, "n": list(range(100))}), tmp_path / f"{part}.parquet")
    found = measure_source(source(tmp_path / "*.parquet"), DAY)
    assert (found.rows, found.exact, found.files, found.rows_per_window) == (300, True, 3, 10)


def test_a_static_source_has_no_density(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user\n1\n2\n")
    found = measure_source(Source.model_validate({"path": str(tmp_path / "users.csv"), "columns": {"user": "int"}}), DAY)
    assert (found.rows, found.rows_per_window) == (2, None)
