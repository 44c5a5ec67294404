"""Expectations through the real Great Expectations: outcomes, and what they must never hold."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_tasks.core.data_docs import render_docs
from mlops_tasks.core.expectations import Checked, check, failures
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Expectation

SECRET = "PLANTED-SECRET"


def ask(name: str, **kwargs: Any) -> Expectation:
    return Expectation(expect=f"expect_{name}", kwargs=kwargs)


def one(table: pd.DataFrame, expectation: Expectation) -> Checked:
    (checked,) = check({"w": table}, [expectation]).windows["w"]
    return checked


TABLE = pd.DataFrame({"x": [1.0, 2.0, None, 50.0], "s": ["a", SECRET, None, "b"], "flag": [1.0, 0.0, None, 1.0]})
OUTCOMES = [
    (ask("column_values_to_not_be_null", column="x"), False, "1 unexpected of 4 values"),
    (ask("column_values_to_not_be_null", column="x", mostly=0.5), True, "1 unexpected of 4 values"),
    (ask("column_values_to_be_between", column="x", min_value=0, max_value=60), True, "0 unexpected of 4 values"),
    (ask("column_values_to_be_between", column="x", min_value=0, max_value=9), False, "1 unexpected of 4 values"),
    (ask("column_values_to_be_in_set", column="s", value_set=["a", "b"]), False, "1 unexpected of 4 values"),
    (ask("column_values_to_be_in_set", column="flag", value_set=[True, False]), True, "0 unexpected of 4 values"),
    (ask("column_mean_to_be_between", column="flag", max_value=0.5), False, "0.6666666666666666"),
    (ask("column_median_to_be_between", column="x", min_value=0, max_value=9), True, "2.0"),
    (ask("column_unique_value_count_to_be_between", column="s", max_value=2), False, "3"),
    (ask("column_distinct_values_to_be_in_set", column="s", value_set=["a"]), False, "2 unexpected of 4 values"),
    (ask("column_most_common_value_to_be_in_set", column="s", value_set=["z"]), False, "3 values"),
    (ask("table_row_count_to_be_between", min_value=5), False, "4"),
    (ask("column_to_exist", column="y"), False, "no such column"),
    (ask("compound_columns_to_be_unique", column_list=["x", "s"]), True, "0 unexpected of 4 values"),
    (
        ask("column_values_to_be_between", column="x", max_value=9, row_condition='s=="a"', condition_parser="pandas"),
        True,
        None,
    ),
]


@pytest.mark.parametrize(("expectation", "success", "observed"), OUTCOMES, ids=lambda v: getattr(v, "expect", None))
def test_outcomes(expectation: Expectation, success: bool, observed: str | None) -> None:
    checked = one(TABLE, expectation)
    assert checked.success is success
    assert observed is None or checked.observed == observed
    assert SECRET not in checked.model_dump_json()


def test_a_failure_names_column_expectation_and_what_was_seen() -> None:
    checks = check({"w": TABLE}, [OUTCOMES[3][0], OUTCOMES[0][0], OUTCOMES[11][0], OUTCOMES[13][0]])
    assert failures(checks.windows["w"]) == [
        "x: expect_column_values_to_be_between asked for min_value=0, max_value=9, observed 1 unexpected of 4 values",
        "x: expect_column_values_to_not_be_null asked for it, observed 1 unexpected of 4 values",
        "table: expect_table_row_count_to_be_between asked for min_value=5, observed 4",
    ]
    assert checks.windows["w"][3].column == "x, s"


def test_no_rows_break_no_rule_of_values() -> None:
    empty = TABLE.iloc[:0]
    assert one(empty, OUTCOMES[0][0]).success
    assert one(empty, OUTCOMES[3][0]).success
    assert one(empty, OUTCOMES[1][0]).success


WRONG = [
    (
        ask("column_values_to_be_betwen", column="x"),
        (
            "validate.expectations[1]: 'expect_column_values_to_be_betwen' is not an expectation of Great Expectations; "
            "did you mean expect_column_values_to_be_between?"
        ),
    ),
    (ask("nonsense"), "validate.expectations[1]: 'expect_nonsense' is not an expectation of Great Expectations"),
    (
        ask("column_values_to_not_be_null", colum="x"),
        (
            "validate.expectations[1]: expect_column_values_to_not_be_null does not accept {'colum': 'x'}: "
            "2 validation errors for "
            "ExpectColumnValuesToNotBeNull column field required (type=value_error.missing) colum extra fields not permitted "
            "(type=value_error.extra)"
        ),
    ),
    (
        ask("column_mean_to_be_between", column="y", min_value=0),
        (
            "validate.expectations[1]: expect_column_mean_to_be_between names column 'y', which the table does not have; "
            "it has x, s, flag"
        ),
    ),
    (
        ask("column_values_to_not_be_null", column="flags"),
        (
            "validate.expectations[1]: expect_column_values_to_not_be_null names column 'flags', "
            "which the table does not have; "
            "did you mean 'flag'?"
        ),
    ),
    *(
        (
            ask(f"column_{name}_to_be_between", column="s", min_value=0),
            (
                f"validate.expectations[1]: expect_column_{name}_to_be_between can't be computed on column 's' of type object; "
                "use one that fits the type, or change the column's type"
            ),
        )
        for name in ("mean", "median", "stdev", "sum", "max", "values")
    ),
]


@pytest.mark.parametrize(("expectation", "message"), WRONG, ids=[w[0].expect for w in WRONG])
def test_what_cannot_be_asked_is_told_without_values(expectation: Expectation, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check({"w": TABLE.dropna()}, [OUTCOMES[0][0], expectation], "validate.expectations")
    told = str(caught.value)
    assert told == message or (message.endswith("Great Expectations") and told.startswith(message))
    assert SECRET not in told


def test_the_page_holds_no_values() -> None:
    expectations = [item for item, _, _ in OUTCOMES if item.expect != "expect_column_to_exist"]
    page = render_docs(check({"w": TABLE}, expectations).results, "shop: features")
    assert "shop: features" in page
    assert SECRET not in page
    assert SECRET not in json.dumps([r.result for r in check({"w": TABLE}, expectations).results])


def test_the_same_results_give_the_same_page() -> None:
    expectations = [item for item, _, _ in OUTCOMES if item.expect != "expect_column_to_exist"]
    results = check({"w": TABLE}, expectations).results
    assert render_docs(results, "shop: features") == render_docs(results, "shop: features")


def test_numbers_beside_nulls_are_checked_as_their_window_has_them() -> None:
    """pandas makes integers floats where one is null; as text they differ, so the range may not stand for the window."""
    tables = {"ints": pd.DataFrame({"n": [1, 2]}), "floats": pd.DataFrame({"n": [1.0, None]})}
    asked = [ask("column_values_to_match_regex", column="n", regex=r"^\d+\.0$")]
    ranged = check(tables, asked).windows
    assert ranged == {label: check({label: table}, asked).windows[label] for label, table in tables.items()}


values = st.one_of(st.none(), st.integers(-3, 12).map(float))
tables = st.lists(st.lists(st.tuples(values, st.sampled_from(["a", "b", "c", None])), max_size=6), min_size=2, max_size=3)
ASKED = [
    ask("column_values_to_be_between", column="x", min_value=0, max_value=10),
    ask("column_values_to_not_be_null", column="x"),
    ask("column_values_to_not_be_null", column="x", mostly=0.5),
    ask("column_values_to_be_in_set", column="s", value_set=["a", "b"]),
    ask("column_value_lengths_to_equal", column="s", value=1),
    ask("column_mean_to_be_between", column="x", min_value=0, max_value=6),
    ask("column_values_to_be_unique", column="s"),
    ask("table_row_count_to_be_between", min_value=1, max_value=5),
]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(windows=tables)
def test_a_range_is_judged_as_its_windows_are(windows: list[list[tuple[float | None, str | None]]]) -> None:
    frames = {
        f"w{i}": pd.DataFrame(
            {"x": pd.Series([r[0] for r in rows], dtype=float), "s": pd.Series([r[1] for r in rows], dtype=object)}
        )
        for i, rows in enumerate(windows)
    }
    ranged = check(frames, ASKED)
    for label, frame in frames.items():
        assert ranged.windows[label] == check({label: frame}, ASKED).windows[label]
    broken = [not all(c[i].success for c in ranged.windows.values()) for i in range(len(ASKED))]
    assert [not result.success for result in ranged.results] == broken
