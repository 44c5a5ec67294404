"""What was seen to what chance explains, however often somebody looks.

A rule that looks every few minutes and acts on the first look that seems bad must not count each look as the only one.
So nothing here is a test of one look: each bound holds at all looks together (anytime-valid inference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln  # type: ignore[import-untyped]  # it ships no types
from scipy.stats import beta  # type: ignore[import-untyped]  # likewise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

CHANCE = 0.05
"""With at most this chance is a challenger that keeps all limits withdrawn by them, in a trial of any length."""
LIMITS = 4
"""Failures, latency, scores and labels share it."""
DRAWS = 200
"""Resamples that a standard error is estimated from."""
CELLS = 1 << 19
"""Weights held at once (4 MiB)."""
MIN_DEFINED = 0.5
"""Least share of the resamples in which a statistic must be defined."""


@dataclass(frozen=True)
class Spread:
    """What resampling tells of a statistic."""

    error: float
    """Its standard error; NaN where it is undefined."""
    bias: float
    """By how much resampling raises it on average."""


def share_is_exceeded(hits: int, rows: int, share: float) -> bool:
    """Tell whether hits among independent rows come more often than `share`, at whichever look this is asked.

    The likelihood ratio against the limit, averaged over all greater shares, is a nonnegative supermartingale as long as
    the limit is kept, so it reaches 1 / chance with at most that chance (Ville's inequality; the mixture is Robbins'
    1970, Statistical methods related to the law of the iterated logarithm).
    """
    if not hits:
        return False
    if share <= 0:
        return True
    misses = rows - hits
    mixture = betaln(hits + 1, misses + 1) + beta.logsf(share, hits + 1, misses + 1) - math.log1p(-share)
    against = hits * math.log(share) + misses * math.log1p(-share)
    return bool(mixture - against >= math.log(LIMITS / CHANCE))


def errors_allowed(units: int, planned: int, halvings: int = 0) -> float:
    """Return how many standard errors chance explains at all looks together.

    The one-sided normal mixture boundary (Howard et al. 2021, Time-uniform, nonparametric, nonasymptotic confidence
    sequences, section 3.2) with an estimated variance, which holds asymptotically (Waudby-Smith et al. 2024, Time-uniform
    central limit theory and asymptotic confidence sequences, theorem 2.2 and section 2.5 for statistics that are no means).

    Args:
        units: independent units seen so far on the smaller side.
        planned: units at which it is to be narrowest; any number that does not depend on what was seen is right.
        halvings: how often the units were thinned; each such stream gets a share of the chance, 1/2, 1/4, ...

    """
    chance = CHANCE / LIMITS / 2 ** (halvings + 1)
    scale = -2 * math.log(2 * chance) + math.log(1 - 2 * math.log(2 * chance))
    x = scale * units / planned
    return math.sqrt(2 * (x + 1) / x * math.log1p(math.sqrt(x + 1) / (2 * chance)))


def spread_of(statistic: Callable[[Floats], Floats], units: int) -> Spread:
    """Resample units and measure how a statistic varies.

    Poisson bootstrap (Hanley and MacGibbon 2006; Chamandy et al. 2012, Estimating uncertainty for massive data streams):
    each unit is drawn a Poisson(1) number of times, so that memory is bounded by a block of resamples.

    Args:
        statistic: maps weights of the units [B, U] to B values; a row of ones gives the value itself.
        units: U.

    """
    value = float(statistic(np.ones((1, units)))[0])
    draws = np.concatenate([statistic(w_BU) for w_BU in _weights(units)])
    defined = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(defined) < MIN_DEFINED * len(draws):
        return Spread(math.nan, math.nan)
    return Spread(float(defined.std()), float(defined.mean()) - value)


def _weights(units: int) -> Iterator[Floats]:
    rng = np.random.default_rng(0)
    block = max(1, CELLS // units)
    for start in range(0, DRAWS, block):
        yield rng.poisson(1.0, (min(block, DRAWS - start), units)).astype(np.float64)
