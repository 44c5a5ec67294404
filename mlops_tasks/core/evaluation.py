"""Predictions of a candidate and of what it must beat to everything that is known of it on the test split."""

# ruff: noqa: N803, N806, N815 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from mlops_tasks.artifacts import Frozen, Judgement, Task, Window
from mlops_tasks.core import curves
from mlops_tasks.core.bootstrap import Comparison, Estimate, Resampling, compare
from mlops_tasks.core.gates import judge_gates, judge_slices
from mlops_tasks.core.importance import Importance, count_repeats, permutation_importance
from mlops_tasks.core.metrics import HEADLINE, METRICS, Predictions
from mlops_tasks.core.scoring import category_texts
from mlops_tasks.core.slices import Period, SliceTable, measure_periods, measure_slice
from mlops_tasks.core.window_errors import WindowError, measure_errors
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from mlops_tasks.core.metrics import Floats, Ints
    from mlops_tasks.core.scoring import ModelSignature
    from mlops_tasks.specs import EvaluateSpec

FEWEST_ROWS = 2
WIDEN = "widen the range or snapshot.test"
REJECT = "reject such rows with a row rule"


class Contender(Frozen):
    """One model on the test split; `difference` is the candidate's value minus its own."""

    name: str
    threshold: float | None
    metrics: dict[str, Estimate]
    difference: dict[str, Estimate]


class Plots(Frozen):
    """Aggregated points of the report's plots; those of other tasks are empty."""

    roc: dict[str, curves.Curve] = Field(default_factory=dict)
    precision_recall: dict[str, curves.Curve] = Field(default_factory=dict)
    calibration: dict[str, tuple[curves.CalibrationBin, ...]] = Field(default_factory=dict)
    scores: curves.Histogram | None = None
    residuals: curves.Histogram | None = None
    predicted_actual: curves.Grid | None = None
    confusion: tuple[tuple[int, ...], ...] = ()


class Evaluation(Frozen):
    """All that the verdict, the report and the model card say; no row's values are in it."""

    task: Task
    label: str
    classes: tuple[str, ...]
    headline: str = Field(
        description="metric that plots over time and importance use: the first gate's, else the task's usual one"
    )
    test: Window
    rows: int
    class_rows: dict[str, int]
    passed: bool
    judgements: tuple[Judgement, ...]
    contenders: tuple[Contender, ...]
    absent: dict[str, str] = Field(description="model -> why it was not compared")
    resamples: int
    resample: str
    confidence: float
    slices: tuple[SliceTable, ...]
    period_unit: str
    periods: tuple[Period, ...]
    windows: tuple[WindowError, ...] = Field(description="the candidate's error in each window: monitoring compares with it")
    importance: tuple[Importance, ...]
    importance_rows: int
    importance_repeats: int
    plots: Plots


@dataclass(frozen=True)
class TestSet:
    """The test split: N rows in time order, and the truth of each."""

    __test__ = False  # pytest: no test class

    frame: pd.DataFrame
    truth_N: Floats
    window: Window
    event_time: str
    label: str
    signature: ModelSignature
    window_N: npt.NDArray[np.str_] | None = None
    """Label of the window that each row is of; None: not known."""


@dataclass(frozen=True)
class Models:
    """What is compared: `scored` starts with `candidate`; `score` is the candidate's function for importance."""

    scored: Mapping[str, Predictions]
    score: Callable[[pd.DataFrame], Floats]
    absent: Mapping[str, str] = field(default_factory=dict)


def encode_truth(frame: pd.DataFrame, signature: ModelSignature, window: Window, where: str) -> Floats:
    """Turn labels into class indices (or values, for regression); N.

    Raises:
        DataRejected: too few rows, null or unknown labels, or a class without rows: metrics would be undefined.

    """
    place = f"{where}: test split {window}"
    label = frame[signature.target]
    if len(label) < FEWEST_ROWS:
        msg = f"{place}: has {len(label)} row{'' if len(label) == 1 else 's'}, needs at least {FEWEST_ROWS}; {WIDEN}"
        raise DataRejected(msg)
    nulls = int(label.isna().sum())
    if nulls:
        msg = f"{place}: label {signature.target!r} is null in {nulls:,} of {len(label):,} rows; {REJECT}"
        raise DataRejected(msg)
    return _values(label, place) if signature.task == "regression" else _class_indices(label, signature, place)


def _values(label: pd.Series, place: str) -> Floats:
    truth_N = pd.to_numeric(label, errors="coerce").to_numpy(dtype="float64")
    bad = int((~np.isfinite(truth_N)).sum())
    if bad:
        msg = f"{place}: label {label.name!r} is not a finite number in {bad:,} of {len(label):,} rows; {REJECT}"
        raise DataRejected(msg)
    if np.ptp(truth_N) == 0:
        msg = f"{place}: label {label.name!r} has the same value in all {len(label):,} rows, so r2 is undefined; {WIDEN}"
        raise DataRejected(msg)
    return np.asarray(truth_N)


