from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_tasks.core.frames import read_split
from mlops_tasks.errors import DataRejected, SpecError
from mlops_tasks.specs import SnapshotSpec
from mlops_tasks.stages.snapshot import run
from tests.fakes import make_ports, make_run
from tests.feature_windows import SCHEMA, make_valid_features
from tests.raw_windows import DAY, START, days

if TYPE_CHECKING:
    from mlops_tasks.artifacts import ValidFeatures
    from mlops_tasks.ports import Ports

SPEC = SnapshotSpec(test=3 * DAY, embargo=DAY, label_delay=DAY, validation=0.25, min_rows=10)


def windows(ports: Ports, count: int, rows: int = 6, **changes: Any) -> list[ValidFeatures]:
    return [make_valid_features(ports.store, w, [float(i) for i in range(rows)], **changes) for w in days(count)]


def test_the_version_names_every_row_and_copies_none(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 10)
    dataset = run(SPEC, features, ports=ports)
    assert dataset.as_of == START + 10 * DAY
    assert (dataset.rows, dataset.version) == (60, dataset.digest[:12])
    assert {name: str(split.window) for name, split in dataset.splits.items()} == {
        "train": "[2030-01-01T00:00, 2030-01-04T18:00)",
        "validation": "[2030-01-04T18:00, 2030-01-06T00:00)",
        "test": "[2030-01-07T00:00, 2030-01-10T00:00)",
    }
    (ref,) = dataset.files
    manifest = json.loads(ports.store.read(ref.key))
    assert [w["sha256"] for w in manifest["windows"]] == [f.features.files[0].sha256 for f in features]
    assert manifest["as_of"] == "2030-01-11T00:00:00Z"
    stored = {ref.key} | {f.features.files[0].key for f in features}
    assert set(ports.store.list("shop/")) == stored


def test_the_version_depends_on_content_and_not_on_the_time_or_the_order(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 10)
    dataset = run(SPEC, features, ports=ports)
    later = make_ports(tmp_path, run=make_run(now=datetime(2040, 1, 1, tzinfo=START.tzinfo)))
    assert run(SPEC, features[::-1], ports=later) == dataset
    changed = [*features[:-1], make_valid_features(ports.store, features[-1].window, [9.0] * 6)]
    assert run(SPEC, changed, ports=ports).digest != dataset.digest
    assert run(SPEC.model_copy(update={"embargo": 2 * DAY}), features, ports=ports).digest != dataset.digest


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    test=st.integers(1, 40).map(lambda h: timedelta(hours=h)),
    embargo=st.integers(0, 30).map(lambda h: timedelta(hours=h)),
    delay=st.integers(0, 30).map(lambda h: timedelta(hours=h)),
)
def test_no_row_is_in_two_splits_and_none_is_younger_than_its_label(
    tmp_path: Path, test: timedelta, embargo: timedelta, delay: timedelta
) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 8, rows=12)
    spec = SnapshotSpec(test=test, embargo=embargo, label_delay=delay, validation=0.3, min_rows=1)
    dataset = run(spec, features, ports=ports)
    times = {name: list(read_split(ports.store, dataset, name)["at"]) for name in dataset.splits}
    assert len(set().union(*times.values())) == sum(map(len, times.values()))
    assert max(times["train"]) < min(times["validation"])
    assert max(times["train"] + times["validation"]) + delay < dataset.splits["test"].window.start + timedelta(microseconds=1)
    assert all(t + delay <= dataset.as_of for rows in times.values() for t in rows)
    gap = min(times["test"], default=dataset.as_of) - max(times["validation"], default=START)
    assert gap >= max(embargo, delay)


def test_a_missing_window_is_named(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 10)
    with pytest.raises(DataRejected) as caught:
        run(SPEC, [*features[:3], *features[5:8], features[9]], ports=ports)
    assert str(caught.value) == (
        "snapshot: features of [2030-01-04T00:00, 2030-01-06T00:00), [2030-01-09T00:00, 2030-01-10T00:00) are missing; "
        "bring those windows in first (`mlops run` or the .ingest DAG)"
    )


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    with pytest.raises(DataRejected) as caught:
        run(SPEC.model_copy(update={"min_rows": 25}), windows(ports, 10), ports=ports)
    assert str(caught.value) == (
        "snapshot: 24 rows in the training range [2030-01-01T00:00, 2030-01-04T18:00), but snapshot.min_rows is 25; "
        "take a longer range or lower min_rows"
    )


def test_a_range_too_short_is_refused(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    with pytest.raises(SpecError, match="leaves nothing to train on"):
        run(SPEC, windows(ports, 5), ports=ports)


def test_windows_of_different_schemas_are_refused(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 9)
    other = SCHEMA.model_copy(update={"label": "returned"})
    features.append(make_valid_features(ports.store, days(10)[-1], [1.0], feature_schema=other))
    with pytest.raises(DataRejected) as caught:
        run(SPEC, features, ports=ports)
    assert str(caught.value) == (
        "snapshot: the windows were made with different feature schemas; run again with --recompute preprocess"
    )


def test_an_empty_window_is_in_the_range_and_gives_no_file(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = windows(ports, 10)
    features[1] = make_valid_features(ports.store, features[1].window, [])
    dataset = run(SPEC, features, ports=ports)
    assert [ref.key for ref in dataset.splits["train"].files] == [features[i].features.files[0].key for i in (0, 2, 3)]
