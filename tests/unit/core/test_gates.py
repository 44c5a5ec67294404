"""Rules to judgements: what holds, what doesn't, and the exact sentences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_tasks.core.bootstrap import Comparison, Estimate
from mlops_tasks.core.gates import check_metrics, figures, judge_gates, judge_slices
from mlops_tasks.core.slices import SliceTable, SliceValue
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import EvaluateSpec, Gate

VALUES = st.floats(0, 1, allow_nan=False).map(lambda v: round(v, 6))


def comparison(mine: float, theirs: float | None = None, metric: str = "roc_auc", other: str = "champion") -> Comparison:
    estimates = {"candidate": {metric: Estimate(value=mine, low=mine - 0.007, high=mine + 0.007)}}
    differences = {}
    if theirs is not None:
        estimates[other] = {metric: Estimate(value=theirs)}
        differences[other] = {metric: Estimate(value=mine - theirs, low=mine - theirs - 0.004, high=mine - theirs + 0.004)}
    return Comparison(estimates, differences)


def judge(gate: Gate, found: Comparison, **absent: str) -> tuple[bool, str]:
    (judgement,) = judge_gates([gate], found, absent)
    return judgement.passed, judgement.reason


@pytest.mark.parametrize(
    ("gate", "value", "expected"),
    [
        (Gate(metric="roc_auc", min=0.6), 0.712, (True, "roc_auc 0.712 [0.705, 0.719] is at least 0.600")),
        (Gate(metric="roc_auc", min=0.72), 0.712, (False, "roc_auc 0.712 [0.705, 0.719] is below the required 0.720")),
        (Gate(metric="roc_auc", max=0.72), 0.712, (True, "roc_auc 0.712 [0.705, 0.719] is at most 0.720")),
        (Gate(metric="roc_auc", max=0.5), 0.712, (False, "roc_auc 0.712 [0.705, 0.719] is above the required 0.500")),
        (Gate(metric="roc_auc", min=0.7124), 0.7121, (False, "roc_auc 0.7121 [0.7051, 0.7191] is below the required 0.7124")),
    ],
)
def test_limits(gate: Gate, value: float, expected: tuple[bool, str]) -> None:
    assert judge(gate, comparison(value)) == expected


def test_better_than_the_champion() -> None:
    gate = Gate(metric="roc_auc", against="champion")
    assert judge(gate, comparison(0.752, 0.740)) == (
        True,
        "roc_auc 0.752 is better than champion's 0.740 by 0.012 [0.008, 0.016]",
    )


def test_worse_within_and_beyond_the_tolerance() -> None:
    within = judge(Gate(metric="roc_auc", against="champion", tolerance=0.005), comparison(0.736, 0.740))
    assert within == (
        True,
        "roc_auc 0.736 is worse than champion's 0.740 by 0.004 [0.000, 0.008], within the tolerance of 0.005",
    )
    beyond = judge(Gate(metric="roc_auc", against="champion", tolerance=0.003), comparison(0.736, 0.740))
    assert beyond == (
        False,
        "roc_auc 0.736 is worse than champion's 0.740 by 0.004 [0.000, 0.008], beyond the tolerance of 0.003",
    )
    none = judge(Gate(metric="roc_auc", against="champion"), comparison(0.736, 0.740))
    assert none == (False, "roc_auc 0.736 is worse than champion's 0.740 by 0.004 [0.000, 0.008], and no tolerance is given")


def test_less_is_better_for_a_loss() -> None:
    gate = Gate(metric="log_loss", against="constant")
    found = judge(gate, comparison(0.521, 0.628, "log_loss", "constant"))
    assert found == (True, "log_loss 0.521 is better than constant's 0.628 by 0.107 [0.103, 0.111]")
    assert not judge(gate, comparison(0.628, 0.521, "log_loss", "constant"))[0]


def test_the_same_value_is_no_worse() -> None:
    gate = Gate(metric="roc_auc", against="champion")
    assert judge(gate, comparison(0.7, 0.7)) == (True, "roc_auc 0.700 is the same as champion's")


def test_exactly_the_tolerance_holds_in_binary_fractions_too() -> None:
    assert 0.71 - 0.70 > 0.01
    assert judge(Gate(metric="roc_auc", against="champion", tolerance=0.01), comparison(0.70, 0.71))[0]


def test_no_champion_yet_passes_and_a_model_that_was_not_scored_fails() -> None:
    gate = Gate(metric="roc_auc", against="champion")
    assert judge(gate, comparison(0.7), champion="") == (True, "there is no champion yet")
    why = "it needs column 'seats', which this dataset does not have"
    assert judge(gate, comparison(0.7), champion=why) == (False, f"roc_auc can't be compared with champion: {why}")
    assert judge(Gate(metric="roc_auc", against="hgb"), comparison(0.7)) == (
        False,
        "roc_auc can't be compared with hgb: it was not scored",
    )


def test_one_gate_may_ask_several_things() -> None:
    gate = Gate(metric="roc_auc", min=0.6, max=0.99, against="champion")
    found = judge_gates([gate], comparison(0.7, 0.6), {})
    assert [j.rule for j in found] == ["roc_auc at least 0.6", "roc_auc at most 0.99", "roc_auc against champion"]
    assert all(j.passed for j in found)


@given(VALUES, VALUES, VALUES, VALUES, st.sampled_from(["roc_auc", "log_loss"]))
def test_a_better_model_never_fails_where_a_worse_one_passes(
    one: float, two: float, other: float, slack: float, metric: str
) -> None:
    worse, better = sorted((one, two), reverse=metric == "log_loss")
    gate = Gate(metric=metric, against="champion", tolerance=slack)
    if judge(gate, comparison(worse, other, metric))[0]:
        assert judge(gate, comparison(better, other, metric))[0]


@given(VALUES, VALUES, VALUES, VALUES)
def test_a_looser_rule_never_fails_where_a_stricter_one_passes(value: float, other: float, one: float, two: float) -> None:
    low, high = sorted((one, two))
    if judge(Gate(metric="roc_auc", min=high), comparison(value))[0]:
        assert judge(Gate(metric="roc_auc", min=low), comparison(value))[0]
    if judge(Gate(metric="roc_auc", against="champion", tolerance=low), comparison(value, other))[0]:
        assert judge(Gate(metric="roc_auc", against="champion", tolerance=high), comparison(value, other))[0]


@given(VALUES, VALUES)
def test_different_figures_look_different(one: float, two: float) -> None:
    first, second = figures(one, two)
    assert (first == second) == (one == two)


def test_large_figures_keep_few_decimals() -> None:
    assert figures(1234.567, 20000.0) == ["1,235", "20,000"]
    assert figures(14.1009) == ["14.10"]
    assert figures(-0.0, 1e-17) == ["0.000", "0.000"]


def spec(gates: list[dict[str, Any]] | None = None, slices: list[dict[str, Any]] | None = None) -> EvaluateSpec:
    return EvaluateSpec.model_validate({"gates": gates or [], "slices": slices or []})


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError) as caught:
        check_metrics(spec([{"metric": "roc_auc", "min": 0.6}, {"metric": "auc", "min": 0.6}]), "binary", "pipeline shop")
    assert str(caught.value) == (
        "pipeline shop: evaluate.gates.1.metric: 'auc' is unknown; use one of roc_auc, average_precision, log_loss, "
        "brier_score, ece, f1, precision, recall, accuracy, balanced_accuracy"
    )


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        check_metrics(spec([{"metric": "roc_auc", "min": 0.6}]), "regression", "pipeline shop")
    assert str(caught.value) == (
        "pipeline shop: evaluate.gates.0.metric: 'roc_auc' is for binary tasks, and this one is regression; "
        "use one of rmse, mae, median_ae, r2, explained_variance"
    )


def test_a_slices_metric_is_checked_too() -> None:
    with pytest.raises(SpecError, match=r"^pipeline shop: evaluate\.slices\.0\.metric: 'rmse' is for regression tasks"):
        check_metrics(spec(slices=[{"column": "city", "metric": "rmse"}]), "multiclass", "pipeline shop")


def table(*values: SliceValue, floor: float | None = 0.55, metric: str = "roc_auc") -> SliceTable:
    return SliceTable(
        column="city", metric=metric, floor=floor, min_rows=200, groups=values, unlisted_values=0, unlisted_rows=0
    )


def city(
    name: str, value: float | None, *, rows: int = 500, ok: bool = True, judged: bool = True, note: str = ""
) -> SliceValue:
    return SliceValue(value=name, rows=rows, estimate=Estimate(value=value), judged=judged, ok=ok, note=note)


def test_floors_hold() -> None:
    (found,) = judge_slices([table(city("Rome", 0.7), city("Oslo", 0.6), city("Bern", 0.1, rows=20, judged=False))])
    assert (found.rule, found.passed) == ("roc_auc at least 0.55 in each city", True)
    assert found.reason == "all 2 values of city hold; the worst is Oslo with 0.600 (500 rows)"


def test_a_broken_floor_names_every_group() -> None:
    (found,) = judge_slices([table(city("Rome", 0.7), city("Oslo", 0.5, ok=False), city("Bern", 0.52, ok=False))])
    assert not found.passed
    assert found.reason == "2 of 3 values of city fail: Oslo with 0.500 (500 rows); Bern with 0.520 (500 rows)"


def test_an_undefined_slice_fails_closed() -> None:
    note = "not defined on these rows, so the floor can't be shown to hold"
    (found,) = judge_slices([table(city("Rome", None, ok=False, note=note))])
    assert (found.passed, found.reason) == (False, f"1 of 1 values of city fail: Rome (500 rows) {note}")


def test_slices_without_floor_or_rows_judge_nothing() -> None:
    assert judge_slices([table(city("Rome", 0.1), floor=None)]) == []
    (found,) = judge_slices([table(city("Rome", 0.1, rows=20, judged=False))])
    assert (found.passed, found.reason) == (True, "no value of city has 200 rows, so nothing was judged")


def test_the_floor_of_a_loss_is_a_ceiling() -> None:
    (found,) = judge_slices([table(city("Rome", 0.3), city("Oslo", 0.4), floor=0.5, metric="log_loss")])
    assert found.rule == "log_loss at most 0.5 in each city"
    assert found.reason == "all 2 values of city hold; the worst is Oslo with 0.400 (500 rows)"
