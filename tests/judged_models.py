"""Small judged models, ready to be deployed: linear, with golden rows that they repeat."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import onnx

from mlops_tasks.artifacts import Candidate, FeatureColumn, FeatureSchema, Judgement, Verdict, Window
from mlops_tasks.core.golden import rows_to_arrays
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import MODEL, WEIGHTS, ModelSignature, Scorer
from tests.linear_models import write_linear_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_tasks.ports import ArtifactStore, ModelRegistry

START = datetime(2029, 1, 1, tzinfo=UTC)
SIGNATURE = ModelSignature(
    task="binary", numeric=["price", "age"], categorical=["shop"], classes=["no", "yes"], threshold=0.5, target="sold"
)
SCHEMA = FeatureSchema(
    columns=(
        FeatureColumn(name="price", kind="numeric"),
        FeatureColumn(name="shop", kind="categorical"),
        FeatureColumn(name="age", kind="numeric"),
    ),
    label="sold",
    task="binary",
    event_time="at",
    entity_key=("shop",),
)
ROWS: list[dict[str, Any]] = [
    {"price": 1.5, "age": 2.0, "shop": "north"},
    {"price": None, "age": 1.0, "shop": None},
    {"price": -2.0, "age": None, "shop": "never seen"},
]


def write_model(folder: Path, *, bias: float = 0.0, golden_error: float = 0.0) -> None:
    """Write a candidate's files; with `golden_error` its golden scores are wrong by that much."""
    write_linear_model(folder, SIGNATURE, {"price": 0.5, "age": -0.25}, bias=bias, effects={"shop": {"north": 1.0}})
    scores = Scorer.load(folder).score_arrays(*rows_to_arrays(ROWS, SIGNATURE)) + golden_error
    (folder / "golden.json").write_text(json.dumps({"rows": ROWS, "scores": scores.tolist()}), encoding="utf-8")
    (folder / "reference.json").write_text("{}", encoding="utf-8")


def write_beside(folder: Path) -> None:
    """Write a candidate whose weights lie in a file beside the graph, as a large model's do."""
    write_model(folder)
    model = onnx.load(folder / MODEL)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    onnx.external_data_helper.set_external_data(weights, WEIGHTS)
    onnx.save(model, folder / MODEL)
    (folder / WEIGHTS).chmod(0o600)


def make_verdict(
    store: ArtifactStore,
    *,
    days: int = 30,
    bias: float = 0.0,
    fingerprint: str = "",
    golden_error: float = 0.0,
    failed: dict[str, str] | None = None,
    run_id: str = "0" * 32,
    against: ModelRegistry | None = None,
    write: Callable[[Path], None] | None = None,
) -> Verdict:
    """Publish a model trained on the first `days` days and judged against the champion of a registry.

    The fingerprint follows from days and bias unless given; without a registry there was no champion. `write` writes
    another model's files.
    """
    with store.staging() as folder:
        if write is None:
            write_model(folder, bias=bias, golden_error=golden_error)
        else:
            write(folder)
        digest, files = publish_files(store, "shop/models/x", {path.name: path for path in folder.iterdir()})
        (folder / "evaluation.json").write_text("{}", encoding="utf-8")
        _, judged = publish_files(store, "shop/verdicts/x", {"evaluation.json": folder / "evaluation.json"})
    candidate = Candidate(
        digest=digest,
        files=files,
        fingerprint=fingerprint or f"{days:08d}{bias}",
        dataset_version=f"dataset{days}",
        training=Window(start=START, end=START + timedelta(days=days)),
        task="binary",
        mlflow_run_id=run_id,
        feature_schema=SCHEMA,
    )
    judgements = tuple(Judgement(rule=rule, passed=False, reason=reason) for rule, reason in (failed or {}).items())
    return Verdict(
        digest=digest,
        files=judged,
        candidate=candidate,
        passed=not failed,
        judgements=(*judgements, Judgement(rule="log_loss", passed=True, reason="0.4 is at most 0.5")),
        metrics={"roc_auc": 0.75},
        champion_version=against.alias("shop", "champion") if against else None,
    )
