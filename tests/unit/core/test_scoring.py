from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.core.scoring import CHUNK_ROWS, ModelSignature, Scorer, categorical_array, category_text, numeric_array
from mlops_tasks.errors import DataRejected
from tests.linear_models import write_linear_model

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = ModelSignature(task="regression", numeric=["a", "b"], categorical=["c"], target="y")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("red", "red"),
        (3, "3"),
        (3.0, "3"),
        (np.float64(3.0), "3"),
        (3.5, "3.5"),
        (np.int64(7), "7"),
        (True, "true"),
        (np.bool_(False), "false"),  # noqa: FBT003 - the value under test
        (None, "__null__"),
        (float("nan"), "__null__"),
        (pd.NA, "__null__"),
        (pd.NaT, "__null__"),
    ],
)
def test_category_has_one_text_whatever_its_type(value: object, text: str) -> None:
    assert category_text(value) == text


def test_arrays_have_the_signatures_order_and_mark_nulls() -> None:
    frame = pd.DataFrame({"b": [1, 2], "a": [np.nan, 1e300], "c": ["x", None]})
    numbers = numeric_array(frame, ["a", "b"])
    assert numbers.dtype == np.float32
    assert np.array_equal(numbers, np.array([[np.nan, 1], [np.inf, 2]], dtype=np.float32), equal_nan=True)
    assert categorical_array(frame, ["c"]).tolist() == [["x"], ["__null__"]]


def test_scores_do_not_depend_on_chunks(tmp_path: Path) -> None:
    write_linear_model(tmp_path, SIGNATURE, {"a": 1.0, "b": -2.0}, bias=0.5, effects={"c": {"x": 10.0}})
    rows = CHUNK_ROWS * 2 + 3
    texts = (["x", "y", None] * (rows // 3 + 1))[:rows]
    frame = pd.DataFrame({"a": np.arange(rows) % 7, "b": np.arange(rows) % 5, "c": texts})
    scores = Scorer.load(tmp_path).score(frame)
    expected = 0.5 + frame["a"] - 2 * frame["b"] + 10 * (frame["c"] == "x")
    assert np.allclose(scores, expected)


def test_no_rows_give_no_scores(tmp_path: Path) -> None:
    write_linear_model(tmp_path, SIGNATURE, {"a": 1.0})
    assert Scorer.load(tmp_path).score(pd.DataFrame({"a": [], "b": [], "c": []})).shape == (0,)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_linear_model(tmp_path, SIGNATURE, {"a": 1.0})
    with pytest.raises(DataRejected) as caught:
        Scorer.load(tmp_path).score(pd.DataFrame({"b": [1.0]}))
    assert str(caught.value) == (
        "scoring: columns ['a', 'c'] are missing; give all inputs of the model, null where a value is unknown"
    )
