"""What a served model was asked and answered is another pipeline's source: labels join later, matured rows are trained on."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.loading import load_pipeline
from mlops_tasks.pipeline import BY_NAME, INGEST
from mlops_tasks.runner import RESOLVED, Handle, Invocation, Runner
from mlops_tasks.serving.recording.shipper import Shipper
from mlops_tasks.wiring import Adapters
from tests.integration.test_request_log import Server, wait_until
from tests.integration.tiny_pipeline import CHANNELS, NAME, SHOPS, START
from tests.unit.serving.recorded import answer, make_log, model

if TYPE_CHECKING:
    from tests.integration.conftest import Undisturbed
    from tests.integration.tiny_pipeline import Home

pytestmark = [pytest.mark.spark, pytest.mark.slow]
DAYS, ROWS_A_DAY = 10, 150
MATURED = 0.9
PIPELINE = """
name: lived
description: Predicts whether an order is returned, from what was asked in production.
owner: shop-team
cadence: day
schedule: {start: 2024-01-01}
features:
  event_time: at
  entity_key: [prediction_id]
  task: binary
  label: returned
  columns:
    - {name: amount, kind: numeric}
    - {name: items, kind: numeric}
    - {name: channel, kind: categorical}
    - {name: shop, kind: categorical}
collect:
  primary: answers
  entity_key: [prediction_id]
  sources:
    answers:
      path: requests://tiny
      event_time: prediction_time
      columns: {prediction_time: timestamp, prediction_id: string, prediction_score: float, prediction_version: int,
                amount: float, items: float, channel: string, shop: string}
    outcomes:
      path: OUTCOMES
      columns: {prediction_id: string, returned: bool}
validate_raw:
  expectations:
    answers:
      - expect_column_values_to_be_between: {column: prediction_score, min_value: 0, max_value: 1}
preprocess: {features: features.sql}
snapshot: {test: 2d, validation: 0.2, min_rows: 300}
train: {model: linear, threads: 1, max_epochs: 3}
evaluate:
  bootstrap: 10
  importance_rows: 100
  gates:
    - {metric: roc_auc, min: 0.5}
