from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import RawData, Window
from mlops_tasks.core.publishing import hash_file
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import DataRejected, NothingToDo, PipelineError, SpecError
from mlops_tasks.specs import CollectSpec, Source
from mlops_tasks.stages import collect
from tests.fakes import make_ports, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from mlops_tasks.ports import Ports

VISITS = """at,user,price
2024-01-01T10:00:00Z,anna,1.5
2024-01-01T09:00:00Z,bert,2
2024-01-02T00:00:00Z,anna,3
2024-01-02T00:00:00Z,anna,4
2024-01-04T12:00:00Z,carl,inf
"""
SECRET = "a-long-random-secret"


def write(folder: Path, visits: str = VISITS) -> None:
    (folder / "visits.csv").write_text(visits)
    (folder / "weather.csv").write_text("at,temp\n2023-12-31T12:00:00Z,1\n2024-01-02T12:00:00Z,2\n")
    (folder / "users.csv").write_text("user,city\nanna,Rome\nbert,Oslo\n")


def spec(folder: Path, **more: Any) -> CollectSpec:
    sources = {
        "visits": {
            "path": f"{folder}/visits.csv",
            "event_time": "at",
            "columns": {"at": "timestamp", "user": "string", "price": "float"},
        },
        "weather": {"path": f"{folder}/weather.csv", "event_time": "at", "columns": {"at": "timestamp", "temp": "float"}},
        "users": {"path": f"{folder}/users.csv", "columns": {"user": "string", "city": "string"}},
    }
    return CollectSpec.model_validate({"sources": sources, "primary": "visits", "entity_key": ["user"], **more})


def days(first: int, last: int) -> list[Window]:
    start = datetime(2023, 12, 31, tzinfo=UTC)
    return windows_between(start + timedelta(days=first), start + timedelta(days=last + 1), "day")


def table(ports: Ports, raw: RawData, name: str) -> list[dict[str, Any]]:
    return pq.read_table(ports.store.open_local(raw.tables[name].file)).to_pylist()  # type: ignore[no-any-return] # pyarrow is untyped


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    write(tmp_path)
    return make_ports(tmp_path)


def test_windows_hold_their_rows_in_time_order_without_duplicates(tmp_path: Path, ports: Ports) -> None:
    first, second = collect.run(spec(tmp_path), days(1, 2), ports=ports)
    assert [(row["at"].hour, row["user"], row["price"]) for row in table(ports, first, "visits")] == [
        (9, "bert", 2.0),
        (10, "anna", 1.5),
    ]
    assert [(row["user"], row["price"]) for row in table(ports, second, "visits")] == [("anna", 4.0)]
    assert (first.rows, first.duplicates, second.rows, second.duplicates) == (2, 0, 1, 1)
    assert table(ports, first, "weather") == []
    assert [row["temp"] for row in table(ports, second, "weather")] == [2.0]
    assert first.tables["visits"].columns == {"at": "timestamp[us, tz=UTC]", "user": "string", "price": "double"}


def test_no_windows_give_nothing(tmp_path: Path, ports: Ports) -> None:
    assert collect.run(spec(tmp_path), [], ports=ports) == []


def test_keys_names_and_references(tmp_path: Path, ports: Ports) -> None:
    (raw,) = collect.run(spec(tmp_path), days(1, 1), ports=ports)
    folder = f"shop/raw/2024-01-01/{raw.digest[:16]}"
    assert raw.file("visits.parquet").key == f"{folder}/visits.parquet"
    assert raw.file("users.parquet").key.startswith("shop/raw/static/users/")
    assert {ref.key.rsplit("/", 1)[-1] for ref in raw.files} == {
        "visits.parquet",
        "weather.parquet",
        "users.parquet",
        "manifest.json",
    }
    assert all(ports.store.verify(ref) for ref in raw.files)
    assert [raw.tables[name].file.rows for name in ("visits", "weather", "users")] == [2, 0, 2]


def test_static_sources_are_stored_once_and_are_part_of_the_digest(tmp_path: Path, ports: Ports) -> None:
    before = collect.run(spec(tmp_path), days(1, 2), ports=ports)
    assert len(list(ports.store.list("shop/raw/static/"))) == 1
    (tmp_path / "users.csv").write_text("user,city\nanna,Bonn\n")
    after = collect.run(spec(tmp_path), days(1, 2), ports=make_ports(tmp_path))
    assert len(list(ports.store.list("shop/raw/static/"))) == 2
    assert all(a.digest != b.digest for a, b in zip(before, after, strict=True))
    assert before[0].tables["visits"].file.sha256 == after[0].tables["visits"].file.sha256


