"""A range of time to disjoint train, validation and test ranges, as they could have been known at its end."""

from __future__ import annotations

from datetime import timedelta

from mlops_tasks.artifacts import Split, Window
from mlops_tasks.durations import format_duration
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import SnapshotSpec


def split_by_time(spec: SnapshotSpec, whole: Window) -> dict[Split, Window]:
    """Split `[start, end)` by event time.

    From the end backwards: rows younger than `label_delay` have no label yet; before them `test`; before it a
    gap of `embargo` and at least `label_delay`, since a model made when the test begins would not have known
    later labels; the rest trains, its latest `validation` share stops the training early.

    Raises:
        SpecError: nothing is left to train on.

    """
    test_end = whole.end - spec.label_delay
    test_start = test_end - spec.test
    train_end = test_start - max(spec.embargo, spec.label_delay)
    seconds = round((train_end - whole.start).total_seconds() * (1 - spec.validation))
    middle = whole.start + timedelta(seconds=seconds)
    if not whole.start < middle < train_end or spec.test <= timedelta(0):
        msg = (
            f"snapshot: the range {whole} leaves nothing to train on after test {format_duration(spec.test)}, "
            f"embargo {format_duration(spec.embargo)} and label_delay {format_duration(spec.label_delay)}; take a longer range"
        )
        raise SpecError(msg)
    return {
        "train": Window(start=whole.start, end=middle),
        "validation": Window(start=middle, end=train_end),
        "test": Window(start=test_start, end=test_end),
    }
