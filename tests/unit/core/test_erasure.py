"""What is erased is in no file of the log any more, whoever is killed, late or at it too; all else is there once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import Window
from mlops_tasks.core.erasure import Erasure, apply_erasures, days_of_erasure, read_erasures, write_down
from mlops_tasks.core.request_log import logged_days, remove_old
from mlops_tasks.core.rollout.trials import read_log
from mlops_tasks.errors import DataRejected, StoreUnavailable
from mlops_tasks.serving.recording.entities import entity_hasher
from mlops_tasks.serving.recording.segments import segments
from mlops_tasks.serving.recording.shipper import Shipper
from mlops_tasks.specs import Source
from tests.unit.serving.recorded import HOUR_NS, KEY, NOON_NS, answer, make_log, model, stored

ANN, BOB = (entity_hasher(KEY)(name).hex() for name in ("ann", "bob"))
DAY_NS = 24 * HOUR_NS
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=30)
TWO = [{"price": 1.5, "age": 2.0, "shop": "north"}] * 2
SOURCE = Source.model_validate(
    {
        "path": "requests://shop",
        "event_time": "prediction_time",
        "columns": {"prediction_time": "timestamp", "prediction_id": "string"},
    }
)


class Killed(Exception):
    """The process is gone."""


class Dying(LocalStore):
    """A store whose user is killed just before a change."""

    def __init__(self, root: Path, before: int) -> None:
        super().__init__(root)
        self.left = before

    def _change(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1

    def write(self, key: str, data: bytes) -> None:
        self._change()
        super().write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self._change()
        return super().create(key, data)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)


def ship(tmp_path: Path, store: LocalStore, *answers: Any) -> None:
    log = make_log(tmp_path / "requests")
    for given in answers:
        log.record(given)
    log.close()
    Shipper(tmp_path / "requests", "shop", store).ship()


def fill(tmp_path: Path, store: LocalStore) -> None:
    """Log three days in two segments: of Ann, of Bob and of others, shadows and another model's too."""
    ship(
        tmp_path,
        store,
        answer("a1", entity="ann"),
        answer("a1", entity="ann", role="challenger", shadow=True, by=model(2, numeric=("price",))),
        answer("b1", entity="bob"),
        answer("many", TWO, entity="many"),
        answer("a2", entity="ann", at_ns=NOON_NS + 2 * DAY_NS),
    )
    ship(tmp_path, store, answer("c1", entity="carl", at_ns=NOON_NS + DAY_NS), answer("a3", entity="ann", at_ns=NOON_NS + 1000))
    ship(tmp_path, store, answer("c2", entity="carl", at_ns=NOON_NS + 2 * DAY_NS))


OTHERS = Counter({"b1": 1, "many:0": 1, "many:1": 1, "c1": 1, "c2": 1})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "store")
    fill(tmp_path, made)
    return made


def ids(store: LocalStore) -> Counter[str]:
    return Counter(row["prediction_id"] for row in stored(store))


def read_ids(store: LocalStore) -> Counter[str]:
    """Return what a pipeline reads that has the log as its source."""
    batches = Sources(lambda: store).read(SOURCE, None)
    return Counter(name for batch in batches for name in batch.column("prediction_id").to_pylist())


def judged_ids(store: LocalStore) -> Counter[str]:
    log = read_log(store, "shop", Window(start=NOON - timedelta(days=1), end=NOON + timedelta(days=9)), (1, 2))
    return Counter(log["prediction_id"].to_pylist())


def erase(store: LocalStore, erasure: Erasure) -> Any:
    write_down(store, "shop", erasure)
    return apply_erasures(store, "shop")


