"""Two versions' answers to their differences, and to what of these chance does not explain."""

# ruff: noqa: N803, N806, N815 - an array's name ends with its shape, whose axes are capitals

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.core.metrics import METRICS, Predictions, prepare
from mlops_tasks.core.request_log import ID
from mlops_tasks.core.rollout.chance import errors_allowed, spread_of
from mlops_tasks.core.scoring import category_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from mlops_tasks.core.rollout.answers import Answers, Both
    from mlops_tasks.core.rollout.chance import Spread
    from mlops_tasks.core.scoring import ModelSignature

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]
    Signatures = tuple[ModelSignature, ModelSignature]
    Weighted = Callable[[Floats], Floats]
    """Maps weights [B, N] to B values."""

ENOUGH_ROWS = 200
"""Rows of each side below which neither latencies nor scores are compared."""
ENOUGH_UNITS = 30
"""Entities of each side below which nothing is compared: a standard error of fewer is not to be believed."""
ENOUGH_LABELS = 100
"""Labelled rows of each side below which labels don't judge."""
PSI_BINS = 10
SLOW = 0.95
"""The quantile of latencies that is compared."""


@dataclass(frozen=True)
class Measured:
    """A difference between both."""

    value: float
    """NaN while there is too little to measure it."""
    at_least: float
    """What chance leaves of it, at all looks together; NaN where that can't be said."""


UNKNOWN = Measured(math.nan, math.nan)


@dataclass(frozen=True)
class Chosen:
    """Rows of both sides that are compared."""

    rows: tuple[int, int]
    """How many there are of each side."""
    masks: tuple[Bools, Bools]
    """Which of a side's rows are measured: at most `MOST_ROWS`."""
    halvings: int
    units: int
    """Units of the measured rows, on the smaller side."""
    unit_Ns: tuple[Ints, Ints]
    """The unit of each measured row, numbered over both sides."""

    @classmethod
    def of(cls, both: Both, known: tuple[Bools, Bools]) -> Chosen:
        """Choose among the rows that are known."""
        masks, halvings = both.thinned(known)
        named = [side.unit_N[mask] for side, mask in zip(both.sides, masks, strict=True)]
        at = np.unique(np.concatenate(named), return_inverse=True)[1]
        units = min(len(np.unique(side)) for side in named)
        rows, border = (int(known[0].sum()), int(known[1].sum())), len(named[0])
        return cls(rows, masks, halvings, units, (at[:border], at[border:]))

    def spread(self, champion: Weighted, challenger: Weighted) -> Spread:
        """Resample the units, and so the challenger's value minus the champion's."""
        theirs, mine = self.unit_Ns
        return spread_of(lambda w_BU: challenger(w_BU[:, mine]) - champion(w_BU[:, theirs]), self.all_units)

    @property
    def all_units(self) -> int:
        """How many units there are on either side."""
        return 1 + max(int(side.max(initial=0)) for side in self.unit_Ns)

    @property
    def are_enough(self) -> bool:
        """Whether latencies and scores are compared."""
        return min(self.rows) >= ENOUGH_ROWS and self.units >= ENOUGH_UNITS

    def allowed(self, planned: int) -> float:
        """Return the standard errors that chance explains."""
        return errors_allowed(self.units, planned, self.halvings)


def choose_all(both: Both) -> Chosen:
    """Choose among all rows."""
    champion, challenger = (np.ones(side.rows.num_rows, dtype=bool) for side in both.sides)
    return Chosen.of(both, (champion, challenger))


def choose_timed(both: Both) -> Chosen:
    """Choose among the rows that were scored alone, whose times compare."""
    champion, challenger = (~np.isnan(side.latencies_ms) for side in both.sides)
    return Chosen.of(both, (champion, challenger))


def measure_latency(both: Both, planned: int) -> Measured:
    """Return the ratio of the challenger's 95th percentile to the champion's."""
    chosen = choose_timed(both)
    if not chosen.are_enough:
        return UNKNOWN
    runs = [_slowness(side.latencies_ms[mask]) for side, mask in zip(both.sides, chosen.masks, strict=True)]
    spread = chosen.spread(lambda w_BN: np.log(runs[0](w_BN)), lambda w_BN: np.log(runs[1](w_BN)))
    theirs, mine = (max(slow_ms(side), np.finfo(np.float64).tiny) for side in both.sides)
    return Measured(mine / theirs, mine / theirs * math.exp(-chosen.allowed(planned) * spread.error))


def slow_ms(side: Answers) -> float:
    """Return the 95th percentile of the latencies that are known; NaN without any."""
    known = side.latencies_ms[~np.isnan(side.latencies_ms)]
    return float(np.quantile(known, SLOW)) if len(known) else math.nan


