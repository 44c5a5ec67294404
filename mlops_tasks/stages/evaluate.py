"""A candidate and held-out later rows to a verdict: judged against the baselines and against what serves now."""

# ruff: noqa: N806 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_tasks.artifacts import Verdict
from mlops_tasks.core.evaluation import Evaluation, Models, TestSet, encode_truth, evaluate
from mlops_tasks.core.frames import read_split, window_labels
from mlops_tasks.core.gates import check_metrics
from mlops_tasks.core.metrics import Predictions
from mlops_tasks.core.model_card import render_model_card
from mlops_tasks.core.publishing import gather_files, publish_files
from mlops_tasks.core.report import Details, layout_digest, render_report
from mlops_tasks.core.scoring import ModelSignature, Scorer, scorer_files
from mlops_tasks.errors import DataRejected, ModelRejected

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd

    from mlops_tasks.artifacts import Candidate, Dataset, Deployment, FileRef
    from mlops_tasks.core.metrics import Floats
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import EvaluateSpec

HALF = 0.5
REPORTS = frozenset({"report.html", "model_card.md"})


def run(spec: EvaluateSpec, candidate: Candidate, dataset: Dataset, champion: Deployment | None, *, ports: Ports) -> Verdict:
    """Score the test split with the candidate and what it must beat, judge it, and publish why.

    Raises:
        SpecError: a gate or slice names a metric that the task does not have.
        DataRejected: the test split can't be judged on (no rows, a class absent, null labels, a column missing).
        ModelRejected: the candidate's scores are not finite numbers, or its files contradict each other.
        StoreUnavailable: a file can't be read or written.

    """
    check_metrics(spec, candidate.task, f"pipeline {ports.run.pipeline}")
    with ports.store.staging() as folder:
        evaluation, details = _evaluate(spec, candidate, dataset, champion, ports=ports, folder=folder)
        files = _write(evaluation, details, folder)
        _track(evaluation, files, candidate, ports)
        digest, refs = publish_files(
            ports.store,
            f"{ports.run.pipeline}/verdicts/{candidate.fingerprint[:16]}",
            files,
            # Reports are no part of the identity, and the first one stays: another layout needs another folder.
            facts={"candidate": candidate.digest, "champion": champion and champion.digest, "layout": layout_digest()},
            unhashed=REPORTS,
        )
    metrics = {name: float(estimate.value or 0.0) for name, estimate in evaluation.contenders[0].metrics.items()}
    return Verdict(
        digest=digest,
        files=refs,
        candidate=candidate,
        passed=evaluation.passed,
        judgements=evaluation.judgements,
        metrics=metrics,
        champion_version=champion.version if champion else None,
    )


def _evaluate(
    spec: EvaluateSpec, candidate: Candidate, dataset: Dataset, champion: Deployment | None, *, ports: Ports, folder: Path
) -> tuple[Evaluation, Details]:
    """Load models and rows, score, measure and judge."""
    ports.progress.note(f"evaluate: scoring the test split {_test_window(dataset, ports)}")
    scorer = _load(ports.store, candidate.files, folder / "candidate")
    test = _read_test(dataset, scorer.signature, spec, ports)
    training = json.loads((folder / "candidate" / "training.json").read_text(encoding="utf-8"))
    scored = {"candidate": _score_candidate(scorer, test, candidate)}
    absent: dict[str, str] = {}
    for name, other in (
        ("champion", _champion(champion, ports.store, folder / "champion")),
        ("hgb", _baseline(candidate, folder / "candidate")),
    ):
        result = other if isinstance(other, str) else _score_other(other, test)
        if isinstance(result, str):
            absent[name] = result
        else:
            scored[name] = result
    scored["constant"] = _score_constant(training["constant"]["score"], scored["candidate"])
    evaluation = evaluate(spec, test, Models(scored, lambda frame: _scores(scorer, frame), absent))
    return evaluation, _details(candidate, champion, training, scorer.signature, ports=ports)


def _test_window(dataset: Dataset, ports: Ports) -> str:
    """Return the test split's window for people. Raises: DataRejected when the dataset has no test rows."""
    split = dataset.splits.get("test")
    if split is None or not split.files:
        msg = f"pipeline {ports.run.pipeline}: dataset {dataset.version} has no test rows; widen the range or snapshot.test"
        raise DataRejected(msg)
    return str(split.window)


def _read_test(dataset: Dataset, signature: ModelSignature, spec: EvaluateSpec, ports: Ports) -> TestSet:
    frame = read_split(ports.store, dataset, "test")
    window = dataset.splits["test"].window
    for column in [*signature.numeric, *signature.categorical, signature.target, *(item.column for item in spec.slices)]:
        if column not in frame.columns:
            where = f"pipeline {ports.run.pipeline}: test split {window}"
            msg = f"{where}: column {column!r} is missing; run preprocess and snapshot again"
            raise DataRejected(msg)
    return TestSet(
        frame=frame,
        truth_N=encode_truth(frame, signature, window, f"pipeline {ports.run.pipeline}"),
        window=window,
        event_time=dataset.feature_schema.event_time,
        label=signature.target,
        signature=signature,
        window_N=np.array(list(window_labels(ports.store, dataset, "test"))),
    )


