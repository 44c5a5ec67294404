"""Counts of alarms to rates with their uncertainty, and rates to a proposal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """How often something happened in so many tries."""

    count: int
    of: int

    @property
    def share(self) -> float:
        """Happened / tries; 0 without any."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The binomial 95% interval by Wilson's score (Wilson, JASA 22, 1927), which also holds for few or none."""
        if not self.of:
            return 0.0, 1.0
        squared = NORMAL_95**2 / self.of
        middle = (self.share + squared / 2) / (1 + squared)
        half = math.sqrt(self.share * (1 - self.share) * squared + squared**2 / 4) / (1 + squared)
        return max(0.0, middle - half), min(1.0, middle + half)


def propose_rate(decisions: Mapping[float, Rate], tolerated: float) -> float | None:
    """Return the largest false-alarm rate under which rows of alarms were completed no more often than is tolerated."""
    return max((rate for rate, seen in decisions.items() if seen.of and seen.share <= tolerated), default=None)
