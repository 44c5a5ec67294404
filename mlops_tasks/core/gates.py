"""Estimates and the rules of a spec to judgements, each with a sentence that a person can check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Judgement
from mlops_tasks.core.bootstrap import Estimate
from mlops_tasks.core.metrics import METRICS, metric_names
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.bootstrap import Comparison
    from mlops_tasks.core.slices import SliceTable, SliceValue
    from mlops_tasks.specs import EvaluateSpec, Gate

MOST_DECIMALS = 8
ROUNDING = 1e-12
DECIMALS = ((10, 3), (100, 2), (10_000, 1))
"""Figures below a limit -> their decimals; none above."""


def check_metrics(spec: EvaluateSpec, task: Task, where: str) -> None:
    """Refuse a metric that the task doesn't have. Raises: SpecError."""
    asked = [(f"evaluate.gates.{at}", gate.metric) for at, gate in enumerate(spec.gates)]
    asked += [(f"evaluate.slices.{at}", item.metric) for at, item in enumerate(spec.slices)]
    for place, name in asked:
        if name in METRICS and task in METRICS[name].tasks:
            continue
        problem = (
            f"is for {' and '.join(METRICS[name].tasks)} tasks, and this one is {task}" if name in METRICS else "is unknown"
        )
        msg = f"{where}: {place}.metric: {name!r} {problem}; use one of {', '.join(metric_names(task))}"
        raise SpecError(msg)


def figures(*values: float) -> list[str]:
    """Write figures with as many decimals as their size needs, and more where different values would look equal or zero."""
    values = tuple(round(v, MOST_DECIMALS) + 0.0 for v in values)  # + 0.0: no minus before a zero
    largest = max((abs(v) for v in values), default=0.0)
    decimals = next((count for limit, count in DECIMALS if largest < limit), 0)
    while decimals < MOST_DECIMALS and len({f"{v:.{decimals}f}" for v in {0.0, *values}}) < len({0.0, *values}):
        decimals += 1
    return [f"{v:,.{decimals}f}" for v in values]


def shown(estimate: Estimate, text: str) -> str:
    """Add the interval to a figure, with the same decimals: `0.712 [0.705, 0.719]`."""
    if estimate.low is None or estimate.high is None:
        return text
    decimals = len(text.partition(".")[2])
    return f"{text} [{estimate.low:,.{decimals}f}, {estimate.high:,.{decimals}f}]"


def judge_gates(gates: Sequence[Gate], comparison: Comparison, absent: Mapping[str, str]) -> list[Judgement]:
    """Judge the candidate on the whole test split.

    Args:
        gates: the rules.
        comparison: estimates of `candidate` and of each model that could be scored.
        absent: models that could not be scored -> why; `champion` -> "" when there is none yet.

    """
    found = []
    for gate in gates:
        estimate = comparison.estimates["candidate"][gate.metric]
        if gate.min is not None:
            found.append(_judge_limit(gate.metric, estimate, gate.min, least=True))
        if gate.max is not None:
            found.append(_judge_limit(gate.metric, estimate, gate.max, least=False))
        if gate.against is not None:
            found.append(_judge_against(gate, comparison, absent))
    return found


def _judge_limit(metric: str, estimate: Estimate, limit: float, *, least: bool) -> Judgement:
    rule = f"{metric} {'at least' if least else 'at most'} {limit:g}"
    if estimate.value is None:
        return Judgement(rule=rule, passed=False, reason=f"{metric} can't be computed on these rows")
    value = estimate.value
    passed = value >= limit if least else value <= limit
    number, bound = figures(value, limit)
    relation = f"at {'least' if least else 'most'}" if passed else f"{'below' if least else 'above'} the required"
    return Judgement(rule=rule, passed=passed, reason=f"{metric} {shown(estimate, number)} is {relation} {bound}")


