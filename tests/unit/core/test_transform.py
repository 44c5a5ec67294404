from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.core.transform import learn_transform

ROWS = 40


def frame_of(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_medians_ranges_and_bins_come_from_finite_values_alone() -> None:
    values = [np.nan, np.inf, -np.inf, *range(37)]
    column = learn_transform(frame_of(a=values), ["a"], [], bins=4).numeric[0]
    assert (column.median, column.low, column.high, column.mean, column.has_nulls) == (18, 0, 36, 18, True)
    assert column.edges.tolist() == [0, 9, 18, 27, 36]


def test_a_column_full_of_zeros_keeps_its_other_values() -> None:
    column = learn_transform(frame_of(a=[0.0] * 39 + [5.0]), ["a"], [], bins=8).numeric[0]
    assert column.varies
    assert (column.edges[0], column.edges[-1]) == (0, 5)


def test_rare_and_unseen_categories_share_index_zero() -> None:
    texts = ["often"] * 20 + ["rare"] * 4 + [None] * 16
    transform = learn_transform(frame_of(c=texts), [], ["c"], bins=4)
    assert transform.categorical[0].vocabulary == ("__null__", "often")
    seen = transform.codes(frame_of(c=["often", "rare", "new", None]))
    assert seen[:, 0].tolist() == [2, 0, 0, 1]


def test_null_token_is_never_a_real_category() -> None:
    transform = learn_transform(frame_of(c=["__null__"] * 10 + [None] * 10), [], ["c"], bins=4)
    assert transform.null_token == "__null_1__"
    assert transform.codes(frame_of(c=["__null__", None]))[:, 0].tolist() == [2, 1]


def test_silent_columns_are_ignored() -> None:
    frame = frame_of(
        empty=[np.nan] * ROWS, constant=[1.0] * ROWS, sometimes=[1.0, np.nan] * (ROWS // 2), rare=[str(i) for i in range(ROWS)]
    )
    transform = learn_transform(frame, ["empty", "constant", "sometimes"], ["rare"], bins=4)
    assert transform.ignored == ["empty", "constant", "rare"]


def test_integers_with_nulls_have_the_texts_of_integers() -> None:
    whole = learn_transform(frame_of(c=[1, 2] * 10), [], ["c"], bins=4)
    with_null = frame_of(c=np.array([1.0, np.nan, 2.0]))
    assert whole.codes(with_null)[:, 0].tolist() == [1, 0, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=60), st.integers(2, 40))
def test_bins_ascend_and_span_the_range(values: list[float], bins: int) -> None:
    column = learn_transform(frame_of(a=values), ["a"], [], bins=bins).numeric[0]
    assert (np.diff(column.edges) > 0).all()
    assert len(column.edges) <= bins + 1
    if column.varies:
        assert (column.edges[0], column.edges[-1]) == (column.low, column.high)
    assert column.low <= column.median <= column.high
