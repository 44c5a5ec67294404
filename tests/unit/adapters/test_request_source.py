"""A request log as a source: the days of a window and no others, each answer once, typed as the source says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import Window
from mlops_tasks.core.collection import schema_of
from mlops_tasks.errors import DataRejected, SpecError
from mlops_tasks.serving.recording.shipper import Shipper
from mlops_tasks.specs import Source
from tests.unit.serving.recorded import HOUR_NS, NOON_NS, answer, make_log, model

COLUMNS: dict[str, Any] = {
    "prediction_time": "timestamp",
    "prediction_id": "string",
    "prediction_score": "float",
    "price": "float",
    "shop": "string",
}
DAY = Window(start=datetime(2030, 1, 1, tzinfo=UTC), end=datetime(2030, 1, 2, tzinfo=UTC))
NEXT_DAY = Window(start=datetime(2030, 1, 2, tzinfo=UTC), end=datetime(2030, 1, 3, tzinfo=UTC))


class Counting(LocalStore):
    """A store that knows what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store")


def ship(tmp_path: Path, store: LocalStore, *answers: Any) -> None:
    """Log answers in one segment, and ship it."""
    log = make_log(tmp_path / "requests")
    for given in answers:
        log.record(given)
    log.close()
    Shipper(tmp_path / "requests", "shop", store).ship()


def source(columns: dict[str, Any] | None = None, **more: Any) -> Source:
    given = {"path": "requests://shop", "event_time": "prediction_time", "columns": columns or COLUMNS}
    return Source.model_validate({**given, **more})


def ids(store: LocalStore, window: Window | None, given: Source | None = None) -> list[str]:
    batches = Sources(lambda: store).read(given or source(), window)
    return [name for batch in batches for name in batch.column("prediction_id").to_pylist()]


def test_the_window_s_rows_are_read_in_the_order_of_time(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, answer("c", at_ns=NOON_NS + HOUR_NS), answer("other day", at_ns=NOON_NS + 24 * HOUR_NS))
    ship(tmp_path, store, answer("b"), answer("d", at_ns=NOON_NS + 12 * HOUR_NS - 1))
    ship(tmp_path, store, answer("a", at_ns=NOON_NS - 12 * HOUR_NS))
    store.reads.clear()
    assert ids(store, DAY) == ["a", "b", "c", "d"]
    assert {key.split("/")[2] for key in store.reads} == {"2030-01-01"}
    hour = Window(start=datetime(2030, 1, 1, 12, tzinfo=UTC), end=datetime(2030, 1, 1, 13, tzinfo=UTC))
    assert ids(store, hour) == ["b"]
    assert ids(store, NEXT_DAY) == ["other day"]
    assert ids(store, None) == ["a", "b", "c", "d", "other day"]


def test_batches_have_the_source_s_types(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, answer("r", [{"price": None, "age": 1.0, "shop": None}]))
    given = source({**COLUMNS, "prediction_version": "float", "prediction_shadow": "bool"})
    (batch,) = Sources(lambda: store).read(given, DAY)
    assert batch.schema.equals(schema_of(given))
    assert batch.to_pylist() == [
        {
            "prediction_time": datetime(2030, 1, 1, 12, tzinfo=UTC),
            "prediction_id": "r",
            "prediction_score": 0.25,
            "price": None,
            "shop": None,
            "prediction_version": 1.0,
            "prediction_shadow": False,
        }
    ]


def test_shadows_are_left_out_and_a_repeated_id_counts_once(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, answer("r", at_ns=NOON_NS + 5000), answer("r", role="challenger", shadow=True, at_ns=NOON_NS + 1000))
    ship(tmp_path, store, answer("r", scores=[0.5], at_ns=NOON_NS + 2000), answer("r", at_ns=NOON_NS + 24 * HOUR_NS))
    (batch,) = [batch for batch in Sources(lambda: store).read(source(), None) if batch.num_rows]
    assert batch.to_pylist()[0]["prediction_score"] == 0.5, "the first answer, in whichever segment it is"
    assert batch.num_rows == 1


