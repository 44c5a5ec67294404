"""A candidate, a dataset and a champion that the tests of the evaluate stage judge."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlops_tasks.artifacts import Candidate, Dataset, Deployment, FeatureColumn, FeatureSchema, SplitRef, Window
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.specs import EvaluateSpec
from mlops_tasks.stages.evaluate import run
from tests.fakes import FakeRun, FakeTracker, make_ports, make_run
from tests.linear_models import write_linear_model

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Task
    from mlops_tasks.ports import Ports

TRAINING = Window(start=datetime(2013, 1, 1, tzinfo=UTC), end=datetime(2013, 5, 30, tzinfo=UTC))
TEST = Window(start=datetime(2013, 6, 1, tzinfo=UTC), end=datetime(2013, 6, 11, tzinfo=UTC))
CLASSES: dict[str, list[str]] = {"binary": ["false", "true"], "multiclass": ["high", "low", "mid"], "regression": []}
CONSTANT: dict[str, object] = {"binary": 0.3, "multiclass": [0.3, 0.3, 0.4], "regression": 10.0}
WEIGHTS: dict[str, Any] = {"binary": 2.0, "multiclass": [2.0, -2.0, 0.0], "regression": 3.0}


def make_rows(task: Task, rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=rows)
    label: Any = x + rng.normal(size=rows) > 0
    if task == "multiclass":
        label = np.select([x > 0.5, x < -0.5], ["high", "low"], "mid").astype(object)
    elif task == "regression":
        label = 10 + 3 * x + rng.normal(size=rows)
    times = pd.date_range(TEST.start, TEST.end, periods=rows + 1, inclusive="left", tz="UTC")
    x[::17] = np.nan
    return pd.DataFrame(
        {"at": times, "x": x, "city": np.array(["Rome", "Oslo", None], dtype=object)[rng.integers(0, 3, rows)], "label": label}
    )


@dataclasses.dataclass
class Case:
    """Everything that a call of the stage takes."""

    ports: Ports
    candidate: Candidate
    dataset: Dataset
    tracked: FakeRun
    folder: Path
    task: Task
    schema: FeatureSchema

    def judge(self, spec: dict[str, Any] | None = None, champion: Deployment | None = None) -> Any:
        chosen = EvaluateSpec.model_validate({"bootstrap": 20, "importance_rows": 100, **(spec or {})})
        return run(chosen, self.candidate, self.dataset, champion, ports=self.ports)

    def read(self, verdict: Any, name: str) -> str:
        return self.ports.store.open_local(verdict.file(name)).read_text(encoding="utf-8")

    def deploy(self, weight: Any, **signature: Any) -> Deployment:
        """Publish a champion that weighs `x` by `weight`."""
        folder = self.folder / "champion"
        write_linear_model(folder, make_signature(self.task, **signature), {"x": weight, "gone": 1.0})
        digest, refs = publish_files(self.ports.store, "shop/candidates/old", {p.name: p for p in folder.iterdir()})
        return Deployment(
            digest=digest,
            files=refs,
            model="shop",
            version=3,
            alias="champion",
            fingerprint="c" * 64,
            dataset_version="e" * 64,
            training=TRAINING,
            feature_schema=self.schema,
            mlflow_run_id="run-0",
        )


def make_signature(task: Task, **changes: Any) -> ModelSignature:
    facts: dict[str, Any] = {
        "task": task,
        "numeric": ["x"],
        "categorical": ["city"],
        "classes": CLASSES[task],
        "threshold": 0.4 if task == "binary" else None,
        "target": "label",
    }
    return ModelSignature(**{**facts, **changes})


def make_case(folder: Path, task: Task = "binary", rows: pd.DataFrame | None = None, weight: Any = None) -> Case:
    tracked = FakeRun("run-1")
    run_context = dataclasses.replace(make_run(), description="Predicts who comes again.", owner="shop-team")
    ports = make_ports(folder, run=run_context, tracker=FakeTracker({"fingerprint": tracked}))
    made = folder / "made"
    bias = 10.0 if task == "regression" else 0.0
    write_linear_model(made, make_signature(task), {"x": WEIGHTS[task] if weight is None else weight}, bias=bias)
    weak = np.multiply(0.05, WEIGHTS[task]).tolist()
    names = ("baseline.onnx", "baseline_signature.json")
    write_linear_model(made, make_signature(task), {"x": weak}, bias=bias, names=names)
    facts = {"constant": {"score": CONSTANT[task]}, "rows": {"train": 900, "validation": 100}, "spec": {"model": "linear"}}
    (made / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    digest, refs = publish_files(ports.store, "shop/candidates/new", {p.name: p for p in made.iterdir()})
    frame = make_rows(task) if rows is None else rows
    frame.to_parquet(made / "features.parquet")
    features, files = publish_files(ports.store, "shop/features/2013-06-01", {"features.parquet": made / "features.parquet"})
    schema = FeatureSchema(
        columns=(FeatureColumn(name="x", kind="numeric"), FeatureColumn(name="city", kind="categorical")),
        label="label",
        task=task,
        event_time="at",
        entity_key=("city",),
    )
    dataset = Dataset(
        digest=features,
        files=files,
        as_of=TEST.end,
        feature_schema=schema,
        splits={"test": SplitRef(window=TEST, files=files)},
        rows=len(frame),
    )
    candidate = Candidate(
        digest=digest,
        files=refs,
        fingerprint="f" * 64,
        dataset_version=dataset.digest,
        training=TRAINING,
        task=task,
        mlflow_run_id="run-1",
    )
    return Case(ports, candidate, dataset, tracked, folder, task, schema)
