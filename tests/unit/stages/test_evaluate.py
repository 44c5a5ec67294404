"""The stage: what it publishes and records, what it compares with, and what bad input gets."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.artifacts import Candidate, Dataset, Deployment, FeatureColumn, FeatureSchema, SplitRef, Window
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
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
PLACE = "pipeline shop: test split [2013-06-01T00:00, 2013-06-11T00:00)"


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots out, which take a second and are tested with the report, except where a test draws."""
    if "draws" not in request.node.name:
        monkeypatch.setattr("mlops_tasks.core.report.html.draw_plots", lambda _evaluation: {"periods": ""})


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


def test_a_good_candidate_passes_and_draws_its_report(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    gates = [
        {"metric": "roc_auc", "min": 0.6},
        {"metric": "log_loss", "against": "constant"},
        {"metric": "roc_auc", "against": "champion"},
    ]
    verdict = case.judge({"gates": gates, "slices": [{"column": "city", "metric": "roc_auc", "floor": 0.6, "min_rows": 50}]})
    assert verdict.passed
    assert [j.rule for j in verdict.judgements] == [
        "roc_auc at least 0.6",
        "log_loss against constant",
        "roc_auc against champion",
        "roc_auc at least 0.6 in each city",
    ]
    assert verdict.judgements[2].reason == "there is no champion yet"
    assert verdict.champion_version is None
    prefix = f"shop/verdicts/{'f' * 16}/{verdict.digest[:16]}"
    assert [ref.key for ref in verdict.files] == [f"{prefix}/{n}" for n in ("evaluation.json", "model_card.md", "report.html")]
    assert all(case.ports.store.verify(ref) for ref in verdict.files)
    facts = json.loads(case.read(verdict, "evaluation.json"))
    assert facts["rows"] == 400
    assert {c["name"] for c in facts["contenders"]} == {"candidate", "hgb", "constant"}
    assert "Predicts who comes again." in case.read(verdict, "model_card.md")
    report = case.read(verdict, "report.html")
    assert "1,000" in report
    assert report.count("<svg") == 7


def test_the_metrics_are_those_of_the_test_rows(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score, roc_auc_score  # noqa: PLC0415 - slow to import, and one test needs it

    case = make_case(tmp_path)
    verdict = case.judge()
    rows = make_rows("binary")
    score = 1 / (1 + np.exp(-2.0 * rows["x"].fillna(0.0)))
    assert verdict.metrics["roc_auc"] == pytest.approx(roc_auc_score(rows["label"], score))
    assert verdict.metrics["f1"] == pytest.approx(f1_score(rows["label"], score >= 0.4))


def test_only_rows_of_the_test_window_count(tmp_path: Path) -> None:
    rows = make_rows("binary")
    early, late = rows.head(50).copy(), rows.head(50).copy()
    early["at"], late["at"] = TEST.start - timedelta(seconds=1), TEST.end
    case = make_case(tmp_path, rows=pd.concat([early, rows, late]))
    assert json.loads(case.read(case.judge(), "evaluation.json"))["rows"] == 400


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_have_their_own_metrics(tmp_path: Path, task: Task) -> None:
    case = make_case(tmp_path, task)
    gate = {"multiclass": {"metric": "log_loss", "against": "hgb"}, "regression": {"metric": "r2", "min": 0.5}}[task]
    verdict = case.judge({"gates": [gate]}, case.deploy(np.multiply(0.5, WEIGHTS[task]).tolist(), numeric=["x"]))
    assert verdict.passed
    assert verdict.champion_version == 3
    assert {"multiclass": "roc_auc_ovr", "regression": "rmse"}[task] in verdict.metrics


def test_a_worse_candidate_fails_against_the_champion(tmp_path: Path) -> None:
    case = make_case(tmp_path, weight=-1.0)
    verdict = case.judge({"gates": [{"metric": "roc_auc", "against": "champion"}]}, case.deploy(2.0))
    assert not verdict.passed
    assert verdict.judgements[0].reason.startswith("roc_auc 0.170 is worse than champion's 0.830 by 0.660 [0.")
    assert verdict.judgements[0].reason.endswith("], and no tolerance is given")
    assert case.tracked.recorded_tags["mlops.verdict"] == "failed"


def test_a_champion_that_needs_another_column_fails_its_gate_only(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    gates = [{"metric": "roc_auc", "min": 0.6}, {"metric": "roc_auc", "against": "champion"}]
    verdict = case.judge({"gates": gates}, case.deploy(2.0, numeric=["x", "gone"]))
    assert [j.passed for j in verdict.judgements] == [True, False]
    assert verdict.judgements[1].reason == (
        "roc_auc can't be compared with champion: it needs column 'gone', which this dataset does not have"
    )


def test_a_champion_with_classes_in_another_order_is_read_right(tmp_path: Path) -> None:
    case = make_case(tmp_path, "multiclass")
    champion = case.deploy([-2.0, 0.0, 2.0], classes=["low", "mid", "high"])
    verdict = case.judge({"gates": [{"metric": "accuracy", "against": "champion"}]}, champion)
    assert verdict.judgements[0].reason == f"accuracy {verdict.metrics['accuracy']:.3f} is the same as champion's"


def test_a_champion_of_another_meaning_is_not_compared(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    champion = case.deploy(2.0, classes=["true", "false"])
    verdict = case.judge({"gates": [{"metric": "roc_auc", "against": "champion"}]}, champion)
    assert verdict.judgements[0].reason == "roc_auc can't be compared with champion: its positive class is another one"


def test_whole_days_can_be_resampled(tmp_path: Path) -> None:
    rows = make_rows("regression")
    rows["label"] += rows["at"].dt.day % 3 * 8.0  # each day has its own error
    case = make_case(tmp_path, "regression", rows)
    widths = []
    for resample in ("row", "day"):
        facts = json.loads(case.read(case.judge({"bootstrap": 200, "resample": resample}), "evaluation.json"))
        rmse = facts["contenders"][0]["metrics"]["rmse"]
        widths.append(rmse["high"] - rmse["low"])
    assert widths[1] > 2 * widths[0]


def test_metrics_and_report_reach_the_candidates_run(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    verdict = case.judge()
    recorded = {name: value for name, value, step in case.tracked.recorded_metrics if step is None}
    assert recorded["test_roc_auc"] == verdict.metrics["roc_auc"]
    assert "hgb_test_roc_auc" in recorded
    assert set(case.tracked.artifacts) == {"evaluation/evaluation.json", "evaluation/report.html", "evaluation/model_card.md"}
    assert case.tracked.status == "finished"


def test_the_digest_does_not_know_the_time(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    first = case.judge()
    later = dataclasses.replace(case.ports.run, now=case.ports.run.now + timedelta(days=9), run_id="run-2")
    case.ports = dataclasses.replace(case.ports, run=later)
    assert case.judge() == first
    assert "2030-01-01" in case.read(first, "report.html")
    assert all(case.ports.store.verify(ref) for ref in first.files)


def test_another_champion_makes_another_verdict(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    assert case.judge().digest != case.judge(champion=case.deploy(1.0)).digest


def rejected(folder: Path, rows: pd.DataFrame, task: Task = "binary", spec: dict[str, Any] | None = None) -> str:
    case = make_case(folder, task, rows)
    with pytest.raises(DataRejected) as caught:
        case.judge(spec)
    assert not list(case.ports.store.list("shop/verdicts/"))
    return str(caught.value)


def test_a_class_absent_from_the_test_split(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("binary").assign(label=False)) == (
        f"{PLACE}: label 'label' has no row of class 'true' among 400 rows, so the metrics are undefined; "
        "widen the range or snapshot.test"
    )


def test_one_row(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("binary").head(1)) == (
        f"{PLACE}: has 1 row, needs at least 2; widen the range or snapshot.test"
    )


def test_no_row_in_the_window(tmp_path: Path) -> None:
    rows = make_rows("binary")
    rows["at"] = TEST.end
    assert rejected(tmp_path, rows) == f"{PLACE}: has 0 rows, needs at least 2; widen the range or snapshot.test"


def test_no_files_in_the_test_split(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    case.dataset = case.dataset.model_copy(update={"splits": {"test": SplitRef(window=TEST, files=())}})
    with pytest.raises(DataRejected) as caught:
        case.judge()
    assert str(caught.value) == (
        f"pipeline shop: dataset {case.dataset.version} has no test rows; widen the range or snapshot.test"
    )


def test_a_missing_column(tmp_path: Path) -> None:
    message = rejected(tmp_path, make_rows("binary").drop(columns="x"))
    assert message.startswith("shop/features/2013-06-01/")
    assert message.endswith("/features.parquet: column 'x' is missing; let the features produce it and run preprocess again")


def test_a_slice_of_a_column_that_is_not_there(tmp_path: Path) -> None:
    spec = {"slices": [{"column": "country", "metric": "roc_auc"}]}
    assert rejected(tmp_path, make_rows("binary"), spec=spec) == (
        f"{PLACE}: column 'country' is missing; run preprocess and snapshot again"
    )


def test_null_labels(tmp_path: Path) -> None:
    rows = make_rows("binary")
    rows["label"] = rows["label"].astype(object).where(rows.index != 7, None)
    assert rejected(tmp_path, rows) == (f"{PLACE}: label 'label' is null in 1 of 400 rows; reject such rows with a row rule")


def test_a_class_that_training_never_saw(tmp_path: Path) -> None:
    rows = make_rows("multiclass")
    rows.loc[3:5, "label"] = "huge"
    assert rejected(tmp_path, rows, "multiclass") == (
        f"{PLACE}: label 'label' has 3 rows of classes that the training data lacks; train on a longer range"
    )


def test_infinite_labels(tmp_path: Path) -> None:
    rows = make_rows("regression")
    rows.loc[3, "label"] = np.inf
    assert rejected(tmp_path, rows, "regression") == (
        f"{PLACE}: label 'label' is not a finite number in 1 of 400 rows; reject such rows with a row rule"
    )


def test_a_label_without_variation(tmp_path: Path) -> None:
    assert rejected(tmp_path, make_rows("regression").assign(label=1.5), "regression") == (
        f"{PLACE}: label 'label' has the same value in all 400 rows, so r2 is undefined; widen the range or snapshot.test"
    )


def test_a_metric_of_another_task_is_refused_before_any_work(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    with pytest.raises(SpecError, match=r"^pipeline shop: evaluate\.gates\.0\.metric: 'rmse' is for regression tasks"):
        case.judge({"gates": [{"metric": "rmse", "max": 1}]})


def test_scores_that_are_not_numbers_reject_the_model(tmp_path: Path) -> None:
    case = make_case(tmp_path, weight=float("nan"))
    with pytest.raises(ModelRejected) as caught:
        case.judge()
    assert str(caught.value) == (
        f"candidate {'f' * 16}: 400 of 400 scores of the test split [2013-06-01T00:00, 2013-06-11T00:00) "
        "are not finite; lower train.learning_rate and train again"
    )