deploy: {golden_rows: 8}
monitor: {min_history: 5, model: tiny}
"""
MATURED_FEATURES = """
SELECT a.prediction_time AS at, a.prediction_id, a.amount, a.items, a.channel, a.shop, o.returned
FROM answers a JOIN outcomes o ON o.prediction_id = a.prediction_id
WHERE o.returned IS NOT NULL
"""


def ask_for_days(address: str, clock: Path) -> list[dict[str, Any]]:
    """Ask day by day, many rows at once and one alone; return the rows with the ids that labels go by."""
    asked = []
    with httpx.Client(timeout=60) as client:
        for day in range(DAYS):
            at = START + timedelta(days=day, hours=9)
            clock.write_text(str(int(at.timestamp()) * 10**9))
            rows = [order(day * ROWS_A_DAY + number) for number in range(ROWS_A_DAY)]
            for name, part in ((f"d{day}", rows[1:]), (f"one{day}", rows[:1])):
                told = client.post(f"{address}/invocations", json={"dataframe_records": part}, headers={"x-request-id": name})
                assert told.status_code == 200, told.text
                ids = [name] if len(part) == 1 else [f"{name}:{row}" for row in range(len(part))]
                asked += [
                    {"id": i, "day": day, "score": score, **row}
                    for i, row, score in zip(ids, part, told.json()["predictions"], strict=True)
                ]
    return asked


def order(number: int) -> dict[str, Any]:
    return {
        "amount": round(1 + number * 37 % 991 / 10, 2),
        "items": 1 + number % 9,
        "recent": None if number % 11 == 0 else 50.5,
        "size": 10 * (1 + number % 4),
        "channel": None if number % 13 == 0 else CHANNELS[number % 3],
        "shop": SHOPS[number // 3 % 4],
    }


def write_outcomes(path: Path, asked: list[dict[str, Any]]) -> int:
    """Write what became of most orders; return how many."""
    known = [row for number, row in enumerate(asked) if number % 10 < 10 * MATURED]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prediction_id", "returned"])
        for number, row in enumerate(known):
            writer.writerow([row["id"], str((row["channel"] == "phone") ^ (number % 7 == 0)).lower()])
    return len(known)


def mlops(home: Home, pipelines: Path, *argv: str) -> dict[str, Any]:
    environ = {**home.environ, "MLOPS_PIPELINES": str(pipelines)}
    command = [sys.executable, "-m", "mlops_tasks", *argv, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def made(result: dict[str, Any]) -> dict[str, int]:
    return {name: stage["computed"] for name, stage in result["stages"].items() if stage["computed"]}


def ship_late(home: Home, folder: Path) -> None:
    """Ship an answer of the third day, as a server would that was away."""
    by = model(numeric=("amount", "items"), categorical=("channel", "shop"))
    row = {"amount": 2.5, "items": 1.0, "channel": "web", "shop": "north"}
    log = make_log(folder)
    log.record(answer("late", [row], by=by, at_ns=int((START + timedelta(days=2, hours=23)).timestamp()) * 10**9))
    log.close()
    Shipper(folder, NAME, home.store).ship()


def rows_below(home: Home, prefix: str, name: str) -> list[dict[str, Any]]:
    keys = [key for key in home.store.list(prefix) if key.endswith(name)]
    return [row for key in keys for row in pq.read_table(pa.BufferReader(home.store.read(key))).to_pylist()]


@pytest.fixture
def home(undisturbed: Undisturbed, tmp_path: Path) -> Home:
    return undisturbed.after("deploy").copy(tmp_path / "store", tmp_path / "mlflow")


def serve_days(home: Home, folder: Path) -> list[dict[str, Any]]:
    """Serve the model for some days; return the rows that it answered, when all of its log has reached the store."""
    clock = folder / "clock"
    clock.write_text("0")
    fetched = MlflowRegistry(home.mlflow_uri).fetch(NAME, 1, folder / "fetched")
    server = Server(folder, name=NAME, model=fetched, clock=clock, MLOPS_STORE=str(home.store_folder))
    try:
        asked = ask_for_days(server.address, clock)
        server.process.terminate()
        server.process.wait(60)
        wait_until(lambda: not list((folder / "requests" / NAME).glob("*.frames")), 60, server.said)
    finally:
        server.kill()
    return asked


def test_answers_come_back_as_training_data(home: Home, tmp_path: Path) -> None:
    outcomes, pipelines = tmp_path / "outcomes.csv", tmp_path / "pipelines"
    asked = serve_days(home, tmp_path)
    matured = write_outcomes(outcomes, asked)
    shutil.copytree(home.pipeline / "pipelines", pipelines)
    (pipelines / "lived").mkdir()
    (pipelines / "lived" / "pipeline.yaml").write_text(PIPELINE.replace("OUTCOMES", str(outcomes)))
    (pipelines / "lived" / "features.sql").write_text(MATURED_FEATURES)
    span = ("--start", "2024-01-01", "--end", f"2024-01-{DAYS + 1}")
    first = mlops(home, pipelines, "run", "lived", *span)
    collected = {row["prediction_id"]: row for row in rows_below(home, "lived/raw/2024", "answers.parquet")}
    assert collected.keys() == {row["id"] for row in asked}
    for row in asked:
        there = collected[row["id"]]
        assert {n: there[n] for n in ("amount", "items", "channel", "shop")} == {
            n: row[n] for n in ("amount", "items", "channel", "shop")
        }
        assert there["prediction_score"] == pytest.approx(row["score"], abs=1e-6)
        assert there["prediction_time"].day == row["day"] + 1
    assert len(rows_below(home, "lived/features/", "features.parquet")) == matured
    assert first["stages"]["train"]["computed"] == 1
    again = mlops(home, pipelines, "run", "lived", *span)
    assert made(again) == {}
    ship_late(home, tmp_path / "late")
    late = mlops(home, pipelines, "run", "lived", *span)
    assert made(late) == {"collect": 1, "validate_raw": 1, "preprocess": 1}, "its window alone; its outcome is not known yet"
    with outcomes.open("a") as stream:
        stream.write("late,true\n")
    assert made(mlops(home, pipelines, "run", "lived", *span))["train"] == 1
    assert "late" in {row["prediction_id"] for row in rows_below(home, "lived/features/", "features.parquet")}


WATCHING = """
name: watching
description: Watches what the model for orders answered in production.
owner: shop-team
cadence: day
schedule: {start: 2024-01-01}
features:
  event_time: at
  entity_key: [prediction_id]
  task: binary
  label: returned
  columns:
    - {name: amount, kind: numeric}
    - {name: items, kind: numeric}
    - {name: recent, kind: numeric}
    - {name: size, kind: numeric}
    - {name: channel, kind: categorical}
    - {name: shop, kind: categorical}
