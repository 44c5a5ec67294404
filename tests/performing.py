"""A shop whose model is right about its chances, with a store and days whose labels come late."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlops_tasks.artifacts import Deployment, FeatureColumn, Features, FeatureSchema, ValidFeatures, Window
from mlops_tasks.core.metrics import Predictions
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.core.window_errors import measure_error
from tests.drifting import label, window
from tests.fakes import make_ports, make_run
from tests.linear_models import write_linear_model

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import FileRef, Intent, Task
    from mlops_tasks.core.metrics import Floats
    from mlops_tasks.ports import ArtifactStore, Ports

HELD_OUT = range(-40, 0)
ROWS = 200
VERSION = 3


def schema_of(task: Task) -> FeatureSchema:
    columns = (FeatureColumn(name="price", kind="numeric"), FeatureColumn(name="shop", kind="categorical"))
    return FeatureSchema(columns=columns, label="bought", task=task, event_time="at", entity_key=("id",))


def make_day(
    day: int, *, task: Task = "binary", rows: int = ROWS, known: float = 1.0, worse: bool = False, mood: float = 0.2
) -> pd.DataFrame:
    """Make a day's rows with its own mood; `known`: share of the labels that are there; `worse`: they mean the opposite."""
    rng = np.random.default_rng([7, day + 1000])
    price = rng.normal(0, 1, rows)
    logit = price - 1 + mood * rng.normal()
    chance = 1 / (1 + np.exp(logit if worse else -logit))
    bought: Any = rng.random(rows) < chance
    if task == "regression":
        bought = price * (-1 if worse else 1) + rng.normal(0, 1, rows)
    labels = pd.Series(bought, dtype=object)
    labels[np.arange(rows) >= known * rows] = None
    return pd.DataFrame(
        {
            "at": pd.Timestamp(window(0).start) + pd.to_timedelta(day * 86400 + np.arange(rows), unit="s"),
            "id": np.arange(rows),
            "price": price,
            "shop": np.array(["north", "south"], dtype=object)[rng.integers(0, 2, rows)],
            "bought": labels if task == "binary" else labels.astype("float64"),
        }
    )


def scores_of(frame: pd.DataFrame, task: Task = "binary") -> Floats:
    """Return what the model says."""
    price = frame["price"].to_numpy(dtype="float64")
    return price if task == "regression" else np.asarray(1 / (1 + np.exp(-(price - 1))))


class Performing:
    """A deployed model and published windows in a store."""

    def __init__(
        self,
        folder: Path,
        *,
        task: Task = "binary",
        intent: Intent = "scheduled",
        store: ArtifactStore | None = None,
        pipeline: str = "shop",
    ) -> None:
        self.folder, self.task = folder, task
        folder.mkdir(parents=True, exist_ok=True)
        self.ports: Ports = make_ports(folder, run=make_run(intent=intent, pipeline=pipeline), store=store)
        self.deployment = self.deploy()

    def deploy(
        self, version: int = VERSION, *, held_out: bool = True, ece: float = 0.01, without: tuple[str, ...] = ()
    ) -> Deployment:
        made = self.folder / f"model-{version}-{held_out}-{ece}"
        classes = ["false", "true"] if self.task == "binary" else []
        signature = ModelSignature(task=self.task, numeric=["price"], categorical=["shop"], classes=classes, target="bought")
        write_linear_model(made, signature, {"price": 1.0}, bias=-1.0 if self.task == "binary" else 0.0)
        metrics = {"ece": {"value": ece}} if self.task == "binary" else {}
        facts: dict[str, Any] = {"contenders": [{"name": "candidate", "metrics": metrics}]}
        if held_out:
            facts["windows"] = [self.error(day).model_dump() for day in HELD_OUT]
        (made / "evaluation.json").write_text(json.dumps(facts))
        files = {path.name: path for path in made.iterdir() if path.name not in without}
        digest, refs = publish_files(self.ports.store, "shop/candidates/x", files)
        return self.deployed(digest, refs, version)

    def deployed(self, digest: str, files: tuple[FileRef, ...], version: int) -> Deployment:
        return Deployment(
            digest=digest,
            files=files,
            model="shop",
            version=version,
            alias="champion",
            fingerprint="f" * 64,
            dataset_version="d" * 12,
            training=Window(start=window(-200).start, end=window(-41).start),
            feature_schema=schema_of(self.task),
            mlflow_run_id="r",
        )

    def error(self, day: int) -> Any:
        frame = make_day(day, task=self.task)
        truth = frame["bought"].to_numpy(dtype="float64")
        return measure_error(label(day), Predictions(self.task, truth, scores_of(frame, self.task)))

    def publish(self, day: int, frame: pd.DataFrame | None = None, **how: Any) -> ValidFeatures:
        frame = make_day(day, task=self.task, **how) if frame is None else frame
        path = self.folder / "features.parquet"
        frame.to_parquet(path)
        digest, files = publish_files(self.ports.store, f"shop/features/{label(day)}", {"features.parquet": path})
        features = Features(
            digest=digest, files=files, window=window(day), feature_schema=schema_of(self.task), rows=len(frame), rejected={}
        )
        return ValidFeatures(digest=digest, files=(), features=features)

    def kept(self, version: int = VERSION) -> dict[str, bytes]:
        """Return the records in the store."""
        place = f"shop/performance/{version}/"
        return {key.removeprefix(place): self.ports.store.read(key) for key in self.ports.store.list(place)}
