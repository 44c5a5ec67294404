"""What champion and challenger answered to a decision: promote the challenger, withdraw it, or wait."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binom  # type: ignore[import-untyped]  # it ships no types

from mlops_tasks.core.metrics import METRICS, Predictions, prepare
from mlops_tasks.core.request_log import FALLBACK, ID, LATENCY_MS, ROLE, SCORE, SHADOW, VERSION
from mlops_tasks.core.scoring import category_text
from mlops_tasks.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature
    from mlops_tasks.serve_specs import ChallengerSpec

    Floats = npt.NDArray[np.float64]

Action = Literal["promote", "withdraw", "wait"]
CHANCE = 0.025
"""A limit is broken only if what was seen would be rarer than this by chance, were it kept."""
DRAWS = 400
"""Resamples by which the chance of a difference on labelled rows is judged."""
ENOUGH = 200
"""Rows of each side below which neither latencies nor distributions are compared."""
PSI_BINS = 10
LOG_TYPES = {
    ID: pa.string(),
    VERSION: pa.int64(),
    ROLE: pa.string(),
    SHADOW: pa.bool_(),
    FALLBACK: pa.string(),
    LATENCY_MS: pa.float64(),
    SCORE: pa.float64(),
}
LOG_COLUMNS = list(LOG_TYPES)


@dataclass(frozen=True)
class Side:
    """What one version did."""

    version: int
    rows: int
    failures: int
    p95_ms: float
    """NaN without rows."""
    mean_score: float
    """Mean of the scores, for classes the mean of the greatest; NaN without rows."""
    labelled: int
    metric: float
    """On rows whose label is known; NaN without any."""


@dataclass(frozen=True)
class Comparison:
    """Champion and challenger since the challenger is tried."""

    champion: Side
    challenger: Side
    score_psi: float
    """Population stability index of the challenger's scores against the champion's; NaN while there are too few."""
    worse_at_least: float
    """By how much the challenger's metric is worse at least, chance taken off; NaN without labels on both sides."""
    age: timedelta
    """How long it is tried."""


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why."""

    action: Action
    reason: str


def empty_log() -> pa.Table:
    """Return a log without rows."""
    return pa.table({name: pa.array([], kind) for name, kind in LOG_TYPES.items()})


def decide(spec: ChallengerSpec, seen: Comparison) -> Decision:
    """Apply the rule that `ChallengerSpec` states: withdraw when a limit is broken, promote when enough was seen, else wait."""
    broken = _broken(spec, seen)
    if broken:
        return Decision("withdraw", "; ".join(broken))
    missing = _missing(spec, seen)
    if missing:
        return Decision("wait", f"no limit is broken; missing: {', '.join(missing)}")
    return Decision("promote", _praise(spec, seen))


def _broken(spec: ChallengerSpec, seen: Comparison) -> list[str]:
    """Return each limit that the challenger breaks."""
    mine, theirs, broken = seen.challenger, seen.champion, []
    if mine.failures and chance_of(mine.failures, mine.rows, spec.max_error_rate) < CHANCE:
        broken.append(f"it failed in {mine.failures} of {mine.rows} rows, allowed is a share of {spec.max_error_rate:g}")
    if _comparable(seen):
        if mine.p95_ms > spec.max_latency_ratio * theirs.p95_ms:
            limit = f"allowed is {spec.max_latency_ratio:g} times the champion's {theirs.p95_ms:.3g} ms"
            broken.append(f"its 95th percentile takes {mine.p95_ms:.3g} ms, {limit}")
        if seen.score_psi > spec.max_score_psi:
            broken.append(
                f"its scores differ from the champion's by a PSI of {seen.score_psi:.3g}, allowed is {spec.max_score_psi:g}"
            )
    if min(mine.labelled, theirs.labelled) >= max(spec.min_labelled, 1) and seen.worse_at_least > spec.tolerance:
        allowed = f"the champion has {theirs.metric:.4g}, tolerance is {spec.tolerance:g}"
        broken.append(f"its {spec.metric} is {mine.metric:.4g} on {mine.labelled} labelled rows, {allowed}")
    return broken


def _comparable(seen: Comparison) -> bool:
    return min(seen.challenger.rows - seen.challenger.failures, seen.champion.rows) >= ENOUGH


def _missing(spec: ChallengerSpec, seen: Comparison) -> list[str]:
    """Return what must still be seen before a promotion."""
    missing = []
    if seen.challenger.rows < spec.min_requests:
        missing.append(f"{spec.min_requests - seen.challenger.rows} requests of {spec.min_requests}")
    if seen.age < spec.min_age:
        missing.append(f"time, {format_duration(spec.min_age)} are asked for")
    labelled = min(seen.challenger.labelled, seen.champion.labelled)
    if labelled < spec.min_labelled:
        missing.append(f"{spec.min_labelled - labelled} labels of {spec.min_labelled}")
    if not seen.champion.rows:
        missing.append("answers of the champion to compare with")
    return missing


def _praise(spec: ChallengerSpec, seen: Comparison) -> str:
    mine = seen.challenger
    parts = [f"{mine.rows} rows with {mine.failures} failures", f"95th percentile {mine.p95_ms:.3g} ms"]
    if not math.isnan(seen.score_psi):
        parts.append(f"PSI {seen.score_psi:.3g}")
    if mine.labelled:
        parts.append(f"{spec.metric} {mine.metric:.4g} against {seen.champion.metric:.4g} on labelled rows")
    return ", ".join(parts)


def chance_of(hits: int, rows: int, share: float) -> float:
    """Return how probable as many hits or more are if each row has the chance `share` (the exact binomial test)."""
    return float(binom.sf(hits - 1, rows, share))


def compare(
    log: pa.Table,
    versions: tuple[int, int],
    *,
    age: timedelta,
    metric: str,
    signature: ModelSignature,
    labels: Mapping[str, object],
) -> Comparison:
    """Summarise a request log.

    Args:
        log: rows since the challenger is tried, with `LOG_COLUMNS`; a prediction that is there twice counts once.
        versions: champion, challenger.
        age: how long the challenger is tried.
        metric: by which both are compared where labels are known.
        signature: names the task and its classes.
        labels: prediction id -> label, as far as they are known.

    """
    champion, challenger = (_answers_of(log, version) for version in versions)
    scores = [_scores(rows) for rows in (champion, challenger)]
    failures = _failures(log, versions)
    truths = [_truth(rows, labels, signature) for rows in (champion, challenger)]
    judged = [_judge(truth, found, metric, signature) for truth, found in zip(truths, scores, strict=True)]
    worse = _worse_at_least(judged[0].draws, judged[1].draws, greater_is_better=METRICS[metric].greater_is_better)
    sides = [
        _side(version, rows, found, failed, result)
        for version, rows, found, failed, result in zip(
            versions, (champion, challenger), scores, (0, failures), judged, strict=True
        )
    ]
    index = population_stability(_flat(scores[0]), _flat(scores[1])) if min(map(len, scores)) >= ENOUGH else math.nan
    return Comparison(sides[0], sides[1], index, worse, age)


def _answers_of(log: pa.Table, version: int) -> pa.Table:
    """Return the rows that a version scored, each prediction once."""
    rows = log.filter(pc.and_(pc.equal(log[VERSION], version), _good(log)))
    rows = rows.sort_by(ID)  # whatever the order of the log, the same figures
    first = pa.table({ID: rows[ID], "at": pa.array(np.arange(rows.num_rows))}).group_by(ID).aggregate([("at", "min")])
    return rows.take(first["at_min"].combine_chunks().sort())


def _good(log: pa.Table) -> pa.ChunkedArray:
    """Tell which rows hold their version's own scores: an answer, or a shadow that did not fail."""
    return pc.or_(pc.invert(log[SHADOW]), pc.equal(pc.coalesce(log[FALLBACK], ""), ""))


