"""A dataset version to a candidate: the model, the baselines it must beat, and all that proves how it was made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlops_tasks.artifacts import Candidate, Window, digest_of
from mlops_tasks.core.baselines import constant_score
from mlops_tasks.core.frames import read_split, window_labels
from mlops_tasks.core.hardware import count_threads, describe_hardware, library_versions, pinned, place
from mlops_tasks.core.onnx_export import check_parity
from mlops_tasks.core.problems import LEARNED_FROM, Model, Problem, Session, make_problem
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.scoring import ModelSignature, Scorer
from mlops_tasks.core.sketches import build_reference, prediction_column
from mlops_tasks.core.targets import make_targets
from mlops_tasks.core.training import boosted_model, fit_boosted, fit_model

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Dataset, FeatureSchema
    from mlops_tasks.core.hardware import Placement
    from mlops_tasks.ports import Ports, TrackedRun
    from mlops_tasks.specs import TrainSpec

GOLDEN_ROWS = 32
PARITY_ROWS = 512
PARITY_TOLERANCE = 1e-5


def run(spec: TrainSpec, dataset: Dataset, *, ports: Ports) -> Candidate:
    """Train on the splits `train` and `validation`; publish the candidate.

    A run that was killed goes on from its newest checkpoint and gives the same weights.

    Raises:
        SpecError: the device or the GPUs that are asked for are not there, or do not work.
        DataRejected: the labels or inputs can't be learned from.
        ModelRejected: the loss diverged, or the export scores otherwise than the fitted model.
        StoreUnavailable: the store does not answer or is full.
        WorkerLost: one of several processes was killed or failed.

    """
    placement, threads = place(spec.device, ports.run.resources), count_threads(spec.threads)
    if placement.missing:
        ports.progress.note(f"train: on the CPU, since resources.train.gpus {placement.missing}")
    fingerprint = ports.run.fingerprint or digest_of({"spec": spec.model_dump(mode="json"), "dataset": dataset.digest})
    problem = _load(spec, dataset, placement, ports)
    pipeline = ports.run.pipeline
    with (
        ports.tracker.run(pipeline, fingerprint, f"{spec.model} {dataset.version}") as tracked,
        pinned(threads, placement.device),
        ports.store.staging() as folder,
    ):
        hardware = describe_hardware(placement, threads)
        _record_start(tracked, spec, dataset, hardware, ports)
        session = Session(ports, tracked, f"{pipeline}/checkpoints/{fingerprint}")
        boosted = fit_boosted(problem)
        model = fit_model(problem, session, boosted)
        baseline = model if spec.model == "hgb" else boosted_model(problem, boosted)
        files = _write(folder, problem, model, baseline, _training_facts(spec, dataset, problem, model, hardware))
        files |= _write_reference(folder, problem, model, dataset, ports)
        tracked.artifact(files["training.json"])
        run_id = tracked.run_id
        # Where and with what it was made is told, and is no part of what it is: the same bytes are the same model.
        told = frozenset({"training.json"})
        digest, refs = publish_files(ports.store, f"{pipeline}/candidates/{dataset.version}", files, unhashed=told)
        session.forget()
    return Candidate(
        digest=digest,
        files=refs,
        fingerprint=fingerprint,
        dataset_version=dataset.version,
        training=Window(start=dataset.splits["train"].window.start, end=dataset.splits["validation"].window.end),
        task=dataset.feature_schema.task,
        mlflow_run_id=run_id,
        feature_schema=dataset.feature_schema,
    )


def _load(spec: TrainSpec, dataset: Dataset, placement: Placement, ports: Ports) -> Problem:
    schema = dataset.feature_schema
    frames = {split: read_split(ports.store, dataset, split) for split in LEARNED_FROM}
    targets = make_targets(frames, schema)
    problem = make_problem(frames, targets, schema=schema, spec=spec, placement=placement)
    ignored = problem.transform(problem.both).ignored
    if ignored:
        ports.progress.note(f"train: ignoring {', '.join(ignored)}: no value varies in {len(problem.both.frame)} rows")
    return problem


def _record_start(tracked: TrackedRun, spec: TrainSpec, dataset: Dataset, hardware: dict[str, str | int], ports: Ports) -> None:
    tracked.params({**spec.model_dump(mode="json"), **{f"hardware.{name}": value for name, value in hardware.items()}})
    tracked.tags(
        {
            "dataset_version": dataset.version,
            "dataset_digest": dataset.digest,
            "code_version": ports.run.code_version,
            "intent": ports.run.intent,
            "run_id": ports.run.run_id,
            "reason": ports.run.reason,
            "device": str(hardware["device"]),
            **({"missing_gpus": str(hardware["missing_gpus"])} if "missing_gpus" in hardware else {}),
            **{f"library.{name}": version for name, version in library_versions().items()},
        }
    )


def _training_facts(
    spec: TrainSpec, dataset: Dataset, problem: Problem, model: Model, hardware: dict[str, str | int]
) -> dict[str, Any]:
    targets = problem.targets
    return {
        "constant": {"score": constant_score(problem.both.y, targets.task, len(targets.classes))},
        "spec": spec.model_dump(mode="json"),
        "dataset_version": dataset.version,
        "rows": {"train": len(problem.train.frame), "validation": len(problem.validation.frame)},
        "ignored_columns": model.transform.ignored,
        "threshold": model.threshold,
        "hardware": hardware,
        "libraries": library_versions(),
        **model.facts,
    }


def _write(folder: Path, problem: Problem, model: Model, baseline: Model, facts: dict[str, Any]) -> dict[str, Path]:
    """Write both models, prove that they score as fitted, and choose golden rows."""
    rows = _parity_frame(problem)
    parity = {}
    for made, name, signature in ((model, "model", "signature"), (baseline, "baseline", "baseline_signature")):
        made.export(folder / f"{name}.onnx")
        _write_json(folder / f"{signature}.json", _signature(problem, made).model_dump(mode="json"))
        scorer = Scorer.load(folder, model=f"{name}.onnx", signature=f"{signature}.json")
        expected = made.score(rows)
        tolerance = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        parity[name] = check_parity(name, expected, scorer.score(rows), tolerance=tolerance)
    _write_json(folder / "golden.json", _golden(problem, model))
    _write_json(folder / "training.json", facts | {"export_difference": parity})
    return {path.name: path for path in folder.iterdir()}


def _write_reference(folder: Path, problem: Problem, model: Model, dataset: Dataset, ports: Ports) -> dict[str, Path]:
    """Summarise the training rows, the model's own scores of them too, for the monitor."""
    windows = pd.Series([label for split in LEARNED_FROM for label in window_labels(ports.store, dataset, split)])
    prediction = prediction_column(model.score(problem.both.frame), problem.targets.classes)
    _write_json(folder / "reference.json", build_reference(problem.both.frame, dataset.feature_schema, windows, prediction))
    return {"reference.json": folder / "reference.json"}