def _class_indices(label: pd.Series, signature: ModelSignature, place: str) -> Floats:
    index = {name: float(at) for at, name in enumerate(signature.classes)}
    texts = category_texts(label.tolist())
    unknown = sorted(set(texts) - set(index))
    if unknown:
        rows = int(np.isin(texts, unknown).sum())
        msg = (
            f"{place}: label {label.name!r} has {rows:,} rows of classes that the training data lacks; train on a longer range"
        )
        raise DataRejected(msg)
    truth_N = np.array([index[text] for text in texts])
    lacking = [name for name, at in index.items() if not (truth_N == at).any()]
    if lacking:
        names = ", ".join(repr(name) for name in lacking)
        msg = (
            f"{place}: label {label.name!r} has no row of class {names} among {len(label):,} rows, "
            f"so the metrics are undefined; {WIDEN}"
        )
        raise DataRejected(msg)
    return truth_N


def evaluate(spec: EvaluateSpec, test: TestSet, models: Models) -> Evaluation:
    """Measure, judge and gather the plots' points.

    Raises:
        DataRejected: one of the candidate's metrics is undefined on these rows.

    """
    group_N = _days(test) if spec.resample == "day" else None
    comparison = compare(models.scored, Resampling(spec.bootstrap, spec.confidence), group_N=group_N)
    _refuse_undefined(comparison, test)
    candidate = models.scored["candidate"]
    headline = spec.gates[0].metric if spec.gates else HEADLINE[candidate.task]
    tables = _slice_tables(spec, test, candidate, group_N)
    judgements = (*judge_gates(spec.gates, comparison, models.absent), *judge_slices(tables))
    unit, periods = measure_periods(test.frame[test.event_time], test.window, models.scored, headline)
    columns = [*test.signature.numeric, *test.signature.categorical]
    sampled = min(spec.importance_rows, len(test.truth_N))
    importance = permutation_importance(models.score, test.frame[columns], columns, candidate, headline, most_rows=sampled)
    return Evaluation(
        task=candidate.task,
        label=test.label,
        classes=tuple(test.signature.classes),
        headline=headline,
        test=test.window,
        rows=len(test.truth_N),
        class_rows={name: int((test.truth_N == at).sum()) for at, name in enumerate(test.signature.classes)},
        passed=all(judgement.passed for judgement in judgements),
        judgements=judgements,
        contenders=_contenders(comparison, models.scored),
        absent={name: why or "there is no champion yet" for name, why in models.absent.items()},
        resamples=spec.bootstrap,
        resample=spec.resample,
        confidence=spec.confidence,
        slices=tables,
        period_unit=unit,
        periods=periods,
        windows=() if test.window_N is None else measure_errors(candidate, test.window_N),
        importance=importance,
        importance_rows=sampled,
        importance_repeats=count_repeats(sampled, len(columns)),
        plots=_plots(models.scored, list(test.signature.classes)),
    )


def _slice_tables(spec: EvaluateSpec, test: TestSet, candidate: Predictions, group_N: Ints | None) -> tuple[SliceTable, ...]:
    return tuple(
        measure_slice(
            item,
            test.frame[item.column],
            candidate,
            Resampling(spec.bootstrap, spec.confidence),
            greater=METRICS[item.metric].greater_is_better,
            group_N=group_N,
        )
        for item in spec.slices
    )


def _days(test: TestSet) -> Ints:
    """Number each row by its day of event time, in UTC; N."""
    days = pd.to_datetime(test.frame[test.event_time], utc=True).dt.floor("D")
    return np.asarray(pd.factorize(days)[0], dtype=np.int64)


def _refuse_undefined(comparison: Comparison, test: TestSet) -> None:
    undefined = [name for name, estimate in comparison.estimates["candidate"].items() if estimate.value is None]
    if undefined:
        msg = f"test split {test.window}: {', '.join(undefined)} can't be computed on its {len(test.truth_N):,} rows; {WIDEN}"
        raise DataRejected(msg)


def _contenders(comparison: Comparison, scored: Mapping[str, Predictions]) -> tuple[Contender, ...]:
    return tuple(
        Contender(
            name=name,
            threshold=scored[name].threshold if scored[name].task == "binary" else None,
            metrics=metrics,
            difference=comparison.differences.get(name, {}),
        )
        for name, metrics in comparison.estimates.items()
    )


def _plots(scored: Mapping[str, Predictions], classes: list[str]) -> Plots:
    candidate = scored["candidate"]
    if candidate.task == "regression":
        return Plots(residuals=curves.residual_histogram(candidate), predicted_actual=curves.predicted_actual(candidate))
    ranked = {name: p for name, p in scored.items() if name != "constant"} if candidate.task == "binary" else {}
    return Plots(
        roc={name: curves.roc_curve(p) for name, p in ranked.items()},
        precision_recall={name: curves.precision_recall_curve(p) for name, p in ranked.items()},
        calibration={name: curves.calibration(p) for name, p in scored.items() if name != "constant"},
        scores=curves.score_histogram(candidate, classes),
        confusion=curves.confusion(candidate, len(classes)),
    )
