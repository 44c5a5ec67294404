from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.core.rollout import Comparison, Decision, chance_of, compare, decide, empty_log, population_stability
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.serve_specs import ChallengerSpec

SPEC = ChallengerSpec(mode="canary", min_requests=300, min_age=timedelta(hours=1))
SIGNATURE = ModelSignature(task="binary", numeric=["x"], categorical=[], classes=["no", "yes"], threshold=0.5, target="sold")
LONG = timedelta(hours=2)


def rows(version: int, count: int, *, shift: float = 0.0, latency_ms: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """Return rows of one version whose scores are spread evenly."""
    role = "champion" if version == 1 else "challenger"
    return [
        {
            "prediction_id": f"{version}-{at}",
            "prediction_version": version,
            "prediction_role": role,
            "prediction_shadow": False,
            "prediction_fallback": "",
            "prediction_latency_ms": latency_ms,
            "prediction_score": min(at / count + shift, 1.0),
        }
        | more
        for at in range(count)
    ]


def failed(count: int) -> list[dict[str, Any]]:
    """Return rows that the champion answered since the challenger could not."""
    return [row | {"prediction_id": f"f{at}", "prediction_fallback": "RuntimeError"} for at, row in enumerate(rows(1, count))]


def seen(log: list[dict[str, Any]], *, age: timedelta = LONG, labels: dict[str, object] | None = None) -> Comparison:
    table = pa.Table.from_pylist(log, schema=empty_log().schema)
    return compare(table, (1, 2), age=age, metric="log_loss", signature=SIGNATURE, labels=labels or {})


def test_one_that_does_as_well_is_promoted_with_its_figures() -> None:
    decision = decide(SPEC, seen(rows(1, 1000) + rows(2, 400)))
    assert decision.action == "promote"
    assert decision.reason == "400 rows with 0 failures, 95th percentile 1 ms, PSI 0"


@pytest.mark.parametrize(
    ("log", "age", "missing"),
    [
        (rows(1, 1000) + rows(2, 200), LONG, "100 requests of 300"),
        (rows(1, 1000) + rows(2, 400), timedelta(minutes=1), "time, 1h are asked for"),
        (rows(2, 400), LONG, "answers of the champion to compare with"),
        ([], LONG, "300 requests of 300"),
    ],
)
def test_too_little_is_waited_for(log: list[dict[str, Any]], age: timedelta, missing: str) -> None:
    decision = decide(SPEC, seen(log, age=age))
    assert decision.action == "wait"
    assert missing in decision.reason


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (rows(1, 1000) + rows(2, 300) + failed(30), "it failed in 30 of 330 rows, allowed is a share of 0.01"),
        (
            rows(1, 1000) + rows(2, 250, latency_ms=5.0),
            "its 95th percentile takes 5 ms, allowed is 2 times the champion's 1 ms",
        ),
        (rows(1, 1000) + rows(2, 250, shift=0.5), "its scores differ from the champion's by a PSI of"),
    ],
)
def test_a_broken_limit_withdraws_at_once(log: list[dict[str, Any]], reason: str) -> None:
    decision = decide(SPEC, seen(log, age=timedelta(0)))
    assert decision.action == "withdraw"
    assert reason in decision.reason


def test_one_failure_of_few_is_no_proof() -> None:
    assert decide(SPEC, seen(rows(1, 1000) + rows(2, 9) + failed(1))).action == "wait"


def test_labels_decide_where_they_are_asked_for() -> None:
    spec = SPEC.model_copy(update={"min_labelled": 200})
    log, good = rows(1, 1000) + rows(2, 400), dict[str, object]()
    for row in log:
        good[row["prediction_id"]] = "yes" if row["prediction_score"] >= 0.5 else "no"
    assert decide(spec, seen(log)).reason.endswith("missing: 200 labels of 200")
    assert decide(spec, seen(log, labels=good)).action == "promote"
    flip = {"yes": "no", "no": "yes"}
    bad: dict[str, object] = {name: flip[str(label)] if name.startswith("2-") else label for name, label in good.items()}
    decision = decide(spec, seen(log, labels=bad))
    assert decision.action == "withdraw"
    assert "its log_loss is" in decision.reason


def test_a_shadow_counts_as_the_challengers_and_one_that_failed_as_a_failure() -> None:
    log = rows(1, 500)
    log += rows(2, 390, prediction_shadow=True)
    log += [
        row | {"prediction_id": f"s{at}", "prediction_score": None}
        for at, row in enumerate(rows(2, 40, prediction_shadow=True, prediction_fallback="ValueError"))
    ]
    found = seen(log)
    assert (found.challenger.rows, found.challenger.failures, found.champion.rows) == (430, 40, 500)
    assert decide(SPEC, found).action == "withdraw"


def test_regression_and_classes_are_compared_too() -> None:
    numbers = SIGNATURE.model_copy(update={"task": "regression", "classes": [], "threshold": None})
    table = pa.Table.from_pylist(rows(1, 300) + rows(2, 300), schema=empty_log().schema)
    labels = {f"{version}-{at}": at / 300 + (0.1 if version == 2 else 0.0) for version in (1, 2) for at in range(300)}
    found = compare(table, (1, 2), age=LONG, metric="mae", signature=numbers, labels=labels)
    assert (round(found.champion.metric, 6), round(found.challenger.metric, 6)) == (0.0, 0.1)
    classes = SIGNATURE.model_copy(update={"task": "multiclass", "classes": ["a", "b", "c"], "threshold": None})
    lists = pa.array([[0.7, 0.2, 0.1]] * 600, pa.list_(pa.float64()))
    table = table.set_column(table.column_names.index("prediction_score"), "prediction_score", lists)
    found = compare(table, (1, 2), age=LONG, metric="accuracy", signature=classes, labels={"1-0": "a", "2-0": "b"})
    assert (found.champion.metric, found.challenger.metric) == (1.0, 0.0)
    assert found.champion.mean_score == pytest.approx(0.7)


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_neither_order_nor_repetition_of_rows_changes_the_decision(random: Any, times: int) -> None:
    log = rows(1, 400) + rows(2, 320) + failed(2)
    expected = decide(SPEC, seen(log))
    shuffled = log * times
    random.shuffle(shuffled)
    assert decide(SPEC, seen(shuffled)) == expected


@given(st.integers(1, 2000), st.integers(0, 2000), st.floats(0, 1))
def test_more_hits_are_rarer_and_a_greater_share_makes_them_likelier(count: int, hits: int, share: float) -> None:
    hits = min(hits, count)
    chance = chance_of(hits, count, share)
    assert 0 <= chance <= 1
    assert chance_of(min(hits + 1, count), count, share) <= chance
    assert chance_of(hits, count, min(1.0, share + 0.1)) >= chance - 1e-9


def test_population_stability_is_none_for_the_same_and_grows_with_the_shift() -> None:
    base = np.linspace(0, 1, 1000)
    shifts = [population_stability(base, base + shift) for shift in (0.0, 0.1, 0.3)]
    assert math.isclose(shifts[0], 0, abs_tol=1e-9)
    assert shifts == sorted(shifts)
    assert isinstance(decide(SPEC, seen([])), Decision)