def _slowness(values: Floats) -> Weighted:
    """Sort once; return the map from weights to the weighted quantile, which is never zero."""
    order = np.argsort(values, kind="stable")
    ordered = np.maximum(values[order], np.finfo(np.float64).tiny)

    def run(w_BN: Floats) -> Floats:
        sums_BN = w_BN[:, order].cumsum(axis=1)
        at_B = (sums_BN < SLOW * sums_BN[:, -1:]).sum(axis=1)
        return np.asarray(ordered[np.minimum(at_B, len(ordered) - 1)], dtype=np.float64)

    return run


def measure_scores(both: Both, chosen: Chosen, planned: int) -> Measured:
    """Return the population stability index of the challenger's scores against the champion's."""
    if not chosen.are_enough:
        return UNKNOWN
    expected, found = (side.flat[mask] for side, mask in zip(both.sides, chosen.masks, strict=True))
    edges = _edges(expected)
    counts = [_binned(values, edges) for values in (expected, found)]

    def index(w_BU: Floats) -> Floats:
        return _psi(counts[0](w_BU[:, chosen.unit_Ns[0]]), counts[1](w_BU[:, chosen.unit_Ns[1]]))

    spread = spread_of(index, chosen.all_units)
    value = population_stability(expected, found)
    return Measured(value, value - spread.bias - chosen.allowed(planned) * spread.error)


def population_stability(expected: Floats, found: Floats) -> float:
    """Return the population stability index over ten bins of equal expected mass."""
    edges = _edges(expected)
    theirs, mine = (_binned(values, edges)(np.ones((1, len(values)))) for values in (expected, found))
    return float(_psi(theirs, mine)[0])


def _edges(expected: Floats) -> Floats:
    edges: Floats = np.unique(np.quantile(expected, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    return edges


def _binned(values: Floats, edges: Floats) -> Weighted:
    bin_N, bins = np.searchsorted(edges, values, side="right"), len(edges) + 1
    return lambda w_BN: np.stack([np.bincount(bin_N, weights=w_N, minlength=bins) for w_N in w_BN])


def _psi(expected_BK: Floats, found_BK: Floats) -> Floats:
    """Compare counts a bin; half a row is added to each."""
    theirs, mine = (counts + 0.5 for counts in (expected_BK, found_BK))
    theirs, mine = (counts / counts.sum(axis=1, keepdims=True) for counts in (theirs, mine))
    return np.asarray(((mine - theirs) * np.log(mine / theirs)).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Labelled:
    """Both sides on rows whose label is known."""

    rows: tuple[int, int]
    values: tuple[float, float]
    """The metric of each side; NaN where it is undefined."""
    worse: Measured
    """By how much the challenger's is worse."""


def measure_labelled(both: Both, labels: Mapping[str, object], signatures: Signatures, metric: str, planned: int) -> Labelled:
    """Compare by a metric where labels are known; a class that one of both models does not know counts on neither side."""
    truths = [_truth(side, labels, signatures[at], signatures[1 - at]) for at, side in enumerate(both.sides)]
    chosen = Chosen.of(both, (~np.isnan(truths[0]), ~np.isnan(truths[1])))
    if not min(chosen.rows):
        return Labelled(chosen.rows, (math.nan, math.nan), UNKNOWN)
    runs = [
        _metric(Predictions(signature.task, truth[mask], side.scores[mask], signature.threshold or 0.5), metric)
        for side, truth, mask, signature in zip(both.sides, truths, chosen.masks, signatures, strict=True)
    ]
    values = [float(run(np.ones((1, len(unit_N))))[0]) for run, unit_N in zip(runs, chosen.unit_Ns, strict=True)]
    sign = -1.0 if METRICS[metric].greater_is_better else 1.0
    worse = sign * (values[1] - values[0])
    if min(chosen.rows) < ENOUGH_LABELS or chosen.units < ENOUGH_UNITS:
        return Labelled(chosen.rows, (values[0], values[1]), Measured(worse, math.nan))
    spread = chosen.spread(*runs)
    return Labelled(chosen.rows, (values[0], values[1]), Measured(worse, worse - chosen.allowed(planned) * spread.error))


def _metric(predictions: Predictions, metric: str) -> Weighted:
    run = prepare(predictions, [metric])
    return lambda w_BN: run(w_BN)[metric]


def _truth(side: Answers, labels: Mapping[str, object], own: ModelSignature, other: ModelSignature) -> Floats:
    """Return each row's label as the side's metrics take it; NaN where it is not known, or not to both models."""
    found = (labels.get(name) for name in side.rows[ID].to_pylist())
    return np.array([_index(label, own) if not math.isnan(_index(label, other)) else math.nan for label in found])


def _index(label: object, signature: ModelSignature) -> float:
    """Return a label as the metrics take it: the class's index or the value; NaN if it is unknown."""
    if label is None:
        return math.nan
    if signature.task == "regression":
        return float(label)  # type: ignore[arg-type]  # the source's column is numeric
    text = category_text(label)
    return float(signature.classes.index(text)) if text in signature.classes else math.nan