def _load(store: ArtifactStore, refs: Iterable[FileRef], folder: Path) -> Scorer:
    """Bring files into one folder and load the model."""
    gather_files(store, refs, folder)
    return Scorer.load(folder, threads=0)


def _champion(champion: Deployment | None, store: ArtifactStore, folder: Path) -> Scorer | str:
    if champion is None:
        return ""
    return _load(store, scorer_files(champion), folder)


def _baseline(candidate: Candidate, folder: Path) -> Scorer | str:
    if not (folder / "baseline.onnx").is_file():
        return f"candidate {candidate.fingerprint[:16]} came without baseline.onnx"
    return Scorer.load(folder, model="baseline.onnx", signature="baseline_signature.json", threads=0)


def _scores(scorer: Scorer, frame: pd.DataFrame) -> Floats:
    return scorer.score(frame).astype(np.float64)


def _threshold(signature: ModelSignature) -> float:
    return HALF if signature.threshold is None else signature.threshold


def _score_candidate(scorer: Scorer, test: TestSet, candidate: Candidate) -> Predictions:
    score_N = _scores(scorer, test.frame)
    bad = int((~np.isfinite(score_N)).reshape(len(score_N), -1).any(axis=1).sum())
    if bad:
        msg = (
            f"candidate {candidate.fingerprint[:16]}: {bad:,} of {len(score_N):,} scores of the test split {test.window} "
            "are not finite; lower train.learning_rate and train again"
        )
        raise ModelRejected(msg)
    return Predictions(candidate.task, test.truth_N, score_N, _threshold(scorer.signature))


def _score_other(scorer: Scorer, test: TestSet) -> Predictions | str:
    """Score with another model, its classes in the candidate's order; or say why that is impossible."""
    signature, mine = scorer.signature, test.signature
    missing = [name for name in [*signature.numeric, *signature.categorical] if name not in test.frame.columns]
    if missing:
        return f"it needs column {missing[0]!r}, which this dataset does not have"
    if (signature.task, signature.target, sorted(signature.classes)) != (mine.task, mine.target, sorted(mine.classes)):
        return f"it predicts {signature.target!r} ({signature.task}) with other classes or another meaning"
    score_N = _scores(scorer, test.frame)
    if not np.isfinite(score_N).all():
        return "its scores are not finite"
    if mine.task == "multiclass":
        score_N = score_N[:, [signature.classes.index(name) for name in mine.classes]]
    elif mine.task == "binary" and signature.classes != mine.classes:
        return "its positive class is another one"
    return Predictions(mine.task, test.truth_N, score_N, _threshold(signature))


def _score_constant(score: float | list[float], candidate: Predictions) -> Predictions:
    """Give every row the training data's mean or class shares."""
    score_N = np.broadcast_to(np.asarray(score, dtype=np.float64), candidate.score_N.shape)
    return Predictions(candidate.task, candidate.truth_N, np.array(score_N), HALF)


def _details(
    candidate: Candidate,
    champion: Deployment | None,
    training: dict[str, Any],
    signature: ModelSignature,
    *,
    ports: Ports,
) -> Details:
    return Details(
        pipeline=ports.run.pipeline,
        description=ports.run.description,
        owner=ports.run.owner,
        fingerprint=candidate.fingerprint,
        dataset_version=candidate.dataset_version,
        training=candidate.training,
        training_rows=sum(training.get("rows", {}).values()),
        champion_version=champion.version if champion else None,
        champion_training=champion.training if champion else None,
        run_id=ports.run.run_id,
        intent=ports.run.intent,
        code_version=ports.run.code_version,
        evaluated_at=f"{ports.run.now:%Y-%m-%d %H:%M} UTC",
        tracker_url=ports.tracker.url(candidate.mlflow_run_id),
        numeric=tuple(signature.numeric),
        categorical=tuple(signature.categorical),
        parameters=training.get("spec", {}),
        environment={**training.get("hardware", {}), **training.get("libraries", {})},
    )


def _write(evaluation: Evaluation, details: Details, folder: Path) -> dict[str, Path]:
    """Write the verdict's files; return them by name."""
    texts = {
        "evaluation.json": evaluation.model_dump_json(indent=1),
        "report.html": render_report(evaluation, details),
        "model_card.md": render_model_card(evaluation, details),
    }
    files = {name: folder / name for name in texts}
    for name, text in texts.items():
        files[name].write_text(text, encoding="utf-8")
    return files


def _track(evaluation: Evaluation, files: dict[str, Path], candidate: Candidate, ports: Ports) -> None:
    """Add metrics and report to the candidate's run; a retry writes the same again."""
    values = {
        f"test_{name}" if contender.name == "candidate" else f"{contender.name}_test_{name}": estimate.value
        for contender in evaluation.contenders
        for name, estimate in contender.metrics.items()
        if estimate.value is not None
    }
    with ports.tracker.resume(candidate.mlflow_run_id) as tracked:
        tracked.metrics(values)
        tracked.tags({"mlops.verdict": "passed" if evaluation.passed else "failed"})
        for path in files.values():
            tracked.artifact(path, "evaluation")