collect:
  primary: answers
  entity_key: [prediction_id]
  sources:
    answers:
      path: requests://tiny
      event_time: prediction_time
      columns: {prediction_time: timestamp, prediction_id: string, prediction_score: float, prediction_version: int,
                amount: float, items: float, recent: float, size: float, channel: string, shop: string}
    outcomes:
      path: OUTCOMES
      columns: {prediction_id: string, returned: bool}
preprocess: {features: features.sql}
snapshot: {label_delay: 2d}
monitor: {model: tiny, min_history: 5, false_alarm_rate: 0.2, performance: {max_ece: 0.9}}
"""
ALL_ANSWERS = """
SELECT a.prediction_time AS at, a.prediction_id, a.amount, a.items, a.recent, a.size, a.channel, a.shop, o.returned,
  a.prediction_version, a.prediction_score
FROM answers a LEFT JOIN outcomes o ON o.prediction_id = a.prediction_id
"""


def monitor_day(home: Home, pipelines: Path, day: int) -> dict[str, int]:
    """Do what a day's run of `.monitor` does, with the days whose labels came meanwhile; return what had to be made."""
    spec, made = load_pipeline("watching", pipelines), {}
    handle: Handle | None = None
    runner = Runner(spec, Adapters(environ=home.environ))
    span = {"start": START + timedelta(days=max(0, day - 3)), "end": START + timedelta(days=day + 1)}
    for name in (*INGEST, "monitor"):
        takes = [key for key in BY_NAME[name].consumes if key not in RESOLVED]
        inputs = {takes[0]: handle} if handle is not None else {}
        invocation = Invocation(
            stage=name, pipeline="watching", run_id=f"day-{day}", intent="scheduled", inputs=inputs, now=span["end"], **span
        )
        outcome = runner.invoke(invocation)
        made[name], handle = outcome.computed, outcome.handle
    return made


def performance_of(home: Home) -> dict[str, dict[str, Any]]:
    keys = home.store.list("watching/performance/1/")
    return {record["window"]["start"][:10]: record for record in (json.loads(home.store.read(key)) for key in keys)}


def test_labels_that_come_two_days_late_measure_what_was_really_answered(home: Home, tmp_path: Path) -> None:
    outcomes, pipelines = tmp_path / "outcomes.csv", tmp_path / "pipelines"
    asked = serve_days(home, tmp_path)
    (pipelines / "watching").mkdir(parents=True)
    (pipelines / "watching" / "pipeline.yaml").write_text(WATCHING.replace("OUTCOMES", str(outcomes)))
    (pipelines / "watching" / "features.sql").write_text(ALL_ANSWERS)
    seen = []
    for today in (2, 4):
        write_outcomes(outcomes, [row for row in asked if row["day"] <= today - 2])
        monitor_day(home, pipelines, today)
        seen.append(performance_of(home))
    first, later = seen

    assert [record["status"] for record in first.values()] == ["warming_up", "awaiting_labels", "awaiting_labels"]
    waiting = first["2024-01-02"]
    assert (waiting["rows"], waiting["labelled"], waiting["metrics"]) == (ROWS_A_DAY, 0, {})
    assert 0 < waiting["estimated"]["log_loss"] < 1
    matured = later["2024-01-02"]
    assert matured["status"] in {"warming_up", "ok", "alarm"}
    assert (matured["answered"], matured["coverage"]) == (True, MATURED)
    assert matured["estimated"] == waiting["estimated"]
    rows = [row for row in asked if row["day"] == 1]
    labels = dict(csv.reader(outcomes.open()))
    known = [row for row in rows if row["id"] in labels]
    truth = [labels[row["id"]] == "true" for row in known]
    assert matured["metrics"]["log_loss"] == pytest.approx(log_loss(truth, [row["score"] for row in known]), abs=1e-5)
    assert [later[day]["status"] for day in ("2024-01-04", "2024-01-05")] == ["awaiting_labels"] * 2

    again = monitor_day(home, pipelines, 4)
    assert {name: count for name, count in again.items() if count} == {}, "nothing is brought in or judged twice"
    assert performance_of(home) == later
