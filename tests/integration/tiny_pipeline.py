"""Writes a small pipeline of its own: twelve days of orders, quick to run from collect to deploy."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlops_tasks.adapters.local_store import LocalStore

NAME = "tiny"
START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 12
ROWS_A_DAY = 250
SHOPS = ("north", "south", "east", "west")
CHANNELS = ("web", "phone", "counter")
RUN = "r"
CONSUMES: dict[str, dict[str, str]] = {
    "collect": {},
    "validate_raw": {"raw": "collect"},
    "preprocess": {"raw": "validate_raw"},
    "validate": {"features": "preprocess"},
    "snapshot": {"features": "validate"},
    "train": {"dataset": "snapshot"},
    "evaluate": {"candidate": "train", "dataset": "snapshot"},
    "deploy": {"verdict": "evaluate"},
    "monitor": {"features": "validate"},
}
"""Stage -> parameter -> the stage whose result it takes."""
RANGE = ("--start", "2024-01-01", "--end", "2024-01-13")

PIPELINE = """
name: tiny
description: Predicts whether an order is returned.
owner: shop-team
cadence: day
schedule: {start: 2024-01-01}

features:
  event_time: at
  entity_key: [order_id]
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
  primary: orders
  entity_key: [order_id]
  sources:
    orders:
      path: DATA/orders.csv
      event_time: at
      columns: {at: timestamp, order_id: int, shop: string, channel: string, amount: float, items: int, returned: bool}
    shops:
      path: DATA/shops.csv
      columns: {shop: string, size: float}

validate_raw:
  expectations:
    orders:
      - expect_column_values_to_not_be_null: {column: order_id}
      - expect_column_values_to_be_between: {column: items, min_value: 1, max_value: 20}

preprocess:
  features: features.sql
  lookback: 6h
  row_rules: {paid: amount > 0}

validate:
  expectations:
    - expect_column_values_to_not_be_null: {column: returned}

snapshot: {test: 3d, validation: 0.2, min_rows: 500}
train: {model: linear, threads: 1, max_epochs: 3}
evaluate:
  bootstrap: 10
  importance_rows: 100
  gates:
    - {metric: roc_auc, min: 0.55}
    - {metric: roc_auc, against: champion, tolerance: 0.05}
deploy: {golden_rows: 8}
monitor: {min_history: 5}
"""

FEATURES = """
SELECT
  o.at, o.order_id, o.amount, o.items, o.channel, o.shop, s.size,
  avg(o.amount) OVER (
    PARTITION BY o.shop ORDER BY unix_seconds(o.at) RANGE BETWEEN 21600 PRECEDING AND 1 PRECEDING) AS recent,
  o.returned
FROM orders o LEFT JOIN shops s ON s.shop = o.shop
"""


def write_pipeline(folder: Path) -> None:
    """Write the data to `folder/data` and the pipeline to `folder/pipelines/tiny`."""
    data, pipeline = folder / "data", folder / "pipelines" / NAME
    data.mkdir()
    pipeline.mkdir(parents=True)
    (pipeline / "pipeline.yaml").write_text(PIPELINE.replace("DATA", str(data)))
    (pipeline / "features.sql").write_text(FEATURES)
    (data / "orders.csv").write_text("\n".join(_orders()) + "\n")
    sizes = "\n".join(f"{shop},{10 * (i + 1)}" for i, shop in enumerate(SHOPS))
    (data / "shops.csv").write_text(f"shop,size\n{sizes}\n")


def _orders() -> list[str]:
    """Return the CSV's lines: dear orders by phone come back more often; a few are not paid for."""
    chance = random.Random(7)
    lines = ["at,order_id,shop,channel,amount,items,returned"]
    for number in range(DAYS * ROWS_A_DAY):
        at = START + timedelta(seconds=number * 86_400 // ROWS_A_DAY)
        channel, amount = chance.choice(CHANNELS), round(chance.uniform(1, 100), 2)
        returned = chance.random() < 0.1 + 0.4 * (channel == "phone") + 0.004 * amount
        amount = -1 if number % 97 == 0 else amount
        items = chance.randint(1, 9)
        lines.append(
            f"{at:%Y-%m-%dT%H:%M:%SZ},{number},{chance.choice(SHOPS)},{channel},{amount},{items},{str(returned).lower()}"
        )
    return lines


@dataclass(frozen=True)
class Home:
    """A store and an MLflow of the pipeline's, at some point of its loop."""

    pipeline: Path
    """The folder that `write_pipeline` filled."""
    spark: str
    store_folder: Path
    mlflow_folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment of `mlops`."""
        return {
            **os.environ,
            "MLOPS_PIPELINES": str(self.pipeline / "pipelines"),
            "MLOPS_STORE": str(self.store_folder),
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLOPS_SPARK": self.spark,
            "MLOPS_CODE_VERSION": "test",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def store(self) -> LocalStore:
        """The store, as a reader opens it."""
        return LocalStore(self.store_folder)

    @property
    def mlflow_uri(self) -> str:
        """MLflow's address."""
        return f"sqlite:///{self.mlflow_folder / 'mlflow.db'}"

    def command(self, stage: str, *options: str) -> list[str]:
        """Return the arguments of `mlops` that run a stage on what the stages before it recorded."""
        inputs = []
        for name, producer in CONSUMES[stage].items():
            key = f"{NAME}/runs/{RUN}/{producer}.json"
            inputs += ["--input", f"{name}={key}@{sha256(self.store.read(key)).hexdigest()}"]
        return ["stage", stage, NAME, "--run-id", RUN, *RANGE, "--json", *inputs, *options]

    def results(self, stage: str) -> list[dict[str, Any]]:
        """Return what a stage recorded."""
        found: list[dict[str, Any]] = json.loads(self.store.read(f"{NAME}/runs/{RUN}/{stage}.json"))["results"]
        return found

    def copy(self, store: Path, mlflow: Path) -> Home:
        """Copy everything; MLflow's database holds absolute paths, which follow."""
        shutil.copytree(self.store_folder, store, dirs_exist_ok=True)
        shutil.copytree(self.mlflow_folder, mlflow, dirs_exist_ok=True)
        with closing(sqlite3.connect(mlflow / "mlflow.db")) as rows:
            for table, column in PATHS:
                rows.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(self.mlflow_folder), str(mlflow)))
            rows.commit()
        return replace(self, store_folder=store, mlflow_folder=mlflow)

    def mlflow_rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask MLflow's database."""
        with closing(sqlite3.connect(self.mlflow_folder / "mlflow.db")) as rows:
            return rows.execute(query).fetchall()


PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's database with absolute paths."""
