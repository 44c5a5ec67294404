"""What is ordinary of a model's errors, what is an alarm, and what scores alone tell."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlops_tasks.core.metrics import Predictions, measure
from mlops_tasks.core.performance.chart import Chart, calibrate_chart, find_worse, needed_windows
from mlops_tasks.core.performance.deciding import choose_reference, decide_state
from mlops_tasks.core.performance.estimating import distrust, estimate_metrics
from mlops_tasks.core.performance.records import Measured, PerformanceRecord
from mlops_tasks.core.window_errors import Moments, WindowError, measure_error
from mlops_tasks.specs import MonitorSpec, PerformanceSpec
from tests.drifting import label, window

if TYPE_CHECKING:
    from mlops_tasks.core.metrics import Floats

ANY_RISE = MonitorSpec(performance=PerformanceSpec(effect_size=0))
SPEC = MonitorSpec()
HISTORY = 40
SIZES = (40, 150, 900)


def make_window(
    rng: np.random.Generator, day: int, *, rows: int | None = None, between: float = 0.4, worse: float = 0.0
) -> WindowError:
    """Score rows of a day whose own mood shifts all of its labels, as weather does; `worse` blurs what the scores know."""
    rows = int(rng.choice(SIZES)) if rows is None else rows
    logit = rng.normal(-1, 1, rows)
    came = rng.random(rows) < 1 / (1 + np.exp(-(1 - worse) * logit - between * rng.normal()))
    error = measure_error(label(day), Predictions("binary", came.astype(np.float64), 1 / (1 + np.exp(-logit))))
    assert error is not None
    return error


def make_windows(seed: int, count: int, **how: float) -> list[WindowError]:
    rng = np.random.default_rng(seed)
    return [make_window(rng, day, **how) for day in range(count)]  # type: ignore[arg-type]  # rows is not among them


def plain(day: int, mean: float, *, rows: int = 500, variance: float = 0.01) -> WindowError:
    """Return a window of which the loss alone is known."""
    return WindowError(window=label(day), rows=rows, measures={"error": Moments(mean=mean, variance=variance)})


def is_worse(chart: Chart, error: WindowError, spec: MonitorSpec) -> bool:
    return bool(find_worse(chart, error, spec))


# ---- what is ordinary


@pytest.mark.parametrize("between", [0.0, 0.4, 1.0])
def test_windows_like_those_before_alarm_no_more_often_than_asked_whatever_their_size(between: float) -> None:
    """Each of many models has its own calibration; windows differ by more than chance, and by size."""
    found: dict[int, list[bool]] = {size: [] for size in SIZES}
    for seed in range(100):
        windows = make_windows(seed, HISTORY + 12, between=between)
        chart = calibrate_chart(windows[:HISTORY], ANY_RISE)
        for error in windows[HISTORY:]:
            found[error.rows].append(is_worse(chart, error, ANY_RISE))

    # Ranks of 41 windows: two of them are the top 5%.
    assert 0.02 < np.mean([alarm for alarms in found.values() for alarm in alarms]) < 0.07
    assert all(np.mean(alarms) < 0.1 for alarms in found.values()), {n: np.mean(a) for n, a in found.items()}


def test_chance_alone_would_alarm_far_too_often() -> None:
    """Why the variance between windows is in it: a limit from the rows' variance alone calls one day in five worse."""
    alarms = []
    for seed in range(60):
        *history, error = make_windows(seed, HISTORY + 1, rows=900, between=1.0)
        loss = error.measures["error"]
        ordinary = calibrate_chart(history, ANY_RISE).centre
        alarms.append((loss.mean - ordinary) / math.sqrt(loss.variance / error.rows) > 1.645)

    assert np.mean(alarms) > 0.15


def test_a_real_drop_alarms_in_most_windows() -> None:
    chart = calibrate_chart(make_windows(0, HISTORY, rows=900), SPEC)
    dropped = make_windows(1, 50, rows=900, worse=1.0)

    assert np.mean([is_worse(chart, error, SPEC) for error in dropped]) > 0.8


def test_a_small_rise_is_no_alarm_however_surprising() -> None:
    chart = calibrate_chart([plain(day, 0.5 + 0.0001 * (day % 3)) for day in range(HISTORY)], SPEC)
    higher = plain(150, 0.52, rows=10_000)

    assert not is_worse(chart, higher, SPEC)
    assert is_worse(chart, higher, ANY_RISE)


def test_a_better_window_never_alarms() -> None:
    chart = calibrate_chart(make_windows(0, HISTORY), ANY_RISE)

    assert not is_worse(chart, plain(150, 0.01), ANY_RISE)


