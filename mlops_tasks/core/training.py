"""Labelled rows to a finished model: fit with early stopping, tune the threshold, fit again on all rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve

from mlops_tasks.core import baselines, network, onnx_export, tuning
from mlops_tasks.core.checkpoints import pack, unpack
from mlops_tasks.core.fitting import Trainer, count_steps
from mlops_tasks.core.gpus import explain_full_memory, measure_memory, start_measuring
from mlops_tasks.core.hardware import count_threads
from mlops_tasks.core.losses import SCORING_ROWS, Rows, predict, score_loss
from mlops_tasks.core.parallel.job import Job
from mlops_tasks.core.parallel.launch import fit_in_processes
from mlops_tasks.core.problems import Model

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from mlops_tasks.core.baselines import Boosted
    from mlops_tasks.core.fit_state import Fitted
    from mlops_tasks.core.problems import Labelled, Problem, Session
    from mlops_tasks.core.transform import Transform
    from mlops_tasks.specs import TrainSpec

    Floats = npt.NDArray[np.float64]

TRIALS = "trials.npz"


def fit_model(problem: Problem, session: Session, boosted: tuple[Boosted, Boosted]) -> Model:
    """Fit the model that the spec names; `boosted` is gradient boosting on the training rows and on all."""
    if problem.spec.model == "hgb":
        return boosted_model(problem, boosted)
    if problem.spec.model == "linear":
        return _linear_model(problem)
    return _network_model(problem, session)


def fit_boosted(problem: Problem) -> tuple[Boosted, Boosted]:
    """Fit gradient boosting with early stopping, then again on all rows with as many trees."""
    first = _boost(problem, problem.train, trees=None)
    if not problem.spec.refit:
        return first, first
    return first, _boost(problem, problem.both, trees=first.model.n_iter_)


def _boost(problem: Problem, rows: Labelled, *, trees: int | None) -> Boosted:
    held = problem.validation
    return baselines.fit_boosting(
        problem.transform(rows),
        rows.frame,
        rows.y,
        problem.targets.task,
        seed=problem.spec.seed,
        trees=trees,
        weight=rows.weight,
        validation=None if trees else (held.frame, held.y, held.weight),
    )


def boosted_model(problem: Problem, boosted: tuple[Boosted, Boosted]) -> Model:
    """Make a model of gradient boosting fitted on the training rows and on all."""
    first, last = boosted
    return Model(
        score=last.score,
        export=lambda path: onnx_export.export_boosting(last, path),
        transform=last.transform,
        threshold=_tune_threshold(problem, first.score(problem.validation.frame)),
        facts={"model": "hgb", "trees": int(last.model.n_iter_)},
    )


def _linear_model(problem: Problem) -> Model:
    def fit(rows: Labelled) -> tuple[network.ScoringNetwork, Transform]:
        transform = problem.transform(rows)
        standardiser, shift, scale = network.Standardiser(transform.numeric), *_target_scale(problem, rows)
        encoded = _encode(transform, standardiser, rows, shift, scale)
        module = baselines.fit_linear(transform, encoded, problem.targets.task, problem.targets.outputs)
        return network.ScoringNetwork(standardiser, module, problem.targets.task, shift=shift, scale=scale).eval(), transform

    first, transform = fit(problem.train)
    threshold = _tune_threshold(problem, _score(first, transform, problem.validation.frame))
    last, transform = fit(problem.both) if problem.spec.refit else (first, transform)
    return _scored_by(last, transform, threshold, {"model": "linear"})


def _network_model(problem: Problem, session: Session) -> Model:
    spec, trials = _tune(problem, session) if problem.spec.trials > 1 else (problem.spec, [])
    problem = replace(problem, spec=spec)
    name = f"trial_{min(trials, key=lambda t: t.value).number}" if trials else "fit"
    first = _fit_early(problem, session, name)
    threshold = _tune_threshold(problem, _score(first.network, first.transform, problem.validation.frame))
    last = _fit_again(problem, session, first) if spec.refit else first
    facts = {
        "model": spec.model,
        "params": {key: getattr(spec, key) for key in tuning.SPACE},
        "passes": first.fitted.best_step / first.fitted.steps_per_pass,
        "steps": {
            "best": first.fitted.best_step,
            "early_stopped": first.fitted.steps,
            "refit": last.fitted.steps if spec.refit else 0,
        },
        "validation_loss": first.loss,
        "curve": [asdict(point) for point in first.fitted.curve],
        "trials": [asdict(trial) for trial in trials],
    }
    return _scored_by(last.network, last.transform, threshold, facts)


@dataclass(frozen=True)
class _Fit:
    network: network.ScoringNetwork
    transform: Transform
    fitted: Fitted
    loss: float


def _fit_early(problem: Problem, session: Session, name: str) -> _Fit:
    """Fit on the training rows until the validation loss no longer falls."""
    description = f"fit {problem.spec.model}" if name == "fit" else f"fit {problem.spec.model}, {name.replace('_', ' ')}"
    return _fit_network(
        problem, session, name, description, problem.train, passes=problem.spec.max_epochs, held=problem.validation
    )


def _fit_again(problem: Problem, session: Session, first: _Fit) -> _Fit:
    """Fit on all rows for as many passes as were best."""
    passes = first.fitted.best_step / first.fitted.steps_per_pass
    return _fit_network(
        problem, session, "refit", f"refit {problem.spec.model} on all rows", problem.both, passes=passes, held=None
    )


@explain_full_memory()
def _fit_network(
    problem: Problem, session: Session, name: str, description: str, rows: Labelled, *, passes: float, held: Labelled | None
) -> _Fit:
    spec, task, here = problem.spec, problem.targets.task, problem.placement.here
    transform = problem.transform(rows)
    standardiser, shift, scale = network.Standardiser(transform.numeric), *_target_scale(problem, rows)
    encoded = _encode(transform, standardiser, rows, shift, scale).to(here)
    judged = None if held is None else _encode(transform, standardiser, held, shift, scale).to(here)
    backbone = network.build_backbone(transform, spec, problem.targets.outputs).to(here)
    total, steps = None if held is not None else passes * len(encoded), count_steps(spec, len(encoded), passes)
    with session.watch(name, description, total, spec.checkpoint_every.total_seconds()) as watch:
        if problem.placement.processes > 1:
            job = _job(problem, transform, steps)
            with session.ports.store.staging() as folder:
                fitted = fit_in_processes(job, encoded, judged, watch, folder)
        else:
            start_measuring(here)
            fitted = Trainer(backbone, encoded, spec, task, watch).run(steps=steps, validation=judged)
            watch.on_memory(measure_memory(here))
    loss = float("nan") if judged is None else score_loss(predict(backbone, fitted.weights, judged, task), judged, task)
    backbone.load_state_dict(fitted.weights, strict=False)
    scoring = network.ScoringNetwork(standardiser, backbone.cpu(), task, shift=shift, scale=scale).eval()
    return _Fit(scoring, transform, fitted, loss)


def _job(problem: Problem, transform: Transform, steps: int) -> Job:
    """Describe a fit to the processes that share it."""
    placement, spec = problem.placement, problem.spec
    return Job(
        transform=transform,
        spec=spec,
        task=problem.targets.task,
        outputs=problem.targets.outputs,
        steps=steps,
        device="cuda" if placement.device.type == "cuda" else "cpu",
        processes=placement.processes,
        threads=max(1, count_threads(spec.threads) // placement.processes),
    )


def _tune(problem: Problem, session: Session) -> tuple[TrainSpec, list[tuning.Trial]]:
    """Search hyperparameters; finished trials are kept in the store until the model is published."""
    store, key = session.ports.store, f"{session.prefix}/{TRIALS}"
    found = unpack(store.read(key)) if store.exists(key) else None
    trials = [tuning.Trial(**trial) for trial in found[1]] if found else []

    def judge(spec: TrainSpec, number: int) -> float:
        loss = _fit_early(replace(problem, spec=spec), session, f"trial_{number}").loss
        return loss**0.5 if problem.targets.task == "regression" else loss

    def keep(trial: tuning.Trial) -> None:
        trials.append(trial)
        store.write(key, pack({}, [asdict(each) for each in trials]))
        session.tracked.metrics(
            {"trial.value": trial.value, **{f"trial.{k}": v for k, v in trial.params.items()}}, step=trial.number
        )

    return tuning.search(problem.spec, judge, finished=tuple(trials), on_trial=keep), trials


def _target_scale(problem: Problem, rows: Labelled) -> tuple[float, float]:
    if problem.targets.task != "regression":
        return 0.0, 1.0
    return float(rows.y.mean()), float(rows.y.std()) or 1.0


def _encode(transform: Transform, standardiser: network.Standardiser, rows: Labelled, shift: float, scale: float) -> Rows:
    x, flags = standardiser(torch.from_numpy(transform.numbers(rows.frame)))
    y = torch.from_numpy(((rows.y - shift) / scale).astype(np.float32))
    weight = torch.ones(len(y)) if rows.weight is None else torch.from_numpy(rows.weight.astype(np.float32))
    return Rows(x, flags, torch.from_numpy(transform.codes(rows.frame)), y, weight)


@torch.no_grad()
def _score(scoring: network.ScoringNetwork, transform: Transform, frame: pd.DataFrame) -> npt.NDArray[np.floating[Any]]:
    numbers, codes = torch.from_numpy(transform.numbers(frame)), torch.from_numpy(transform.codes(frame))
    starts = range(0, max(len(frame), 1), SCORING_ROWS)
    parts = [scoring(numbers[at : at + SCORING_ROWS], codes[at : at + SCORING_ROWS]) for at in starts]
    scores: npt.NDArray[np.floating[Any]] = torch.cat(parts).numpy()
    return scores


def _scored_by(scoring: network.ScoringNetwork, transform: Transform, threshold: float | None, facts: dict[str, Any]) -> Model:
    return Model(
        score=lambda frame: _score(scoring, transform, frame),
        export=lambda path: onnx_export.export_network(scoring, transform, path),
        transform=transform,
        threshold=threshold,
        facts=facts,
    )


def _tune_threshold(problem: Problem, scores: npt.NDArray[np.floating[Any]]) -> float | None:
    """Return the probability from which calling a row positive gives the best F1 on the validation split."""
    if problem.targets.task != "binary":
        return None
    precision, recall, thresholds = precision_recall_curve(problem.validation.y, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return float(thresholds[np.argmax(f1[:-1])])
