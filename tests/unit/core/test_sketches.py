from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.artifacts import FeatureColumn
from mlops_tasks.core.privacy import hash_values
from mlops_tasks.core.sketches import (
    QUANTA_PER_SD,
    Categories,
    ColumnSketch,
    NumericBins,
    Reference,
    Sketches,
    build_reference,
    join_sketches,
    lay_out,
    prediction_column,
    sketch_parts,
    sketch_window,
    sketch_windows,
)
from mlops_tasks.core.sketches.layouts import as_text
from mlops_tasks.errors import DataRejected
from tests.drifting import SCHEMA, label_of, make_day, make_days

NUMBERS = pa.array(np.random.default_rng(0).normal(50, 10, 1000))
LAYOUTS = {
    "x": lay_out(pa.chunked_array([NUMBERS]), "x", numeric=True),
    "c": lay_out(pa.chunked_array([pa.array(["a", "b", "b", None])]), "c", numeric=False),
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    frame = make_days(20, rows=100)
    return Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))


def numeric(values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.float64())])


def bins(values: list[Any]) -> NumericBins:
    layout = lay_out(numeric(values), "x", numeric=True)
    assert isinstance(layout, NumericBins)
    return layout


def sketch(rows: list[tuple[float | None, str | None]]) -> Sketches:
    table = pa.table({"x": pa.array([r[0] for r in rows], pa.float64()), "c": pa.array([r[1] for r in rows], pa.string())})
    return sketch_windows(table, LAYOUTS, ("w",), np.zeros(len(rows), dtype=np.int64), "test")


def merge(*parts: Sketches) -> Sketches:
    return join_sketches(parts).merged("w")


ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 100)),
        st.sampled_from(["a", "b", "new", None]),
    ),
    max_size=30,
)


@given(parts=st.lists(ROWS, min_size=1, max_size=5), order=st.randoms())
@settings(max_examples=80, deadline=None)
def test_merging_in_any_order_and_grouping_equals_one_pass(parts: list[list[Any]], order: Any) -> None:
    once = sketch([row for part in parts for row in part])
    made = [sketch(part) for part in parts]
    order.shuffle(made)
    chained = made[0]
    for part in made[1:]:
        chained = merge(part, chained)

    assert merge(*made).to_json() == once.to_json()
    assert chained.to_json() == once.to_json()