def test_the_reference_is_summed_up_as_a_variance_between_windows_and_one_of_rows() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(50, 5000, 2000).tolist()
    errors = [plain(0, rng.normal(0.5, math.sqrt(0.02**2 + 0.3 / n)), rows=n, variance=0.3) for n in sizes]
    ordinary = calibrate_chart(errors, SPEC).measures["error"]

    assert ordinary.centre == pytest.approx(0.5, abs=0.005)
    assert math.sqrt(ordinary.between) == pytest.approx(0.02, rel=0.1)
    assert ordinary.spread(Moments(mean=0.5, variance=0.3), 100) == pytest.approx(math.sqrt(0.02**2 + 0.003), rel=0.1)


@pytest.mark.parametrize(("spec", "count"), [(SPEC, 29), (MonitorSpec(false_alarm_rate=0.01), HISTORY)])
def test_too_few_windows_have_no_limit(spec: MonitorSpec, count: int) -> None:
    chart = calibrate_chart(make_windows(0, count), spec)

    assert not chart.warm
    assert not is_worse(chart, plain(150, 99), spec)
    assert calibrate_chart(make_windows(0, needed_windows(spec)), spec).warm


@pytest.mark.parametrize("errors", [0.0, 0.25])
def test_identical_windows_have_finite_figures(errors: float) -> None:
    chart = calibrate_chart([plain(day, errors, variance=0) for day in range(HISTORY)], SPEC)

    assert math.isfinite(chart.highest(plain(0, errors, variance=0), SPEC))
    assert not is_worse(chart, plain(0, errors, variance=0), SPEC)
    assert is_worse(chart, plain(0, errors + 0.1, variance=0), SPEC)


def test_a_model_that_is_useless_in_calm_days_is_found_by_its_ranking() -> None:
    """Where little comes true, the loss is small whoever scores."""
    rng = np.random.default_rng(1)
    chart = calibrate_chart(make_windows(0, HISTORY, rows=900), SPEC)
    found = []
    for day in range(50):
        came = (rng.random(900) < 0.1).astype(np.float64)
        error = measure_error(label(day), Predictions("binary", came, 1 / (1 + np.exp(-rng.normal(-2.2, 0.5, 900)))))
        assert error is not None
        assert error.mean < chart.centre
        found.append(find_worse(chart, error, SPEC))

    assert np.mean([worse[:1] == ["ranking"] for worse in found]) > 0.9


def test_a_label_that_came_to_mean_more_is_found_above_what_the_scores_promise() -> None:
    chart = calibrate_chart(make_windows(0, HISTORY, rows=900), SPEC)
    rng = np.random.default_rng(1)
    logit = rng.normal(-3, 1, 900)
    came = (rng.random(900) < 1 / (1 + np.exp(-logit))) | (rng.random(900) < 0.06)
    error = measure_error(label(50), Predictions("binary", came.astype(np.float64), 1 / (1 + np.exp(-logit))))

    assert error is not None
    worse = find_worse(chart, error, SPEC)
    assert "excess" in worse
    assert "error" not in worse, "an easy day: the loss itself is ordinary"


def test_a_window_with_too_few_of_a_class_is_judged_by_the_rest() -> None:
    chart = calibrate_chart(make_windows(0, HISTORY), SPEC)

    assert set(chart.measures) == {"error", "excess", "ranking"}
    assert is_worse(chart, plain(50, 3.0), SPEC)


# ---- states


def measured(rows: int = 200, labelled: int = 200, *, mature: bool = True, mean: float = 0.5) -> Measured:
    error = plain(50, mean, rows=labelled, variance=0.2) if mature and labelled else None
    return Measured(rows=rows, labelled=labelled, answered=False, mature=mature, metrics={}, estimated={}, error=error)


STATES = [
    (measured(), "ok", r"window 2024-02-20: log loss 0\.5 is ordinary \(0\.\d+ on the windows before, alarm above 0\.\d+\)"),
    (measured(mean=0.9), "alarm", r"window 2024-02-20: log loss 0\.9 is \d+% above the 0\.\d+ of the windows before .*"),
    (
        measured(labelled=3, mature=False),
        "awaiting_labels",
        r"window 2024-02-20 awaits its labels: they are due 3d after its end, 3 of 200 are there",
    ),
    (
        measured(labelled=150),
        "awaiting_labels",
        r"window 2024-02-20 awaits labels: the labels of 150 of 200 rows are known, .*min_coverage asks for 80%",
    ),
    (measured(20, 20), "awaiting_labels", r"window 2024-02-20 has 20 labelled rows, .*min_labelled asks for 30"),
    (measured(0, 0), "ok", r"window 2024-02-20 has no rows that the model answered: nothing to measure"),
]


