"""A comparison to a decision: promote the challenger, withdraw it, or wait."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops_tasks.core.rollout.chance import share_is_exceeded
from mlops_tasks.core.rollout.differences import ENOUGH_LABELS, ENOUGH_ROWS, ENOUGH_UNITS
from mlops_tasks.durations import format_duration

if TYPE_CHECKING:
    from mlops_tasks.core.rollout.comparison import Comparison
    from mlops_tasks.serve_specs import ChallengerSpec

Action = Literal["promote", "withdraw", "wait"]


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why."""

    action: Action
    reason: str


def decide(spec: ChallengerSpec, seen: Comparison) -> Decision:
    """Apply the rule that `ChallengerSpec` states: withdraw when a limit is broken, promote when enough was seen, else wait.

    A limit counts as broken when more than chance explains lies beyond it, at whichever look.
    """
    broken = _broken(spec, seen)
    if broken:
        return Decision("withdraw", "; ".join(broken))
    missing = _missing(spec, seen)
    if missing:
        return Decision("wait", f"no limit is broken; missing: {', '.join(missing)}")
    return Decision("promote", _praise(seen))


def labels_needed(spec: ChallengerSpec) -> int:
    """Return the labelled rows of each side that a promotion waits for."""
    return max(spec.min_labelled, ENOUGH_LABELS) if spec.min_labelled else 0


def _broken(spec: ChallengerSpec, seen: Comparison) -> list[str]:
    """Return each limit that the challenger breaks."""
    mine, theirs, broken = seen.challenger, seen.champion, []
    if share_is_exceeded(mine.failures, mine.requests, spec.max_error_rate):
        broken.append(
            f"it failed in {mine.failures} of {mine.requests} requests, allowed is a share of {spec.max_error_rate:g}"
        )
    if seen.latency_ratio.at_least > spec.max_latency_ratio:
        limit = f"allowed is {spec.max_latency_ratio:g} times the champion's {theirs.p95_ms:.3g} ms"
        broken.append(f"its 95th percentile takes {mine.p95_ms:.3g} ms, {limit}")
    if seen.score_psi.at_least > spec.max_score_psi:
        found = f"a PSI of {seen.score_psi.value:.3g}, allowed is {spec.max_score_psi:g}"
        broken.append(f"its scores differ from the champion's by {found}")
    if min(mine.labelled, theirs.labelled) >= spec.min_labelled and seen.worse.at_least > spec.tolerance:
        allowed = f"the champion has {theirs.metric:.4g}, tolerance is {spec.tolerance:g}"
        broken.append(f"its {seen.metric} is {mine.metric:.4g} on {mine.labelled} labelled rows, {allowed}")
    return broken


def _missing(spec: ChallengerSpec, seen: Comparison) -> list[str]:
    """Return what must still be seen before a promotion."""
    missing = []
    if seen.challenger.requests < spec.min_requests:
        missing.append(f"{spec.min_requests - seen.challenger.requests} requests of {spec.min_requests}")
    if seen.age < spec.min_age:
        missing.append(f"time, {format_duration(spec.min_age)} are asked for")
    return missing + _missing_rows(seen) + _missing_labels(spec, seen)


def _missing_rows(seen: Comparison) -> list[str]:
    """Return what a comparison of latencies and scores lacks."""
    if not seen.champion.rows:
        return ["answers of the champion to compare with"]
    rows = min(seen.champion.rows, seen.challenger.rows)
    if rows < ENOUGH_ROWS:
        return [f"{ENOUGH_ROWS - rows} of the {ENOUGH_ROWS} rows of each side that a comparison takes"]
    if seen.units < ENOUGH_UNITS:
        return [f"{ENOUGH_UNITS - seen.units} of the {ENOUGH_UNITS} entities of each side that a comparison takes"]
    if math.isnan(seen.latency_ratio.value):
        return [f"{ENOUGH_ROWS} rows of {ENOUGH_UNITS} entities of each side that were scored alone, so that times compare"]
    return []


def _missing_labels(spec: ChallengerSpec, seen: Comparison) -> list[str]:
    """Return what a comparison by labels lacks, where the pipeline asks for one."""
    needed, there = labels_needed(spec), min(seen.challenger.labelled, seen.champion.labelled)
    if there < needed:
        return [f"{needed - there} labels of {needed}"]
    if needed and math.isnan(seen.worse.value):
        return [f"labels by which {seen.metric} is defined: those that are known have one class"]
    if needed and math.isnan(seen.worse.at_least):
        return [f"labels of {ENOUGH_UNITS} entities of each side"]
    return []


def _praise(seen: Comparison) -> str:
    mine = seen.challenger
    parts = [f"{mine.requests} requests with {mine.failures} failures", f"95th percentile {mine.p95_ms:.3g} ms"]
    parts.append(f"PSI {seen.score_psi.value:.3g}")
    if not math.isnan(seen.worse.value):
        parts.append(f"{seen.metric} {mine.metric:.4g} against {seen.champion.metric:.4g} on labelled rows")
    return ", ".join(parts)
