from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.core.collection import (
    TIMESTAMP,
    drop_duplicates,
    order_by_time,
    order_totally,
    split_by_window,
    write_rows,
)
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import DataRejected
from mlops_tasks.specs import Source

START = datetime(2024, 1, 1, tzinfo=UTC)
SOURCE = Source.model_validate({"path": "x", "event_time": "at", "columns": {"at": "timestamp", "user": "string", "n": "int"}})
ROWS = st.lists(st.tuples(st.integers(0, 95), st.sampled_from(["a", "b", None]), st.integers(0, 9)), max_size=40)


def table(rows: list[tuple[int, str | None, int]]) -> pa.Table:
    return pa.table(
        {
            "at": pa.array([START + timedelta(hours=hour) for hour, _, _ in rows], TIMESTAMP),
            "user": pa.array([user for _, user, _ in rows], pa.string()),
            "n": pa.array([n for _, _, n in rows], pa.int64()),
        }
    )


@settings(deadline=None)
@given(ROWS)
def test_split_loses_and_doubles_nothing(rows: list[tuple[int, str | None, int]]) -> None:
    windows = windows_between(START, START + timedelta(days=4), "day")
    ordered = order_by_time(table(rows), "at")
    parts = split_by_window(ordered, "at", windows)
    assert pa.concat_tables(parts).to_pylist() == ordered.to_pylist()
    for window, part in zip(windows, parts, strict=True):
        assert all(window.start <= at < window.end for at in part["at"].to_pylist())


@settings(deadline=None)
@given(ROWS)
def test_ordering_by_time_keeps_the_order_of_equal_times(rows: list[tuple[int, str | None, int]]) -> None:
    expected = sorted(table(rows).to_pylist(), key=lambda row: row["at"])
    assert order_by_time(table(rows), "at").to_pylist() == expected


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_total_order_forgets_the_order_it_was_given(rows: list[tuple[int, str | None, int]], shuffler: random.Random) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert order_totally(table(shuffled), "at").equals(order_totally(table(rows), "at"))


@settings(deadline=None)
@given(ROWS)
def test_duplicates_keep_the_last_or_the_first(rows: list[tuple[int, str | None, int]]) -> None:
    last = {(hour, user): n for hour, user, n in rows}
    first = {(hour, user): n for hour, user, n in reversed(rows)}
    for rule, wanted in (("keep_last", last), ("keep_first", first)):
        kept = drop_duplicates(table(rows), SOURCE, ["user"], rule)  # type: ignore[arg-type] # a literal in a tuple is widened
        got = {((row["at"] - START) // timedelta(hours=1), row["user"]): row["n"] for row in kept.to_pylist()}
        assert got == wanted
        assert kept.num_rows == len(wanted)


def test_rejected_duplicates_are_named_with_what_to_do() -> None:
    with pytest.raises(DataRejected) as caught:
        drop_duplicates(table([(1, "a", 1), (2, "b", 1), (1, "a", 2), (2, "b", 2)]), SOURCE, ["user"], "reject")
    assert str(caught.value) == (
        "2 rows repeat the key (user, at) of an earlier row, the first at user='a', at=2024-01-01T01:00:00Z; "
        "mend the source, or set collect.duplicates to keep_last or keep_first"
    )


def test_rejected_duplicates_show_no_private_value() -> None:
    columns = {"at": "timestamp", "user": {"type": "string", "privacy": "private"}, "n": "int"}
    source = Source.model_validate({"path": "x", "event_time": "at", "columns": columns})
    with pytest.raises(DataRejected) as caught:
        drop_duplicates(table([(1, "anna", 1), (1, "anna", 2)]), source, ["user"], "reject")
    assert "user not shown" in str(caught.value)
    assert "anna" not in str(caught.value)


def test_same_rows_give_same_bytes_whatever_their_chunks(tmp_path: Path) -> None:
    whole = table([(hour, "a", hour) for hour in range(50)])
    write_rows(whole, tmp_path / "a.parquet")
    write_rows(pa.concat_tables([whole.slice(0, 7), whole.slice(7)]), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