def test_the_manifest_says_what_was_collected_when(tmp_path: Path, ports: Ports) -> None:
    (raw,) = collect.run(spec(tmp_path), days(2, 2), ports=ports)
    manifest = json.loads(ports.store.read(raw.file("manifest.json").key))
    assert {key: manifest[key] for key in ("pipeline", "window", "collected_at", "duplicates_dropped")} == {
        "pipeline": "shop",
        "window": "[2024-01-02T00:00, 2024-01-03T00:00)",
        "collected_at": "2030-01-01T00:00:00+00:00",
        "duplicates_dropped": 1,
    }
    visits = ports.store.open_local(raw.tables["visits"].file)
    assert manifest["tables"]["visits"] == {
        "key": "visits.parquet",
        "rows": 1,
        "bytes": visits.stat().st_size,
        "sha256": hash_file(visits),
        "schema": {"at": "timestamp[us, tz=UTC]", "user": "string", "price": "double"},
    }
    assert manifest["tables"]["users"]["key"] == raw.tables["users"].file.key


def test_collecting_again_later_changes_nothing(tmp_path: Path, ports: Ports) -> None:
    before = collect.run(spec(tmp_path), days(1, 2), ports=ports)
    keys = list(ports.store.list("shop/"))
    later = make_ports(tmp_path, run=make_run(now=datetime(2031, 1, 1, tzinfo=UTC)))
    assert collect.run(spec(tmp_path), days(1, 2), ports=later) == before
    assert list(ports.store.list("shop/")) == keys
    assert all(ports.store.verify(ref) for raw in before for ref in raw.files)


def test_a_changed_window_is_a_new_revision_beside_the_old(tmp_path: Path, ports: Ports) -> None:
    first, second = collect.run(spec(tmp_path), days(1, 2), ports=ports)
    write(tmp_path, VISITS + "2024-01-01T23:00:00Z,late,9\n")
    again, same = collect.run(spec(tmp_path), days(1, 2), ports=make_ports(tmp_path))
    assert (again.rows, again.window) == (3, first.window)
    assert again.digest != first.digest
    assert same == second
    assert len(table(ports, first, "visits")) == 2
    assert all(ports.store.verify(ref) for ref in (*first.files, *again.files))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(4)), st.integers(1, 4))
def test_a_range_at_once_equals_its_windows_one_by_one(tmp_path: Path, ports: Ports, order: list[int], size: int) -> None:
    allow, windows = spec(tmp_path, empty="allow"), days(1, 4)
    whole = collect.run(allow, windows, ports=ports)
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    found = {raw.window: raw for part in parts for raw in collect.run(allow, [windows[i] for i in part], ports=ports)}
    assert [found[window] for window in windows] == whole


