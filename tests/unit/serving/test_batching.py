"""Requests that are under way together, and what each of them gets."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.serving.batching import MOST_ROWS, Batcher, Scored
from mlops_tasks.serving.slot import LoadedModel, load_folder
from tests.judged_models import write_beside
from tests.stuck_models import Stuck

if TYPE_CHECKING:
    from pathlib import Path

ARRAYS = (np.array([[1.5, 2.0]], dtype=np.float32), np.array([["north"]], dtype=object))


@dataclass
class Doubling:
    """A model that doubles its only number, fails where that is negative, and knows the rows of each of its calls."""

    signature: Any = None
    calls: list[int] = field(default_factory=list)
    too_few: bool = False

    def score_arrays(self, numeric: np.ndarray, _: object) -> np.ndarray:
        self.calls.append(len(numeric))
        if (numeric < 0).any():
            raise ValueError(numeric)
        return (numeric[:, 0] * 2)[: 1 if self.too_few else None]


def model_of(scorer: Any, version: int = 1) -> LoadedModel:
    return LoadedModel("shop", version, scorer, None, {}, {})  # type: ignore[arg-type]  # nothing is proven here


def rows(*numbers: float) -> Any:
    return np.array(numbers, dtype=np.float32).reshape(-1, 1), None


async def score_all(batcher: Batcher, asked: list[tuple[LoadedModel, Any]], **more: Any) -> list[Any]:
    return await asyncio.gather(*(batcher.score(model, arrays, **more) for model, arrays in asked), return_exceptions=True)


def ask(*asked: tuple[LoadedModel, Any], under_way: int = 9, **more: Any) -> list[Any]:
    return asyncio.run(score_all(Batcher(lambda: under_way), list(asked), **more))


def test_requests_under_way_are_scored_by_one_call() -> None:
    model, other = Doubling(), Doubling()
    same = model_of(model)
    first, second, third, _ = ask((same, rows(1)), (same, rows(2, 3)), (same, rows(4)), (model_of(other, 2), rows(5)))
    assert (model.calls, other.calls) == ([4], [1])
    assert [got.scores.tolist() for got in (first, second, third)] == [[2], [4, 6], [8]]
    assert all(got.together for got in (first, second, third))
    assert first.took_s == second.took_s == third.took_s > 0


@pytest.mark.parametrize(("under_way", "alone"), [(1, False), (9, True)], ids=["nobody else there", "wanted"])
def test_a_request_is_scored_at_once_where_nobody_is_to_be_waited_for(under_way: int, alone: bool) -> None:
    model = Doubling()
    same = model_of(model)
    got = ask((same, rows(1)), (same, rows(2)), under_way=under_way, alone=alone)
    assert model.calls == [1, 1]
    assert not any(scored.together for scored in got)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, MOST_ROWS + 5), min_size=1, max_size=30))
def test_whatever_comes_together_each_gets_its_own_rows(sizes: list[int]) -> None:
    model, ends = Doubling(), np.cumsum(sizes)
    same = model_of(model)
    parts = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    got = ask(*((same, rows(*part)) for part in parts))
    for part, scored in zip(parts, got, strict=True):
        np.testing.assert_array_equal(scored.scores, part * 2)
    assert sum(model.calls) == ends[-1]
    assert all(size <= MOST_ROWS or size in sizes for size in model.calls)


def test_one_that_fails_fails_alone() -> None:
    same = model_of(Doubling())
    first, failed, last = ask((same, rows(1)), (same, rows(-1)), (same, rows(3)))
    assert [first.scores.tolist(), last.scores.tolist()] == [[2], [6]]
    assert isinstance(failed, ValueError)


def test_scores_that_are_not_one_for_each_row_are_given_to_nobody() -> None:
    model = Doubling(too_few=True)
    same = model_of(model)
    first, second = ask((same, rows(1)), (same, rows(2)))
    assert model.calls == [2, 1, 1]
    assert [first.scores.tolist(), second.scores.tolist()] == [[2], [4]]


def test_a_client_that_goes_away_leaves_the_others_their_answers() -> None:
    model = Doubling()
    same, batcher = model_of(model), Batcher(lambda: 9)

    async def scenario() -> list[Any]:
        tasks = [asyncio.create_task(batcher.score(same, rows(number))) for number in (1, 2, 3)]
        await asyncio.sleep(0)  # all wait now
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, gone, last = asyncio.run(scenario())
    assert [first.scores.tolist(), last.scores.tolist()] == [[2], [6]]
    assert isinstance(gone, asyncio.CancelledError)


def test_a_single_row_that_takes_a_large_model_long_holds_nobody_else_up(tmp_path: Path) -> None:
    write_beside(tmp_path)
    model = load_folder(tmp_path, "shop", 1, tags={}, promotion={})
    stuck = Stuck(model.signature)
    large = replace(model, scorer=stuck)  # type: ignore[arg-type]  # all that is called is there

    async def scenario() -> Scored:
        asked = asyncio.create_task(Batcher(lambda: 1).score(large, ARRAYS))
        await asyncio.sleep(0)  # it is asked now
        stuck.go.set()
        return await asked

    assert asyncio.run(scenario()).scores == [0.5]


@pytest.mark.parametrize(("row_s", "waits"), [(1.0, True), (1e-9, False)], ids=["slow", "quick"])
def test_many_rows_leave_the_event_loop_if_they_take_long(row_s: float, waits: bool) -> None:
    threads = []

    class Seen(Doubling):
        def score_arrays(self, numeric: np.ndarray, _: object) -> np.ndarray:
            threads.append(threading.current_thread() is not threading.main_thread())
            return super().score_arrays(numeric, _)

    ask((replace(model_of(Seen()), row_s=row_s), rows(*range(MOST_ROWS + 1))))
    assert threads == [waits]
