"""Answers are logged whole, typed and once, whatever they hold and whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import os
import threading
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.core.privacy import HASH_KEY
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.serve_specs import RequestLogSpec
from mlops_tasks.serving.decoding import BadRequest
from mlops_tasks.serving.recording import windows
from mlops_tasks.serving.recording.entities import entity_hasher, entity_key, share_of
from mlops_tasks.serving.recording.segments import FOLDER, Segment, segments
from mlops_tasks.serving.recording.session import recording
from mlops_tasks.serving.recording.shipper import Shipped, Shipper
from mlops_tasks.serving.recording.windows import read_segment, shortest_doubles
from tests.unit.serving.recorded import HOUR_NS, KEY, NOON_NS, Heard, answer, make_log, model, stored

ROW = {"price": 1.5, "age": 2.0, "shop": "north"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "requests" / "shop"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all segments on disk."""
    found = [read_segment(path.read_bytes()) for path in segments(folder)]
    assert all(not contents.damaged and not contents.torn for contents in found)
    return [row for contents in found for table in contents.days.values() for row in table.to_pylist()]


def test_an_answer_becomes_a_typed_row(folder: Path, store: LocalStore) -> None:
    log = make_log(folder)
    log.record(answer("r1", entity="customer 7", fallback="challenger failed"))
    log.close()
    assert Shipper(folder, "shop", store).ship() == Shipped(segments=1, records=1)
    assert stored(store) == [
        {
            "prediction_id": "r1",
            "prediction_time": datetime(2030, 1, 1, 12, tzinfo=UTC),
            "prediction_entity": hmac.new(KEY, b"customer 7", hashlib.sha256).hexdigest(),
            "prediction_version": 1,
            "prediction_role": "champion",
            "prediction_shadow": False,
            "prediction_fallback": "challenger failed",
            "prediction_latency_ms": 2.0,
            "prediction_score": 0.25,
            **ROW,
        }
    ]
    assert segments(folder) == []


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.none() | st.floats(width=32, allow_nan=False)
rows = st.fixed_dictionaries({"price": numbers, "age": numbers, "shop": st.none() | texts.filter(lambda t: t != "__null__")})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(texts.filter(bool), st.lists(rows, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_every_value_comes_back(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, list[dict[str, Any]]]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = make_log(folder)
    for given_id, content in asked:
        log.record(answer(given_id, content))
    log.close()
    expected = [
        {"prediction_id": given_id if len(content) == 1 else f"{given_id}:{at}", **row}
        for given_id, content in asked
        for at, row in enumerate(content)
    ]
    found = [{name: row[name] for name in ("prediction_id", "price", "age", "shop")} for row in rows_of(folder)]
    as32 = [{k: np.float32(v) if isinstance(v, float) else v for k, v in row.items()} for row in found]
    assert as32 == [{k: np.float32(v) if isinstance(v, float) else v for k, v in row.items()} for row in expected]


def test_nan_is_null_and_infinity_stays() -> None:
    values = np.array([0.1, np.nan, np.inf, -np.inf, 16777216.0, -0.0], np.float32)
    assert shortest_doubles(values).to_pylist() == [0.1, None, float("inf"), float("-inf"), 16777216.0, -0.0]


@given(st.floats(width=32, allow_nan=False))
def test_the_shortest_double_is_the_same_float32(value: float) -> None:
    found = shortest_doubles(np.array([value], np.float32))[0].as_py()
    assert np.float32(found) == np.float32(value)


def test_scores_of_several_classes_are_lists(folder: Path) -> None:
    log = make_log(folder)
    log.record(answer("r", [ROW, ROW], scores=[[0.25, 0.25, 0.5], [1, 0, 0]], by=model(classes=("a", "b", "c"))))
    log.close()
    assert [row["prediction_score"] for row in rows_of(folder)] == [[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]


def test_what_cannot_be_laid_out_is_set_aside_and_the_rest_is_shipped(folder: Path, store: LocalStore) -> None:
    heard, three = Heard(), model(2, classes=("a", "b", "c"))
    log = make_log(folder, heard)
    log.record(answer("good", [ROW], scores=[[0.25, 0.25, 0.5]], by=three))
    log.record(answer("flat", [ROW], scores=[np.nan], by=three, role="challenger", shadow=True, fallback="ValueError"))
    log.record(answer("other", [ROW]))
    log.record(answer("nested", [ROW], scores=[[0.5, 0.5]]))
    log.close()
    assert Shipper(folder, "shop", store, heard.lines.append).ship() == Shipped(segments=1, records=2, damaged=2)
    assert {row["prediction_id"] for row in stored(store)} == {"good", "other"}
    assert len(list((folder / "damaged").iterdir())) == 2
    assert "is damaged in 2 places" in heard.lines[-1]
    assert segments(folder) == []


def test_a_group_that_fails_as_a_whole_is_set_aside_too(
    folder: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(folder)
    log.record(answer("first"))
    log.record(answer("second", by=model(2)))
    log.close()
    laid_out = windows._table

    def fail_for_two(records: Any, schema: Any) -> Any:
        if schema.version == 2:
            msg = "a type that Arrow has not"
            raise pa.ArrowInvalid(msg)
        return laid_out(records, schema)

    monkeypatch.setattr(windows, "_table", fail_for_two)
    assert Shipper(folder, "shop", store).ship() == Shipped(segments=1, records=1, damaged=1)
    assert [row["prediction_id"] for row in stored(store)] == ["first"]


def test_models_with_other_columns_share_a_segment(folder: Path, store: LocalStore) -> None:
    older, newer = model(1), model(2, numeric=("price", "weight"), categorical=())
    changed = model(3, numeric=("shop",), categorical=("price",), classes=("a", "b", "c"))
    log = make_log(folder)
    log.record(answer("a", by=older))
    log.record(answer("b", [{"price": 2.5, "weight": None}], by=newer))
    log.record(answer("c", [{"price": "dear", "shop": 7.0}], by=changed, scores=[[0.5, 0.25, 0.25]]))
    log.close()
    Shipper(folder, "shop", store).ship()
    found = [{k: r[k] for k in ("prediction_id", "price", "age", "shop", "weight", "prediction_score")} for r in stored(store)]
    assert found == [
        {"prediction_id": "a", "price": "1.5", "age": 2.0, "shop": "north", "weight": None, "prediction_score": [0.25]},
        {"prediction_id": "b", "price": "2.5", "age": None, "shop": None, "weight": None, "prediction_score": [0.25]},
        {
            "prediction_id": "c",
            "price": "dear",
            "age": None,
            "shop": "7",
            "weight": None,
            "prediction_score": [0.5, 0.25, 0.25],
        },
    ]


def test_a_challenger_is_logged_with_the_columns_that_were_asked(folder: Path) -> None:
    champion, challenger = model(1), model(2, numeric=("price",))
    log = make_log(folder)
    log.record(answer("r", by=challenger, layout_of=champion, role="challenger", shadow=True))
    log.close()
    (row,) = rows_of(folder)
    assert {k: row[k] for k in ("prediction_version", "prediction_role", "prediction_shadow", "age")} == {
        "prediction_version": 2,
        "prediction_role": "challenger",
        "prediction_shadow": True,
        "age": 2.0,
    }


def test_a_segment_over_midnight_has_rows_of_two_days(folder: Path, store: LocalStore) -> None:
    log = make_log(folder)
    log.record(answer("late", at_ns=NOON_NS + 12 * HOUR_NS - 1))
    log.record(answer("early", at_ns=NOON_NS + 12 * HOUR_NS))
    log.close()
    name = segments(folder)[0].stem
    Shipper(folder, "shop", store).ship()
    assert list(store.list("shop/")) == [f"shop/requests/2030-01-0{day}/{name}.parquet" for day in (1, 2)]
    assert [row["prediction_id"] for row in stored(store)] == ["late", "early"]


def test_omitted_columns_are_not_even_on_disk(folder: Path) -> None:
    log = make_log(folder, omit=["shop", "price"])
    log.record(answer("r", [{"price": 1.5, "age": 2.0, "shop": "a secret place"}], entity="somebody"))
    log.close()
    (row,) = rows_of(folder)
    assert set(row) & set(ROW) == {"age"}
    raw = segments(folder)[0].read_bytes()
    assert b"a secret place" not in raw
    assert b"somebody" not in raw


def test_a_feature_named_like_the_log_s_own_columns_is_refused(folder: Path) -> None:
    heard = Heard()
    log = make_log(folder, heard)
    log.record(answer("r", [{"prediction_id": 1.0}], by=model(numeric=("prediction_id",), categorical=())))
    assert heard.lost == 1
    said = "feature 'prediction_id' can't be logged: names with 'prediction_' are the log's own; omit it (serve.log.omit)"
    assert heard.lines == [f"request log: {said}"]
    assert segments(folder) == []


def test_a_text_that_is_no_unicode_is_said_and_does_no_harm(folder: Path) -> None:
    heard = Heard()
    log = make_log(folder, heard)
    log.record(answer("r", fallback="\ud800"))
    log.record(answer("s"))
    log.close()
    assert heard.lost == 1
    assert [row["prediction_id"] for row in rows_of(folder)] == ["s"]


def record_at_once(log: Any, answers: list[Any]) -> list[Any]:
    """Record answers that are given in one turn of the event loop; return what each heard."""

    async def scenario() -> list[Any]:
        return await asyncio.gather(*map(log.record_together, answers), return_exceptions=True)

    return asyncio.run(scenario())


def test_answers_given_at_once_take_one_write_and_are_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, writes = make_log(folder), list[int]()
    log.record(answer("before"))
    append = Segment.append

    def counting(self: Segment, *payloads: bytes) -> None:
        writes.append(len(payloads))
        append(self, *payloads)

    monkeypatch.setattr(Segment, "append", counting)
    given = [answer(f"r{at}", by=model(1 + at % 2))._replace(together=True) for at in range(20)]
    assert record_at_once(log, given) == [None] * 20
    assert writes == [21], "one of them states the second model's schema"
    log.close()
    rows = rows_of(folder)
    assert sorted(row["prediction_id"] for row in rows) == sorted(["before", *(f"r{at}" for at in range(20))])
    assert {row["prediction_version"] for row in rows if row["prediction_id"] in {"r1", "r19"}} == {2}
    timed = {row["prediction_id"] for row in rows if row["prediction_latency_ms"] is not None}
    assert timed == {"before"}, "the time of a call for several says nothing of one"


def test_of_answers_given_at_once_only_the_one_that_cannot_be_written_is_lost(folder: Path) -> None:
    heard = Heard()
    log = make_log(folder, heard)
    assert record_at_once(log, [answer("r"), answer("s", fallback="\ud800"), answer("t")]) == [None] * 3
    log.close()
    assert heard.lost == 1
    assert sorted(row["prediction_id"] for row in rows_of(folder)) == ["r", "t"]


@pytest.mark.parametrize("when_full", ["fail_open", "fail_closed"])
def test_a_full_disk_is_told_to_all_that_were_given_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when_full: str
) -> None:
    heard = Heard()
    log = make_log(folder, heard, when_full=when_full)
    log.record(answer("before"))

    disk = FullDisk(monkeypatch, 0)
    got = record_at_once(log, [answer(f"r{at}") for at in range(5)])
    disk.space = 10**9
    if when_full == "fail_open":
        assert (got, heard.lost) == ([None] * 5, 5)
    else:
        assert [(type(error), error.status) for error in got] == [(BadRequest, 503)] * 5
    assert record_at_once(log, [answer("after"), answer("later")]) == [None] * 2
    log.close()
    assert sorted(row["prediction_id"] for row in rows_of(folder)) == ["after", "before", "later"]


def test_a_sample_keeps_whole_entities_and_all_of_a_challenger(folder: Path) -> None:
    log = make_log(folder, sample=0.3)
    entities = [f"customer {at}" for at in range(400)]
    for turn in range(2):
        for entity in entities:
            log.record(answer(f"{entity}/{turn}", entity=entity))
    for entity in entities[:50]:
        log.record(answer(f"{entity}/c", entity=entity, role="challenger"))
    log.close()
    kept = [row["prediction_id"] for row in rows_of(folder)]
    chosen = {entity for entity in entities if share_of(entity) < 0.3}
    assert 80 < len(chosen) < 160
    assert {name.split("/")[0] for name in kept if name.endswith(("0", "1"))} == chosen
    assert sum(name.endswith("c") for name in kept) == 50
    assert len(kept) == 2 * len(chosen) + 50


def test_a_segment_ends_by_size_and_by_age(folder: Path) -> None:
    log = make_log(folder, segment_mb=1, segment_age="1s")
    wide = {**ROW, "shop": "x" * 400_000}
    for at in range(3):
        log.record(answer(f"r{at}", [wide]))
    log.record(answer("r3"))
    assert len(segments(folder)) == 2
    deadline = time.monotonic() + 30
    while log._segment is not None and time.monotonic() < deadline:
        log.tend()
        time.sleep(0.05)
    log.record(answer("r4"))
    assert len(segments(folder)) == 3
    log.close()
    assert sorted(row["prediction_id"] for row in rows_of(folder)) == ["r0", "r1", "r2", "r3", "r4"]


def test_what_is_being_written_is_not_shipped(folder: Path, store: LocalStore) -> None:
    log, shipper = make_log(folder), Shipper(folder, "shop", store)
    log.record(answer("r"))
    assert shipper.ship() == Shipped()
    log.close()
    assert shipper.ship() == Shipped(segments=1, records=1)
    assert shipper.ship() == Shipped()


class FullDisk:
    """An `os.write` that takes as many bytes as there is space for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
        self.space, self._write = space, os.write
        monkeypatch.setattr("mlops_tasks.serving.recording.segments.os.write", self)

    def __call__(self, file: int, data: bytes) -> int:
        if not self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(file, data[: self.space])
        self.space -= written
        return written


@pytest.mark.parametrize("space", [0, 1, 17, 100])
def test_a_full_disk_loses_what_it_says_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
    heard = Heard()
    log = make_log(folder, heard)
    log.record(answer("before"))
    disk = FullDisk(monkeypatch, space)
    for at in range(3):
        log.record(answer(f"lost {at}"))
    disk.space = 10**9
    log.record(answer("after"))
    log.close()
    assert [row["prediction_id"] for row in rows_of(folder)] == ["before", "after"]
    assert heard.lost == 3
    assert heard.lines == [
        f"request log: {folder} can't be written: No space left on device; free some space or mend the disk",
        "request log: is written again; 3 answers were not logged",
    ]


def test_fail_closed_gives_no_answer_that_is_not_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    log = make_log(folder, heard, when_full="fail_closed")
    disk = FullDisk(monkeypatch, 30)
    with pytest.raises(BadRequest) as caught:
        log.record(answer("r"))
    assert caught.value.status == 503
    assert str(caught.value) == (
        "the request log can't be written, and no answer is given that is not logged: "
        f"{folder} can't be written: No space left on device; free some space or mend the disk"
    )
    disk.space = 10**9
    log.record(answer("r2"))
    log.close()
    assert [row["prediction_id"] for row in rows_of(folder)] == ["r2"]
    assert heard.lost == 0


@pytest.mark.parametrize("when_full", ["fail_closed", "fail_open"])
def test_it_says_that_requests_are_refused_and_finds_out_by_itself_that_they_no_longer_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when_full: str
) -> None:
    heard = Heard()
    log = make_log(folder, heard, when_full=when_full)
    assert log.refusing == ""
    disk = FullDisk(monkeypatch, 0)
    with pytest.raises(BadRequest) if when_full == "fail_closed" else nullcontext():
        log.record(answer("lost"))
    log.tend()
    assert ("No space left on device" in log.refusing) == (when_full == "fail_closed")
    disk.space = 10**9
    log.tend()
    assert log.refusing == ""
    assert heard.lines[-1].startswith("request log: is written again")
    assert [path.name for path in folder.iterdir()] == []
    log.close()


def test_a_log_that_is_full_of_what_was_there_before_says_so_before_anybody_asks(folder: Path) -> None:
    log = make_log(folder, keep=1, segment_mb=1, when_full="fail_closed")
    wide = {**ROW, "shop": "x" * 1_100_000}
    log.record(answer("r", [wide]))
    log.close()
    begun = make_log(folder, keep=1, when_full="fail_closed")
    begun.tend()
    assert "more than 1 MB wait for upload" in begun.refusing


def test_one_text_that_cannot_be_logged_makes_nobody_wait(folder: Path) -> None:
    log = make_log(folder, when_full="fail_closed")
    with pytest.raises(BadRequest):
        log.record(answer("r", [{**ROW, "shop": "\ud800"}]))
    assert log.refusing == ""


def test_a_log_that_nobody_ships_is_full_at_its_limit(folder: Path, store: LocalStore) -> None:
    heard = Heard()
    log = make_log(folder, heard, keep=1, segment_mb=1)
    wide = {**ROW, "shop": "x" * 300_000}
    for at in range(6):
        log.record(answer(f"r{at}", [wide]))
    assert heard.lost == 2
    assert "more than 1 MB wait for upload (serve.log.keep)" in heard.lines[0]
    log.tend()
    assert heard.waits[-1][0] == 1
    assert heard.waits[-1][1] > 1_000_000
    Shipper(folder, "shop", store).ship()
    log.tend()
    log.record(answer("after"))
    log.close()
    assert [row["prediction_id"] for row in rows_of(folder)] == ["after"]
    assert [row["prediction_id"] for row in stored(store)] == ["r0", "r1", "r2", "r3"]


def test_damage_is_set_aside_and_said(folder: Path, store: LocalStore) -> None:
    log = make_log(folder)
    for at in range(3):
        log.record(answer(f"r{at}"))
    log.close()
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    data[data.index(b'["r1"') + 2] ^= 1
    path.write_bytes(bytes(data) + data[16:20])
    heard = Heard()
    done = Shipper(folder, "shop", store, heard.lines.append).ship()
    assert done == Shipped(segments=1, records=2, damaged=1)
    assert [row["prediction_id"] for row in stored(store)] == ["r0", "r2"]
    (aside,) = (folder / "damaged").iterdir()
    assert b'["s1"' in aside.read_bytes()
    assert "is damaged in 1 places" in heard.lines[0]
    assert "its other 2 records are shipped" in heard.lines[0]
    assert "ends in 4 bytes of a record that was never acknowledged" in heard.lines[1]


def test_a_record_whose_schema_is_damaged_is_kept(folder: Path, store: LocalStore) -> None:
    log = make_log(folder)
    log.record(answer("r"))
    log.close()
    (path,) = segments(folder)
    data = bytearray(path.read_bytes())
    data[data.index(b'"numeric"')] ^= 1
    path.write_bytes(data)
    assert Shipper(folder, "shop", store).ship() == Shipped(segments=1, records=0, damaged=2)
    assert any(b'["r",""' in aside.read_bytes() for aside in (folder / "damaged").iterdir())


def test_other_rows_under_the_key_are_not_replaced(folder: Path, store: LocalStore) -> None:
    log = make_log(folder)
    log.record(answer("r"))
    log.close()
    (path,) = segments(folder)
    key = f"shop/requests/2030-01-01/{path.stem}.parquet"
    store.write(key, b"something else")
    heard = Heard()
    assert Shipper(folder, "shop", store, heard.lines.append).ship() == Shipped(damaged=1)
    assert store.read(key) == b"something else"
    assert [row["prediction_id"] for row in rows_of(folder / "damaged")] == ["r"]
    assert "is in the store with other rows than the segment has" in heard.lines[0]


def test_a_segment_in_the_making_goes_when_its_maker_is_gone(folder: Path, store: LocalStore) -> None:
    folder.mkdir(parents=True)
    old, fresh = folder / "a-1-000001.new", folder / "b-1-000001.new"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))
    Shipper(folder, "shop", store).ship()
    assert [path.name for path in folder.iterdir()] == [fresh.name]


def test_a_segment_without_records_leaves_nothing(folder: Path) -> None:
    Segment(folder, "a-1-000001").close()
    assert list(folder.iterdir()) == []


def test_the_key_of_entities(tmp_path: Path) -> None:
    heard = Heard()
    assert entity_key(tmp_path, {HASH_KEY: "x" * 20}, heard.lines.append) == b"x" * 20
    assert heard.lines == []
    kept = entity_key(tmp_path, {}, heard.lines.append)
    assert entity_key(tmp_path, {}, heard.lines.append) == kept
    assert (tmp_path / "entity.key").stat().st_mode & 0o077 == 0
    assert heard.lines[0].startswith("MLOPS_HASH_KEY is not set: entities in the request log are hashed with a key of this log")
    with pytest.raises(SpecError, match="must have at least 16 characters, got 5"):
        entity_key(tmp_path, {HASH_KEY: "short"}, heard.lines.append)


def test_a_pipeline_that_logs_nothing_starts_nothing(folder: Path) -> None:
    before = threading.active_count()
    with recording("shop", RequestLogSpec(enabled=False), environ={FOLDER: str(folder)}) as recorder:
        recorder.record(answer("r"))
        assert threading.active_count() == before
    assert not folder.exists()


def test_the_log_s_folder_that_can_t_be_written_is_said(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file, no folder")
    with (
        pytest.raises(StoreUnavailable, match=r"request log .*: entity.key can't be kept: .*; check the folder and its rights"),
        recording("shop", RequestLogSpec(), environ={FOLDER: str(taken)}),
    ):
        pass


@given(st.binary(min_size=16, max_size=200), st.text())
def test_entities_are_hashed_as_rfc_2104_says(key: bytes, entity: str) -> None:
    expected = hmac.digest(key, entity.encode("utf-8", "surrogatepass"), "sha256")
    assert entity_hasher(key)(entity) == expected


def test_an_entity_that_is_a_hash_already_stays(folder: Path) -> None:
    log = make_log(folder)
    log.record(answer("r", entity="ab" * 32))
    log.close()
    assert rows_of(folder)[0]["prediction_entity"] == "ab" * 32