@pytest.mark.parametrize(("seen", "status", "reason"), STATES)
def test_a_window_is_judged_by_mature_labels_alone(seen: Measured, status: str, reason: str) -> None:
    spec = MonitorSpec(label_delay=timedelta(days=3))
    chart = calibrate_chart(make_windows(0, HISTORY), spec)
    found = decide_state(window(50), seen, chart, spec, task="binary", in_reference=False)

    assert found[0] == status
    assert re.fullmatch(reason, found[1]), found[1]


def record(day: int, seen: Measured) -> PerformanceRecord:
    error = seen.error and seen.error.model_copy(update={"window": label(day)})
    facts = {**dict(seen), "error": error}
    return PerformanceRecord(
        window=window(day),
        model_version=3,
        features="f",
        source="s",
        status="ok",
        coverage=seen.coverage,
        highest={},
        reason="",
        **facts,
    )


def test_a_model_without_held_out_windows_learns_from_the_first_ones_that_were_watched() -> None:
    seen = [record(day, measured()) for day in range(60)]
    seen[12] = record(12, measured(labelled=100))
    trained_until = window(10).start

    reference = choose_reference([], seen, trained_until, SPEC)

    assert [error.window for error in reference] == [label(day) for day in (10, 11, *range(13, 41))]
    assert len(choose_reference(make_windows(0, HISTORY), seen, trained_until, SPEC)) == HISTORY


def test_windows_of_the_reference_are_warming_up_and_later_ones_are_judged() -> None:
    chart = calibrate_chart(make_windows(0, HISTORY), SPEC)

    assert decide_state(window(50), measured(), chart, SPEC, task="binary", in_reference=True)[0] == "warming_up"
    cold = calibrate_chart(make_windows(0, 5), SPEC)
    assert decide_state(window(50), measured(mean=9), cold, SPEC, task="binary", in_reference=False) == (
        "warming_up",
        "window 2024-02-20: log loss 9; warming up, 5 windows of the 30 that an alarm needs",
    )


# ---- without labels


def calibrated(rows: int = 40_000) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    score = rng.beta(2, 5, rows)
    return score, (rng.random(rows) < score).astype(np.float64)


def test_calibrated_scores_tell_the_metrics_before_labels_do() -> None:
    score, came = calibrated()
    realized = measure(Predictions("binary", came, score, 0.4))

    estimated = estimate_metrics("binary", score, 0.4)

    assert set(estimated) == {
        "roc_auc",
        "average_precision",
        "log_loss",
        "brier_score",
        "accuracy",
        "f1",
        "precision",
        "recall",
    }
    assert estimated == pytest.approx({name: realized[name] for name in estimated}, abs=0.02)


def test_scores_that_are_not_calibrated_mislead() -> None:
    score, came = calibrated()
    sure = score**3 / (score**3 + (1 - score) ** 3)

    assert estimate_metrics("binary", sure, 0.5)["log_loss"] < measure(Predictions("binary", came, sure))["log_loss"] - 0.2


def test_several_classes_have_an_expected_log_loss_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    score = rng.dirichlet([3, 2, 1], 40_000)
    came = (rng.random((len(score), 1)) > score.cumsum(axis=1)).sum(axis=1).astype(np.float64)
    realized = measure(Predictions("multiclass", came, score), ["log_loss", "accuracy"])

    assert estimate_metrics("multiclass", score, 0.5) == pytest.approx(realized, abs=0.01)


def test_nothing_is_estimated_of_a_regression_or_of_no_rows() -> None:
    assert estimate_metrics("regression", np.ones(5), 0.5) == {}
    assert estimate_metrics("binary", np.empty(0), 0.5) == {}


def test_one_class_for_certain_leaves_out_what_is_undefined() -> None:
    assert "roc_auc" not in estimate_metrics("binary", np.zeros(5), 0.5)


@pytest.mark.parametrize(
    ("task", "ece", "why"),
    [
        ("binary", 0.04, ""),
        ("binary", 0.06, "the model is not calibrated well enough: its expected calibration error on held-out rows is 0.060"),
        ("multiclass", None, "the model's files don't say how well it is calibrated"),
        ("regression", None, "without labels nothing can be said of a regression"),
    ],
)
def test_an_estimate_needs_calibration(task: str, ece: float | None, why: str) -> None:
    found = distrust(task, ece, 0.05)  # type: ignore[arg-type]  # a task
    assert found.startswith(why)
    assert bool(found) == bool(why)