def _signature(problem: Problem, model: Model) -> ModelSignature:
    return ModelSignature(
        task=problem.targets.task,
        numeric=problem.schema.numeric,
        categorical=problem.schema.categorical,
        null_token=model.transform.null_token,
        classes=problem.targets.classes,
        threshold=model.threshold,
        target=problem.schema.label,
    )


def _sample(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Take rows evenly spaced in time."""
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(rows, len(frame))).astype(int))]


def _parity_frame(problem: Problem) -> pd.DataFrame:
    """Return real rows: as they are, and with nulls, infinities and unknown categories put in."""
    real = _sample(problem.validation.frame, PARITY_ROWS)
    schema, spoiled = problem.schema, [real]
    for value in (np.nan, np.inf, -np.inf):
        spoiled += [_spoil(real, schema, schema.numeric, value, at) for at in range(2)]
    for text in (None, "never seen before"):
        spoiled += [_spoil(real, schema, schema.categorical, text, at) for at in range(2)]
    return pd.concat(spoiled, ignore_index=True)


def _spoil(frame: pd.DataFrame, schema: FeatureSchema, columns: list[str], value: object, at: int) -> pd.DataFrame:
    """Replace every second of some columns, from the first or second on."""
    del schema
    return frame.assign(**{name: pd.Series([value] * len(frame), index=frame.index) for name in columns[at::2]})


def _golden(problem: Problem, model: Model) -> dict[str, Any]:
    """Return real rows, half of them with nulls where there are such, and the fitted model's scores."""
    inputs = problem.both.frame[[*problem.schema.numeric, *problem.schema.categorical]]
    with_null = inputs[inputs.isna().any(axis=1)]
    chosen = [_sample(with_null, GOLDEN_ROWS // 2)] if len(with_null) else []
    chosen.append(_sample(inputs, GOLDEN_ROWS - sum(map(len, chosen))))
    rows = pd.concat(chosen, ignore_index=True)
    records = [{str(name): _plain(value) for name, value in record.items()} for record in rows.to_dict(orient="records")]
    return {"rows": records, "scores": model.score(rows).astype(np.float64).tolist()}


def _plain(value: Any) -> Any:
    """Return a cell as JSON has it: null for what the model reads as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
