"""A dataset version is what could be known at its end: made then or backfilled later, it is the same, to the byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.artifacts import Window
from mlops_tasks.core.frames import read_split
from mlops_tasks.specs import SnapshotSpec
from mlops_tasks.stages import snapshot
from tests.fakes import make_ports, make_run
from tests.feature_windows import make_valid_features

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Intent, Split, ValidFeatures

START, DAY = datetime(2030, 1, 1, tzinfo=UTC), timedelta(days=1)
SPEC = SnapshotSpec(test=3 * DAY, label_delay=2 * DAY, min_rows=1)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.mark.parametrize("as_of", [12, 20, 27])
def test_a_backfill_leaves_out_what_was_known_only_later(tmp_path: Path, as_of: int) -> None:
    found = []
    intents: tuple[Intent, ...] = ("scheduled", "backfill")
    for days, intent in zip((as_of, 30), intents, strict=True):
        ports = make_ports(tmp_path / intent, run=make_run(now=START + (days + 1) * DAY, intent=intent))
        there: list[ValidFeatures] = [
            make_valid_features(ports.store, Window(start=START + n * DAY, end=START + (n + 1) * DAY), [1.0] * 24)
            for n in range(days)
        ]
        dataset = snapshot.run(SPEC, there[:as_of], ports=ports)
        rows = [read_split(ports.store, dataset, split)["at"] for split in SPLITS]
        newest = max(times.max() for times in rows)
        assert newest < START + as_of * DAY - SPEC.label_delay, "a later row's label was not known"
        assert dataset.as_of == START + as_of * DAY
        assert rows[0].max() < rows[1].min() < rows[2].min(), "what is learned from comes before what is judged on"
        assert rows[1].max() < rows[2].min() - SPEC.label_delay, "when the test began, later labels were not known"
        found.append(dataset)
    assert found[0].version == found[1].version
    assert found[0].splits == found[1].splits