def _judge_against(gate: Gate, comparison: Comparison, absent: Mapping[str, str]) -> Judgement:
    other = str(gate.against)
    rule = f"{gate.metric} against {other}" + (f", tolerance {gate.tolerance:g}" if gate.tolerance else "")
    if other == "champion" and absent.get(other) == "":
        return Judgement(rule=rule, passed=True, reason="there is no champion yet")
    if other not in comparison.differences:
        why = absent.get(other) or "it was not scored"
        return Judgement(rule=rule, passed=False, reason=f"{gate.metric} can't be compared with {other}: {why}")
    mine, theirs = comparison.estimates["candidate"][gate.metric].value, comparison.estimates[other][gate.metric].value
    if mine is None or theirs is None:
        return Judgement(rule=rule, passed=False, reason=f"{gate.metric} can't be computed on these rows")
    worse = (theirs - mine) * (1.0 if METRICS[gate.metric].greater_is_better else -1.0)
    # 0.71 - 0.70 is a little more than 0.01 in binary fractions.
    passed = worse <= gate.tolerance + ROUNDING
    reason = _against_sentence(gate, mine, theirs, comparison.differences[other][gate.metric], passed=passed)
    return Judgement(rule=rule, passed=passed, reason=reason)


def _against_sentence(gate: Gate, mine: float, theirs: float, difference: Estimate, *, passed: bool) -> str:
    """Say `roc_auc 0.752 is better than champion's 0.740 by 0.012 [0.010, 0.014]`, and what tolerance it needed."""
    if mine == theirs:
        return f"{gate.metric} {figures(mine)[0]} is the same as {gate.against}'s"
    better = (mine > theirs) == METRICS[gate.metric].greater_is_better
    sign = 1.0 if mine > theirs else -1.0
    size = abs(mine - theirs)
    number, other = figures(mine, theirs)
    amount, tolerance = figures(size, gate.tolerance)
    interval = Estimate(value=size)
    if difference.low is not None and difference.high is not None:
        low, high = sorted((sign * difference.low, sign * difference.high))
        interval = Estimate(value=size, low=low, high=high)
    word = "better" if better else "worse"
    said = f"{gate.metric} {number} is {word} than {gate.against}'s {other} by {shown(interval, amount)}"
    if better:
        return said
    if not gate.tolerance:
        return f"{said}, and no tolerance is given"
    return f"{said}, {'within' if passed else 'beyond'} the tolerance of {tolerance}"


def judge_slices(tables: Sequence[SliceTable]) -> list[Judgement]:
    """Judge each slice that has a floor: one judgement a column."""
    return [_judge_slice(table) for table in tables if table.floor is not None]


def _judge_slice(table: SliceTable) -> Judgement:
    greater = METRICS[table.metric].greater_is_better
    floor = float(table.floor or 0.0)
    rule = f"{table.metric} {'at least' if greater else 'at most'} {floor:g} in each {table.column}"
    judged = [value for value in table.groups if value.judged]
    if not judged:
        reason = f"no value of {table.column} has {table.min_rows:,} rows, so nothing was judged"
        return Judgement(rule=rule, passed=True, reason=reason)
    broken = [value for value in judged if not value.ok]
    if broken:
        said = "; ".join(_slice_sentence(value, floor) for value in broken)
        return Judgement(
            rule=rule, passed=False, reason=f"{len(broken)} of {len(judged)} values of {table.column} fail: {said}"
        )
    measured = [value for value in judged if value.estimate.value is not None]
    worst = min(measured, key=lambda v: (v.estimate.value or 0.0) * (1 if greater else -1))
    return Judgement(
        rule=rule,
        passed=True,
        reason=f"all {len(judged)} values of {table.column} hold; the worst is {_slice_sentence(worst, floor)}",
    )


def _slice_sentence(value: SliceValue, floor: float) -> str:
    if value.estimate.value is None:
        return f"{value.value} ({value.rows:,} rows) {value.note}"
    number, _ = figures(value.estimate.value, floor)
    return f"{value.value} with {shown(value.estimate, number)} ({value.rows:,} rows)"