def _failures(log: pa.Table, versions: tuple[int, int]) -> int:
    """Count the rows in which the challenger failed: as a canary the champion answered them, as a shadow nobody did."""
    failed = log.filter(pc.and_(pc.not_equal(pc.coalesce(log[FALLBACK], ""), ""), pc.is_in(log[VERSION], pa.array(versions))))
    return int(pc.count_distinct(failed[ID]).as_py())


def _scores(rows: pa.Table) -> Floats:
    """Return the scores, [N] or [N, C]."""
    values = rows[SCORE].combine_chunks()
    if pa.types.is_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float64).reshape(len(values), -1) if len(values) else np.empty((0, 1))
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _flat(scores: Floats) -> Floats:
    """Return one number a row: of classes the greatest probability."""
    return scores if scores.ndim == 1 else scores.max(axis=1)


def _truth(rows: pa.Table, labels: Mapping[str, object], signature: ModelSignature) -> Floats:
    """Return each row's label as the metrics take it; NaN where it is not known."""
    return np.array([_index(labels.get(name), signature) for name in rows[ID].to_pylist()], dtype=np.float64)


@dataclass(frozen=True)
class _Judged:
    """A metric on labelled rows."""

    rows: int
    value: float
    draws: Floats
    """Its values on resamples of the rows; none without rows."""


def _judge(truth: Floats, scores: Floats, metric: str, signature: ModelSignature) -> _Judged:
    known = ~np.isnan(truth)
    count = int(known.sum())
    if not count:
        return _Judged(0, math.nan, np.empty(0))
    run = prepare(Predictions(signature.task, truth[known], scores[known], signature.threshold or 0.5), [metric])
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    return _Judged(count, float(run(np.ones((1, count)))[metric][0]), run(weights)[metric])


def _worse_at_least(champion: Floats, challenger: Floats, *, greater_is_better: bool) -> float:
    """Return the lower bound of how much worse the challenger is (Efron 1979, Bootstrap methods: percentile interval)."""
    if not len(champion) or not len(challenger):
        return math.nan
    worse = champion - challenger if greater_is_better else challenger - champion
    return float(np.nanquantile(worse, CHANCE))


def _side(version: int, rows: pa.Table, scores: Floats, failures: int, judged: _Judged) -> Side:
    latencies = rows[LATENCY_MS].to_numpy()
    return Side(
        version=version,
        rows=rows.num_rows + failures,
        failures=failures,
        p95_ms=float(np.quantile(latencies, 0.95)) if len(latencies) else math.nan,
        mean_score=float(_flat(scores).mean()) if len(scores) else math.nan,
        labelled=judged.rows,
        metric=judged.value,
    )


def _index(label: object, signature: ModelSignature) -> float:
    """Return a label as the metrics take it: the class's index or the value; NaN if it is unknown."""
    if label is None:
        return math.nan
    if signature.task == "regression":
        return float(label)  # type: ignore[arg-type]  # the source's column is numeric
    text = category_text(label)
    return float(signature.classes.index(text)) if text in signature.classes else math.nan


def population_stability(expected: Floats, found: Floats) -> float:
    """Return the population stability index over ten bins of equal expected mass; half a row is added to each bin."""
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    shares = []
    for values in (expected, found):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