def test_a_late_segment_changes_its_windows_alone(tmp_path: Path, store: Counting) -> None:
    sources, given = Sources(lambda: store), source()
    ship(tmp_path, store, answer("a"), answer("b", at_ns=NOON_NS + 24 * HOUR_NS))
    before = [sources.fingerprint(given, window) for window in (DAY, NEXT_DAY)]
    assert [sources.fingerprint(given, window) for window in (DAY, NEXT_DAY)] == before
    ship(tmp_path, store, answer("late", at_ns=NOON_NS - 1))
    after = [sources.fingerprint(given, window) for window in (DAY, NEXT_DAY)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_the_extent_is_that_of_answers(tmp_path: Path, store: Counting) -> None:
    sources, given = Sources(lambda: store), source()
    assert (sources.earliest(given), sources.latest(given)) == (None, None)
    ship(tmp_path, store, answer("shadow", shadow=True, at_ns=NOON_NS - 48 * HOUR_NS))
    assert (sources.earliest(given), sources.latest(given)) == (None, None)
    ship(tmp_path, store, answer("a"), answer("b", at_ns=NOON_NS + 30 * HOUR_NS))
    noon, later = datetime(2030, 1, 1, 12, tzinfo=UTC), datetime(2030, 1, 2, 18, tzinfo=UTC)
    assert (sources.earliest(given), sources.latest(given)) == (noon, later)


def test_the_extent_of_a_long_log_costs_its_first_and_its_last_day(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, *(answer(f"r{day}", at_ns=NOON_NS + day * 24 * HOUR_NS) for day in range(20)))
    (store._path("shop/requests/2030-02-01")).mkdir()  # all of it was removed
    store.reads.clear()
    listed: list[str] = []
    plain = store.list
    store.list = lambda prefix: listed.append(prefix) or plain(prefix)  # type: ignore[method-assign,func-returns-value]  # a spy
    assert Sources(lambda: store).latest(source()) == datetime(2030, 1, 20, 12, tzinfo=UTC)
    days = ["2030-01-01", "2030-02-01", "2030-01-20"]
    assert listed == [f"shop/requests/{day}/" for day in days]
    assert {key.split("/")[2] for key in store.reads} == {"2030-01-01", "2030-01-20"}


def test_a_column_that_a_model_lacked_is_null_and_one_that_all_lacked_is_refused(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, answer("a", [{"price": 1.0}], by=model(1, numeric=("price",), categorical=())))
    ship(tmp_path, store, answer("b", by=model(2)))
    batches = Sources(lambda: store).read(source(), DAY)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert sorted((row["prediction_id"], row["shop"] or "") for row in rows) == [("a", ""), ("b", "north")]
    with pytest.raises(DataRejected) as caught:
        ids(store, DAY, source({**COLUMNS, "colour": "string"}))
    assert str(caught.value).startswith("requests://shop: column 'colour' is not logged; there are age, prediction_entity, ")


def test_a_damaged_object_and_a_wrong_type_are_said(tmp_path: Path, store: Counting) -> None:
    ship(tmp_path, store, answer("a"))
    (key,) = store.list("shop/requests/")
    with pytest.raises(DataRejected) as caught:
        ids(store, DAY, source({**COLUMNS, "shop": "float"}))
    assert str(caught.value).startswith(f"{key}, row 1: column 'shop' must be float, got 'north'")
    store.write(key, b"no Parquet")
    with pytest.raises(DataRejected, match="is damaged"):
        ids(store, DAY)


@pytest.mark.parametrize("path", ["requests://", "requests://shop/2030", "requests://../shop"])
def test_a_path_that_names_no_pipeline_is_refused(store: Counting, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        Sources(lambda: store).fingerprint(source(path=path), DAY)
    assert str(caught.value) == (
        f"{path}: must be requests://NAME with the name of a served pipeline, such as requests://nyc_flights"
    )


def test_another_event_time_is_refused(store: Counting) -> None:
    with pytest.raises(SpecError, match="event_time must be prediction_time, got at"):
        Sources(lambda: store).latest(source({"at": "timestamp"}, event_time="at"))


def test_without_a_store_it_is_said() -> None:
    with pytest.raises(SpecError, match="made without a store"):
        Sources().latest(source())