def test_an_entity_is_gone_from_every_file_and_nothing_else_is(store: LocalStore) -> None:
    before = [row for row in stored(store) if row["prediction_entity"] != ANN]
    windows = [
        Window(start=NOON - timedelta(hours=12) + timedelta(days=d), end=NOON + timedelta(hours=12, days=d)) for d in (0, 1)
    ]
    prints = [Sources(lambda: store).fingerprint(SOURCE, window) for window in windows]
    erasure = Erasure(at=LATER, entities=(ANN,))
    done = erase(store, erasure)
    assert (done.rows, done.files, done.days) == (4, 3, {date(2030, 1, 1), date(2030, 1, 3)})
    key = lambda row: (row["prediction_id"], row["prediction_shadow"])  # noqa: E731 - short
    assert sorted(stored(store), key=key) == sorted(before, key=key)
    assert ids(store) == OTHERS
    changed = [Sources(lambda: store).fingerprint(SOURCE, window) for window in windows]
    assert (changed[0] != prints[0], changed[1] == prints[1]) == (True, True), "windows of those days are collected anew"
    again = erase(store, Erasure(at=LATER + timedelta(days=1), entities=(ANN,)))
    assert (again.rows, again.files) == (0, 0)
    assert days_of_erasure(store, "shop", erasure) == [date(2030, 1, 1), date(2030, 1, 3)], "still known"


@pytest.mark.parametrize(
    ("given", "gone"), [("many", {"many:0", "many:1"}), ("many:1", {"many:1"}), ("b1", {"b1"}), ("b", set())]
)
def test_an_id_is_a_row_or_a_whole_request(store: LocalStore, given: str, gone: set[str]) -> None:
    before = ids(store)
    assert erase(store, Erasure(at=LATER, ids=(given,))).rows == len(gone)
    assert before.keys() - ids(store).keys() == gone


def test_who_comes_back_is_logged_again(tmp_path: Path, store: LocalStore) -> None:
    erase(store, Erasure(at=NOON + timedelta(days=1), entities=(ANN,)))
    assert {name for name in ids(store) if name.startswith("a")} == {"a2"}
    ship(tmp_path, store, answer("a4", entity="ann", at_ns=NOON_NS + 3 * DAY_NS))
    assert "a4" in ids(store)


def test_counting_changes_nothing(store: LocalStore) -> None:
    before = {key: store.read(key) for key in store.list("")}
    assert apply_erasures(store, "shop", dry=[Erasure(at=LATER, entities=(ANN,))]).rows == 4
    assert {key: store.read(key) for key in store.list("")} == before


def test_what_is_shipped_late_meets_the_erasure(tmp_path: Path, store: LocalStore) -> None:
    erase(store, Erasure(at=LATER, entities=(ANN,), ids=("late",)))
    ship(tmp_path, store, answer("a9", entity="ann"), answer("late"), answer("d1", entity="dan"))
    ship(tmp_path, store, answer("a8", entity="ann"))
    assert segments(tmp_path / "requests") == []
    assert ids(store) == OTHERS + Counter({"d1": 1})


def test_what_is_being_shipped_while_it_is_written_down_meets_it_too(tmp_path: Path, store: LocalStore) -> None:
    class Erasing(LocalStore):
        """A store in which somebody is erased after the shipper looked, and before it stores."""

        def create(self, key: str, data: bytes) -> bool:
            if "/requests/" in key and not read_erasures(store, "shop"):
                erase(store, Erasure(at=LATER, entities=(ANN,)))
            return super().create(key, data)

    ship(tmp_path, Erasing(tmp_path / "store"), answer("a9", entity="ann"), answer("d1", entity="dan"))
    assert ids(store) == OTHERS + Counter({"d1": 1})


def test_a_segment_that_was_stored_before_its_shipper_was_killed_is_not_stored_again(tmp_path: Path, store: LocalStore) -> None:
    log = make_log(tmp_path / "requests")
    for given in (answer("a9", entity="ann"), answer("d1", entity="dan")):
        log.record(given)
    log.close()
    (path,) = segments(tmp_path / "requests")
    left = path.read_bytes()
    Shipper(tmp_path / "requests", "shop", store).ship()
    path.write_bytes(left)  # as if it had been killed before it removed it
    erase(store, Erasure(at=LATER, entities=(ANN,)))
    shipped = Shipper(tmp_path / "requests", "shop", store).ship()
    assert (shipped.segments, shipped.damaged) == (1, 0)
    assert ids(store) == OTHERS + Counter({"d1": 1})
    path.write_bytes(left)
    write_down(store, "shop", Erasure(at=LATER, ids=("d1",)))  # and nobody applied it yet
    assert Shipper(tmp_path / "requests", "shop", store).ship().damaged == 0
    assert apply_erasures(store, "shop").rows == 1
    assert ids(store) == OTHERS


