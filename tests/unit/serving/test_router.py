from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlops_tasks.serve_specs import ChallengerSpec
from mlops_tasks.serving.batching import Batcher
from mlops_tasks.serving.decoding import BadRequest, Layout
from mlops_tasks.serving.predictions import Prediction, Query
from mlops_tasks.serving.router import SHADOWS_AT_ONCE, TIMED_IN_SHADOW, Router, place_of, relaid, shape_of
from mlops_tasks.serving.slot import LoadedModel, Slot, load_folder
from mlops_tasks.serving.telemetry import NoTelemetry
from tests.judged_models import write_model
from tests.stuck_models import Stuck

if TYPE_CHECKING:
    from pathlib import Path

ALL = 99.9999
"""Percent; a canary of all would leave the champion nothing to be compared by."""
ARRAYS = (np.array([[1.5, 2.0]], dtype=np.float32), np.array([["north"]], dtype=object))


class Recorded:
    """Keeps what is recorded."""

    refusing = ""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []

    def record(self, prediction: Prediction) -> None:
        self.predictions.append(prediction)

    async def record_together(self, prediction: Prediction) -> None:
        self.record(prediction)


class Counted(NoTelemetry):
    """Counts what is dropped."""

    lost = 0

    def dropped(self, records: int) -> None:
        self.lost += records


@dataclass(frozen=True)
class Broken:
    """A model that fails, or gives what it is told to."""

    signature: Any
    gives: Any = None

    def score_arrays(self, *_: object) -> np.ndarray:
        if self.gives is None:
            msg = "out of order"
            raise RuntimeError(msg)
        return np.array(self.gives, dtype=np.float32)


class Serving:
    """A champion, a challenger and the router between them."""

    def __init__(self, folder: Path, spec: ChallengerSpec) -> None:
        self.models = []
        for version in (1, 2):
            write_model(folder / str(version), bias=version / 10)
            self.models.append(load_folder(folder / str(version), "shop", version, tags={}, promotion={}))
        self.slot, self.recorded, counted = Slot("shop", self.models[0], self.models[1]), Recorded(), Counted()
        self.counted, self.under_way = counted, 1
        self.router = Router(self.slot, spec, self.recorded, counted, Batcher(lambda: self.under_way))

    def query(self, entity: str = "somebody", *, pinned: LoadedModel | None = None) -> Query:
        return Query(f"id-{entity}", entity, ARRAYS, pinned or self.models[0], pinned=pinned is not None)

    def answer(self, query: Query) -> Prediction:
        async def scenario() -> Prediction:
            prediction = await self.router.answer(query)
            await self.router.drain()
            return prediction

        return asyncio.run(scenario())

    def break_challenger(self, gives: Any = None, **signature: Any) -> None:
        self.put_challenger(Broken(self.models[1].signature.model_copy(update=signature), gives))

    def put_challenger(self, scorer: Any) -> None:
        self.slot.challenger = replace(self.models[1], scorer=scorer)


def test_a_canary_gets_its_share_of_the_entities_and_always_the_same_ones(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="canary", percent=10))
    entities = [f"entity-{at}" for at in range(2000)]
    chosen = {entity for entity in entities if serving.answer(serving.query(entity)).role == "challenger"}
    assert 150 < len(chosen) < 250  # 200 expected, four standard deviations of 13
    again = {entity for entity in entities if serving.answer(serving.query(entity)).role == "challenger"}
    assert again == chosen
    assert chosen == {entity for entity in entities if place_of(entity, 2) < 0.1}
    assert {entity for entity in entities if place_of(entity, 3) < 0.1} != chosen
    assert all(0 <= place_of(entity, 2) < 1 for entity in entities)


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_times_that_are_compared_are_those_of_requests_that_were_scored_alone(tmp_path: Path, mode: Any) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode=mode, percent=20))
    serving.under_way = 50
    entities = [f"entity-{at}" for at in range(50)]

    async def scenario() -> list[Prediction]:
        return await asyncio.gather(*(serving.router.answer(serving.query(entity)) for entity in entities))

    for prediction in asyncio.run(scenario()):
        place = place_of(prediction.query.entity, 2)
        assert prediction.role == ("challenger" if mode == "canary" and place < 0.2 else "champion")
        assert prediction.together == (place >= (0.4 if mode == "canary" else TIMED_IN_SHADOW))