class CountingSources(Sources):
    """Counts how often each path is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def read(self, source: Source, window: Window | None) -> Iterator[pa.RecordBatch]:
        self.reads.append(Path(source.path or "").name)
        return super().read(source, window)


def test_each_file_source_is_read_once_even_with_gaps(tmp_path: Path, ports: Ports) -> None:
    sources = CountingSources()
    windows = [days(1, 1)[0], days(4, 4)[0]]
    collected = collect.run(spec(tmp_path), windows, ports=replace(ports, sources=sources))
    assert sorted(sources.reads) == ["users.csv", "visits.csv", "weather.csv"]
    assert [raw.rows for raw in collected] == [2, 1]


def refusal(kind: type[PipelineError], spec_: CollectSpec, windows: list[Window], ports: Ports) -> str:
    with pytest.raises(kind) as caught:
        collect.run(spec_, windows, ports=ports)
    assert list(ports.store.list("shop/")) == []
    return str(caught.value)


def test_an_empty_window_inside_the_sources_range_is_rejected(tmp_path: Path, ports: Ports) -> None:
    assert refusal(DataRejected, spec(tmp_path), days(2, 3), ports) == (
        "window [2024-01-03T00:00, 2024-01-04T00:00): source 'visits' has no rows, although it holds later ones "
        "(up to 2024-01-04T12:00Z); deliver them, or set collect.empty to allow"
    )


def test_an_empty_window_may_be_allowed(tmp_path: Path, ports: Ports) -> None:
    (raw,) = collect.run(spec(tmp_path, empty="allow"), days(3, 3), ports=ports)
    assert raw.rows == 0
    assert table(ports, raw, "visits") == []


def test_a_window_after_the_latest_row_has_no_data_yet(tmp_path: Path, ports: Ports) -> None:
    for rule in ("reject", "allow"):
        assert refusal(NothingToDo, spec(tmp_path, empty=rule), days(4, 5), ports) == (
            "window [2024-01-05T00:00, 2024-01-06T00:00): source 'visits' has no data yet: its latest at is 2024-01-04T12:00Z"
        )


def test_a_source_without_rows_has_no_data_yet(tmp_path: Path, ports: Ports) -> None:
    write(tmp_path, "at,user,price\n")
    assert refusal(NothingToDo, spec(tmp_path), days(1, 1), ports) == (
        "window [2024-01-01T00:00, 2024-01-02T00:00): source 'visits' has no data yet: it holds no rows at all"
    )


def test_a_window_before_the_first_row_is_empty_and_no_error(tmp_path: Path, ports: Ports) -> None:
    before, first = collect.run(spec(tmp_path), days(0, 1), ports=ports)
    assert (before.rows, first.rows) == (0, 2)
    assert [row["temp"] for row in table(ports, before, "weather")] == [1.0]


@pytest.mark.parametrize(
    ("lateness", "now", "message"),
    [
        (
            "0s",
            datetime(2024, 1, 1, 23, tzinfo=UTC),
            "window [2024-01-01T00:00, 2024-01-02T00:00): it ends at 2024-01-02T00:00Z; collect it from 2024-01-02T00:00Z on",
        ),
        (
            "6h",
            datetime(2024, 1, 2, 5, 59, tzinfo=UTC),
            (
                "window [2024-01-01T00:00, 2024-01-02T00:00): it ends at 2024-01-02T00:00Z and rows may be 6h late; "
                "collect it from 2024-01-02T06:00Z on"
            ),
        ),
    ],
)
def test_a_window_that_may_still_get_rows_is_not_collected(tmp_path: Path, lateness: str, now: datetime, message: str) -> None:
    write(tmp_path)
    early = make_ports(tmp_path, run=make_run(now=now))
    assert refusal(NothingToDo, spec(tmp_path, allowed_lateness=lateness), days(1, 1), early) == message
    ready = make_ports(tmp_path, run=make_run(now=now + timedelta(hours=1)))
    assert len(collect.run(spec(tmp_path, allowed_lateness=lateness), days(1, 1), ports=ready)) == 1


def test_duplicates_under_reject(tmp_path: Path, ports: Ports) -> None:
    assert refusal(DataRejected, spec(tmp_path, duplicates="reject"), days(2, 2), ports) == (
        "source 'visits': 1 rows repeat the key (user, at) of an earlier row, the first at "
        "user='anna', at=2024-01-02T00:00:00Z; "
        "mend the source, or set collect.duplicates to keep_last or keep_first"
    )


def test_duplicates_under_keep_first(tmp_path: Path, ports: Ports) -> None:
    (raw,) = collect.run(spec(tmp_path, duplicates="keep_first"), days(2, 2), ports=ports)
    assert [row["price"] for row in table(ports, raw, "visits")] == [3.0]


def test_the_source_is_named_with_what_is_wrong_in_it(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "users.csv").write_text("user\nanna\n")
    assert refusal(DataRejected, spec(tmp_path), days(1, 1), ports) == (
        f"source 'users': {tmp_path}/users.csv: has no column 'city'; it has user; mend the file or the source's columns"
    )


def hashed(folder: Path) -> CollectSpec:
    plain = spec(folder).model_dump(mode="json")
    plain["sources"]["visits"]["columns"] |= {"user": {"type": "string", "privacy": "hash"}}
    plain["sources"]["visits"]["columns"] |= {"price": {"type": "float", "privacy": "drop"}}
    plain["sources"]["users"]["columns"] |= {"user": {"type": "string", "privacy": "hash"}}
    return CollectSpec.model_validate(plain)


def test_hashed_and_dropped_columns_never_reach_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: Ports
) -> None:
    monkeypatch.setenv("MLOPS_HASH_KEY", SECRET)
    first, _ = collect.run(hashed(tmp_path), days(1, 2), ports=ports)
    anna = hmac.new(SECRET.encode(), b"anna", hashlib.sha256).hexdigest()
    assert {row["user"] for row in table(ports, first, "visits")} >= {anna}
    assert next(row["user"] for row in table(ports, first, "users")) == anna
    assert "price" not in first.tables["visits"].columns
    for key in ports.store.list("shop/"):
        data = ports.store.read(key)
        assert b"anna" not in data
        assert SECRET.encode() not in data


def test_the_hash_secret_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: Ports) -> None:
    monkeypatch.delenv("MLOPS_HASH_KEY", raising=False)
    assert refusal(SpecError, hashed(tmp_path), days(1, 1), ports) == (
        "collect.sources.visits.columns.user has privacy hash, but MLOPS_HASH_KEY is not set; set it to a long random secret"
    )


def test_entity_keys_and_source_names_are_checked(tmp_path: Path) -> None:
    plain = spec(tmp_path).model_dump(mode="json")
    plain["sources"]["visits"]["columns"]["user"] = {"type": "string", "privacy": "drop"}
    with pytest.raises(ValueError, match="which source 'visits' drops: set their privacy to hash or private"):
        CollectSpec.model_validate(plain)
    plain = spec(tmp_path).model_dump(mode="json")
    plain["sources"]["../users"] = plain["sources"].pop("users")
    with pytest.raises(ValueError, match="source names must be letters, digits and _, as they name tables"):
        CollectSpec.model_validate(plain)