def test_killed_before_any_change_the_next_try_ends_it_and_readers_lose_nothing(tmp_path: Path, store: LocalStore) -> None:
    files = {key: store.read(key) for key in store.list("")}
    for moment in range(100):
        dying = Dying(tmp_path / f"store-{moment}", moment)
        for key, data in files.items():
            LocalStore(tmp_path / f"store-{moment}").write(key, data)
        try:
            erase(dying, Erasure(at=LATER, entities=(ANN,)))
        except Killed:
            mine = {name: count for name, count in read_ids(dying).items() if not name.startswith("a")}
            assert mine == OTHERS, "a pipeline reads the file or what is left of it, and each id once"
            assert OTHERS <= judged_ids(dying) <= judged_ids(store), "and so does who judges a challenger"
            dying.left = 1000
            erase(dying, Erasure(at=LATER, entities=(ANN,)))
            assert ids(dying) == OTHERS
            assert days_of_erasure(dying, "shop", Erasure(at=LATER, entities=(ANN,))) == [date(2030, 1, 1), date(2030, 1, 3)]
            continue
        break
    assert moment == 7, "written down; two days noted; one file put anew and removed, two removed"


def test_two_who_erase_at_once_both_succeed(tmp_path: Path, store: LocalStore) -> None:
    class Meanwhile(LocalStore):
        """A store in which somebody else erases Bob while what is left without Ann is put."""

        def create(self, key: str, data: bytes) -> bool:
            made = super().create(key, data)
            if "~" in key and len(read_erasures(store, "shop")) == 1:
                erase(store, Erasure(at=LATER, entities=(BOB,)))
            return made

    erase(Meanwhile(tmp_path / "store"), Erasure(at=LATER, entities=(ANN,)))
    assert ids(store) == OTHERS - Counter({"b1": 1})


def test_a_damaged_file_is_said_when_all_others_are_done(store: LocalStore) -> None:
    key = next(key for key in store.list("shop/requests/2030-01-01/"))
    store.write(key, b"PAR1 no more")
    with pytest.raises(DataRejected) as caught:
        erase(store, Erasure(at=LATER, entities=(ANN,)))
    assert str(caught.value).startswith(f"request log of shop: 1 files are damaged, such as {key}, and may hold what was to be")
    store.delete(key)
    assert erase(store, Erasure(at=LATER, entities=(ANN,))).rows == 0
    assert all(row["prediction_entity"] != ANN for row in stored(store))


def test_a_store_that_keeps_something_else_loses_nothing(tmp_path: Path, store: LocalStore) -> None:
    class Lying(LocalStore):
        def create(self, key: str, data: bytes) -> bool:
            return super().create(key, data[:-1] if "~" in key else data)

    with pytest.raises(StoreUnavailable, match="does not hold what was put there"):
        erase(Lying(tmp_path / "store"), Erasure(at=LATER, entities=(ANN,)))
    for key in list(store.list("shop/requests/")):
        if "~" in key:
            store.delete(key)
    assert ids(store) >= OTHERS


def test_old_days_go_and_a_day_that_is_not_old_as_a_whole_stays(store: LocalStore) -> None:
    assert remove_old(store, "shop", datetime(2030, 1, 1, 23, 59, tzinfo=UTC)) == (0, [])
    done = remove_old(store, "shop", datetime(2030, 1, 3, 12, tzinfo=UTC))
    assert done == (3, [date(2030, 1, 1), date(2030, 1, 2)])
    assert ids(store) == Counter({"a2": 1, "c2": 1})
    assert logged_days(store, "shop")[-1] == date(2030, 1, 3)
    assert Sources(lambda: store).earliest(SOURCE) == NOON + timedelta(days=2)