@pytest.mark.parametrize(
    ("gives", "why"),
    [
        (None, "RuntimeError"),
        ([float("nan")], "its scores are no finite numbers"),
        ([0.5, 0.5], "its scores have the shape [2], not [1]"),
        ([], "its scores have the shape [0], not [1]"),
        ([[0.5]], "its scores have the shape [1, 1], not [1]"),
    ],
    ids=["raises", "nan", "too many", "none", "nested"],
)
def test_where_the_challenger_fails_the_champion_answers(tmp_path: Path, gives: Any, why: str) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="canary", percent=ALL))
    expected = serving.answer(serving.query(pinned=serving.models[0])).scores
    serving.break_challenger(gives)
    prediction = serving.answer(serving.query())
    assert (prediction.role, prediction.model.version, prediction.fallback) == ("champion", 1, why)
    np.testing.assert_array_equal(prediction.scores, expected)


def test_a_shadow_is_recorded_and_not_given(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="shadow"))
    prediction = serving.answer(serving.query())
    (shadow,) = serving.recorded.predictions
    assert (prediction.role, prediction.shadow) == ("champion", False)
    assert (shadow.role, shadow.shadow, shadow.model.version, shadow.fallback) == ("challenger", True, 2, "")
    assert shadow.query.id == prediction.query.id
    assert shadow.scores[0] != prediction.scores[0]


def test_a_shadow_that_fails_is_recorded_as_such_and_disturbs_nobody(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="shadow"))
    serving.break_challenger()
    assert serving.answer(serving.query()).role == "champion"
    (shadow,) = serving.recorded.predictions
    assert (shadow.shadow, shadow.fallback) == (True, "RuntimeError")
    assert np.isnan(shadow.scores).all()


def test_a_failed_shadow_of_several_classes_has_their_shape(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="shadow"))
    serving.break_challenger(task="multiclass", classes=["a", "b", "c"])
    serving.answer(serving.query())
    (shadow,) = serving.recorded.predictions
    assert (shadow.scores.shape, shadow.fallback) == ((1, 3), "RuntimeError")
    assert shape_of(shadow.model, 2) == (2, 3)


def test_a_slow_shadow_delays_nobody(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="shadow"))
    stuck = Stuck(serving.models[1].signature)
    serving.put_challenger(stuck)

    async def scenario() -> None:
        for at in range(5):
            prediction = await serving.router.answer(serving.query(str(at)))
            assert prediction.role == "champion"
            await asyncio.sleep(0)  # the shadows would have their turn now
        assert serving.recorded.predictions == []
        stuck.go.set()
        await serving.router.drain()

    asyncio.run(scenario())
    assert [shadow.query.id for shadow in serving.recorded.predictions] == [f"id-{at}" for at in range(5)]


def test_shadows_that_pile_up_are_dropped(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="shadow"))

    async def scenario() -> None:
        for at in range(SHADOWS_AT_ONCE + 5):
            await serving.router.answer(serving.query(str(at)))  # none of the shadows has had its turn
        await serving.router.drain()

    asyncio.run(scenario())
    assert len(serving.recorded.predictions) + serving.router.dropped == SHADOWS_AT_ONCE + 5
    assert len(serving.recorded.predictions) >= SHADOWS_AT_ONCE
    assert serving.counted.lost == serving.router.dropped


def test_a_request_that_names_a_version_gets_that_one(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec(mode="canary", percent=ALL))
    for role, model in (("champion", serving.models[0]), ("challenger", serving.models[1])):
        prediction = serving.answer(serving.query(pinned=model))
        assert (prediction.role, prediction.model.version) == (role, model.version)


def test_without_a_challenger_or_with_the_mode_off_the_champion_answers(tmp_path: Path) -> None:
    serving = Serving(tmp_path, ChallengerSpec())
    assert serving.answer(serving.query()).model.version == 1
    other = Serving(tmp_path / "other", ChallengerSpec(mode="canary", percent=ALL))
    other.slot.challenger = None
    assert other.answer(other.query()).model.version == 1


def layout(numeric: tuple[str, ...], categorical: tuple[str, ...], null: str = "__null__") -> Layout:
    return Layout(numeric, categorical, frozenset(numeric + categorical), null, whole=False)


def test_columns_are_laid_out_for_another_model_by_their_names() -> None:
    given = layout(("a", "b"), ("c", "d"))
    arrays = (np.array([[1, 2]], dtype=np.float32), np.array([["x", "__null__"]], dtype=object))
    numeric, categorical = relaid(arrays, given, layout(("b",), ("d", "c"), "<none>"))
    assert numeric is not None
    assert categorical is not None
    assert (numeric.tolist(), categorical.tolist()) == ([[2.0]], [["<none>", "x"]])
    assert relaid(arrays, given, given) is arrays
    with pytest.raises(BadRequest, match=r"it needs the columns \['e'\], which requests don't give"):
        relaid(arrays, given, layout(("a", "e"), ()))