@given(parts=st.lists(ROWS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_many_windows_in_one_pass_equal_window_by_window(parts: list[list[Any]]) -> None:
    rows = [row for part in parts for row in part]
    codes = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    table = pa.table({"x": pa.array([r[0] for r in rows], pa.float64()), "c": pa.array([r[1] for r in rows], pa.string())})

    together = sketch_windows(table, LAYOUTS, ("w",) * len(parts), codes, "test")

    assert together.to_json() == join_sketches([sketch(part) for part in parts]).to_json()


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_json_round_trip(rows: list[Any]) -> None:
    made = sketch(rows)
    text = json.dumps(made.to_json(), allow_nan=False)

    assert Sketches.from_json(json.loads(text), LAYOUTS).to_json() == made.to_json()


def test_every_row_is_counted_once() -> None:
    rows: list[tuple[float | None, str | None]] = [(None, None), (np.inf, "a"), (-np.inf, "new"), (50.0, "b"), (1e300, "b")]
    column, category = sketch(rows).columns["x"], sketch(rows).columns["c"]

    assert (column.nulls[0], column.infinite[0], column.counts.sum()) == (1, 2, 2)
    assert column.counts[0, -1] == 1  # above the training range
    assert (column.minimum[0], column.maximum[0]) == (50.0, 1e300)
    assert category.counts.tolist() == [[2, 1, 1]]  # b, a, OTHER
    assert category.nulls[0] == 1


def test_moments_are_those_of_the_values() -> None:
    values = np.random.default_rng(1).normal(50, 10, 500)
    column, layout = sketch([(v, "a") for v in values]).columns["x"], LAYOUTS["x"]
    assert isinstance(layout, NumericBins)
    quantum = layout.sd / QUANTA_PER_SD

    mean = layout.centre + column.sums.sum() / 500 * quantum
    variance = column.squares[0] / 500 * quantum**2 - (mean - layout.centre) ** 2

    assert mean == pytest.approx(values.mean(), abs=layout.sd * 1e-4)
    assert variance == pytest.approx(values.var(), rel=1e-4)


def test_squares_do_not_overflow() -> None:
    layout = bins([*np.linspace(0, 1, 2000).tolist(), 1e9, -1e9])
    column = sketch_windows(pa.table({"x": [1e9] * 100}), {"x": layout}, ("w",), np.zeros(100, dtype=np.int64), "test").columns[
        "x"
    ]

    assert column.squares[0] == 100 * (1 << 60)


def test_an_atom_has_a_bin_of_its_own() -> None:
    layout = bins([0.0] * 500 + np.linspace(0.001, 10, 500).tolist())
    column = sketch_windows(
        pa.table({"x": [0.0, 0.0, 1e-9, 0.5]}), {"x": layout}, ("w",), np.zeros(4, dtype=np.int64), "test"
    ).columns["x"]

    assert 2 in column.counts[0].tolist()
    assert 30 <= layout.cells <= 70


def test_bins_hold_about_equal_shares_and_all_training_values() -> None:
    layout = LAYOUTS["x"]
    assert isinstance(layout, NumericBins)
    inside = sketch([(v, "a") for v in NUMBERS.to_pylist()]).columns["x"].counts[0]

    assert layout.cells == 67
    assert inside[0] == inside[-1] == 0
    assert inside[1:-2].max() < 2 * 1000 / 64


@pytest.mark.parametrize(
    ("values", "sd"),
    [([], 1.0), ([None, None], 1.0), ([np.inf, np.nan], 1.0), ([7.0] * 9, 7.0), ([0.0], 1.0), ([1.7e308, -1.7e308], 1.7e308)],
)
def test_degenerate_training_columns_get_a_layout(values: list[Any], sd: float) -> None:
    layout = bins(values)
    column = sketch_windows(
        pa.table({"x": pa.array([1.0, None], pa.float64())}), {"x": layout}, ("w",), np.zeros(2, dtype=np.int64), "test"
    )

    assert layout.sd == pytest.approx(sd)
    assert column.columns["x"].counts.sum() == 1
    assert json.dumps(column.to_json(), allow_nan=False)


def test_one_broken_training_row_does_not_ruin_the_scale() -> None:
    values = np.random.default_rng(2).normal(0, 1, 5000).tolist()

    assert bins([*values, 1e12]).sd == pytest.approx(bins(values).sd, rel=0.05)


def test_rare_categories_are_other() -> None:
    texts = [f"c{k:03}" for k in range(100)] + ["top", "top"]
    layout = lay_out(pa.chunked_array([pa.array(texts)]), "c", numeric=False)

    assert isinstance(layout, Categories)
    assert layout.names == ("top", *(f"c{k:03}" for k in range(63)))


def test_integer_categories_are_the_same_with_and_without_nulls() -> None:
    layout = lay_out(pa.chunked_array([pa.array([1, 1, 2])]), "c", numeric=False)
    column = sketch_windows(
        pa.table({"c": [1.0, None, 2.0]}), {"c": layout}, ("w",), np.zeros(3, dtype=np.int64), "test"
    ).columns["c"]

    assert column.counts.tolist() == [[1, 1, 0]]


def test_a_reference_is_its_windows_and_their_sum(reference: Reference) -> None:
    assert reference.history.windows == tuple(f"2024-01-{day:02}" for day in range(1, 21))
    assert reference.history.rows.tolist() == [100] * 20
    assert set(reference.layouts) == {"price", "rain", "shop", "bought"}
    assert reference.history.merged("training").to_json() == reference.merged.to_json()
    assert Reference.from_json(json.loads(json.dumps(reference.to_json(), allow_nan=False))).to_json() == reference.to_json()


def test_the_history_of_a_reference_equals_sketches_of_its_windows(reference: Reference) -> None:
    for day in (0, 7):
        frame = make_day(day, rows=100)
        alone = sketch_window(pa.Table.from_pandas(frame), reference, reference.history.windows[day])
        for name, column in alone.columns.items():
            assert isinstance(column, ColumnSketch)
            assert column.counts[0].tolist() == reference.history.columns[name].counts[day].tolist()
            assert column.sums[0].tolist() == reference.history.columns[name].sums[day].tolist()


def test_a_window_takes_few_bytes(reference: Reference) -> None:
    made = sketch_window(pa.Table.from_pandas(make_day(0)), reference, "2024-01-01")

    assert len(json.dumps(made.to_json())) < 12_000


def test_a_window_without_the_label_is_fine(reference: Reference) -> None:
    made = sketch_window(pa.Table.from_pandas(make_day(0).drop(columns="bought")), reference, "2024-01-01")

    assert made.columns["bought"].nulls.tolist() == [200]


def test_a_missing_column_is_named(reference: Reference) -> None:
    with pytest.raises(DataRejected) as error:
        sketch_window(pa.Table.from_pandas(make_day(0).drop(columns=["price", "shop"])), reference, "2024-01-01")

    assert str(error.value) == "window 2024-01-01: columns price, shop are missing, which the model reads; check the features"


def test_a_numeric_column_of_texts_is_refused(reference: Reference) -> None:
    table = pa.Table.from_pandas(make_day(0).assign(price="dear"))

    with pytest.raises(DataRejected) as error:
        sketch_window(table, reference, "2024-01-01")

    assert str(error.value) == "window 2024-01-01: column 'price' must be numeric, got string; cast it in the features"


def test_training_data_with_mixed_types_is_refused() -> None:
    frame = make_days(2, rows=4).assign(shop=["a", 1, 2.5, "b"] * 2)

    with pytest.raises(
        DataRejected, match=r"^training data: column 'shop' mixes types \(.*\); cast it to one type in the features$"
    ):
        build_reference(frame, SCHEMA, label_of(frame))


def test_training_data_without_a_column_is_refused() -> None:
    frame = make_days(2, rows=4)

    with pytest.raises(
        DataRejected, match=r"^training data: columns bought are missing, which the model reads; check the features$"
    ):
        build_reference(frame.drop(columns="bought"), SCHEMA, label_of(frame))


def test_another_format_is_refused(reference: Reference) -> None:
    with pytest.raises(DataRejected, match=r"^reference.json: format must be 1, got 2; train the model again$"):
        Reference.from_json({**reference.to_json(), "format": 2})


def test_a_regression_label_is_numeric() -> None:
    frame = make_days(2, rows=50).assign(bought=lambda f: f["price"].fillna(0.0) * 2)
    made = Reference.from_json(build_reference(frame, SCHEMA.model_copy(update={"task": "regression"}), label_of(frame)))

    assert isinstance(made.layouts["bought"], NumericBins)


def test_an_empty_window_has_zero_counts(reference: Reference) -> None:
    made = sketch_window(pa.Table.from_pandas(make_day(0).iloc[:0]), reference, "2024-01-01")

    assert made.rows.tolist() == [0]
    assert all(column.counts.sum() == 0 for column in made.columns.values())


def test_window_labels_may_come_in_any_order() -> None:
    frame = make_days(3, rows=20)
    shuffled = frame.sample(frac=1, random_state=3)

    assert build_reference(shuffled, SCHEMA, label_of(shuffled)) == build_reference(frame, SCHEMA, label_of(frame))
    assert isinstance(label_of(frame), pd.Series)


def test_floats_that_are_whole_are_texts_of_integers_whatever_else_the_column_holds() -> None:
    column = pa.chunked_array([pa.array([1.0, None, 2.5, float("nan"), -0.0, 1e300])])

    assert as_text(column).to_pylist() == ["1", None, "2.5", None, "0", "1e+300"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_window_read_in_parts_equals_one_pass(reference: Reference, size: int) -> None:
    table = pa.Table.from_pandas(make_day(5).assign(shop=np.resize([1.0, 2.5, np.nan], 200)))
    parts = (table.slice(start, size) for start in range(0, table.num_rows, size))

    assert sketch_parts(parts, reference, "w").to_json() == sketch_window(table, reference, "w").to_json()


def test_a_year_of_windows_merged_equals_one_pass_over_its_rows(reference: Reference) -> None:
    days = [pa.Table.from_pandas(make_day(day, rows=20)) for day in range(365)]
    made = [sketch_window(day, reference, "day") for day in days]

    assert merge(*made[::-1]).to_json() == sketch_window(pa.concat_tables(days), reference, "w").to_json()


def test_what_a_model_gives_is_a_column_like_any_other() -> None:
    frame = make_days(20, rows=100)
    scores = np.linspace(0, 1, len(frame), dtype=np.float32)
    made = Reference.from_json(build_reference(frame, SCHEMA, label_of(frame), prediction_column(scores, [])))
    without = sketch_window(pa.Table.from_pandas(make_day(0)), made, "w")

    assert made.prediction == "prediction"
    assert isinstance(made.layouts["prediction"], NumericBins)
    assert made.merged.columns["prediction"].counts.sum() == len(frame)
    assert without.columns["prediction"].counts.sum() == 0


def test_of_several_classes_the_likeliest_is_sketched() -> None:
    assert prediction_column(np.array([[0.1, 0.9], [0.6, 0.4]]), ["a", "b"]).to_pylist() == ["b", "a"]


def test_a_feature_that_is_called_prediction_keeps_its_name() -> None:
    frame = make_days(2, rows=20).assign(prediction=1.0)
    schema = SCHEMA.model_copy(update={"columns": (*SCHEMA.columns, FeatureColumn(name="prediction", kind="numeric"))})
    made = Reference.from_json(build_reference(frame, schema, label_of(frame), prediction_column(np.zeros(40), [])))

    assert made.prediction == "model_prediction"


def test_a_reference_of_before_there_were_predictions_is_read() -> None:
    frame = make_days(2, rows=20)
    value = build_reference(frame, SCHEMA, label_of(frame))
    del value["prediction"]

    assert Reference.from_json(value).prediction is None


def test_hashed_columns_are_sketched_as_hashes_only() -> None:
    frame = make_days(2, rows=20)
    hashed = hash_values(pa.chunked_array([pa.array(frame["shop"])]), b"k" * 16)
    text = json.dumps(build_reference(frame.assign(shop=hashed.to_pandas()), SCHEMA, label_of(frame)))

    assert "north" not in text
    assert hashed[0].as_py() in text


def test_a_window_takes_about_12_kb() -> None:
    frame = make_days(30)
    wide = pd.concat({f"x{k}": frame["price"] * (k + 1) for k in range(20)}, axis=1).assign(bought=frame["bought"])
    columns = tuple(FeatureColumn(name=f"x{k}", kind="numeric") for k in range(20))
    made = build_reference(wide, SCHEMA.model_copy(update={"columns": columns}), label_of(frame))
    reference = Reference.from_json(made)
    size = len(
        json.dumps(sketch_window(pa.Table.from_pandas(wide.iloc[:200]), reference, "w").to_json(), separators=(",", ":"))
    )

    assert size < 20_000
