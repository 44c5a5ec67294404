"""Tables and expectations to outcomes, by Great Expectations; outcomes hold counts, never values of rows.

A conjunction over rows holds for a union of windows exactly if it holds in each of them. So expectations
of that kind are checked once over the union, and window by window only when that fails; all others
(aggregates, `mostly`) are checked window by window. The result is the same, 10 times sooner over a range.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_tasks.artifacts import Frozen
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Expectation

if TYPE_CHECKING:
    import pandas as pd

ROWWISE = frozenset(
    {
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_be_null",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_match_strftime_format",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
    }
)


class Checked(Frozen):
    """The outcome of one expectation on one batch of rows: counts and aggregates only."""

    expect: str
    column: str
    success: bool
    observed: str
    """What was seen, for people, e.g. `3 of 842 values` or `mean 0.91`."""
    asked: str


@dataclass(frozen=True)
class Checks:
    """Outcomes per window label, and Great Expectations' own results for its Data Docs."""

    windows: dict[str, list[Checked]]
    results: list[Any]


def check(tables: Mapping[str, pd.DataFrame], expectations: Sequence[Expectation], place: str = "expectations") -> Checks:
    """Check each window's rows against the expectations.

    Args:
        tables: window label -> rows; at least one.
        expectations: in Great Expectations' names.
        place: where the expectations stand in pipeline.yaml, for messages.

    Raises:
        SpecError: an expectation, argument or column that does not exist.

    """
    import pandas as pd  # noqa: PLC0415 - keeps the module light

    engine = _Engine(place)
    built = [_build(item, order, place) for order, item in enumerate(expectations)]
    union = pd.concat(tables.values(), ignore_index=True) if len(tables) > 1 else next(iter(tables.values()))
    document = engine.validate(union, built)
    types = [dict(table.dtypes) for table in (union, *tables.values())]
    sure = {
        o
        for o, item in enumerate(expectations)
        if len(tables) == 1 or (document[o].success and _is_rowwise(item) and _same_types(item, types))
    }
    unsure = [o for o in range(len(built)) if o not in sure]
    outcomes: dict[str, list[Checked]] = {}
    for label, table in tables.items():
        own = engine.validate(table, [built[o] for o in unsure])
        outcomes[label] = [
            _checked(item, (document if o in sure else own)[o], len(table)) for o, item in enumerate(expectations)
        ]
        for o in unsure:
            # Over a range the document shows the window that failed, or any of them.
            if document[o] is None or label == next(iter(tables)) or not own[o].success:
                document[o] = own[o]
    return Checks(windows=outcomes, results=[document[o] for o in range(len(built))])


def failures(checked: Sequence[Checked]) -> list[str]:
    """Return a sentence for each broken expectation: column, expectation, observed value, what was asked."""
    return [
        f"{item.column or 'table'}: {item.expect} asked for {item.asked}, observed {item.observed}"
        for item in checked
        if not item.success
    ]


class _Engine:
    """An ephemeral Great Expectations context with one in-memory data source."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._gx = _great_expectations()
        from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415 - seconds to import

        context = self._gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset("rows")
        self._batches = asset.add_batch_definition_whole_dataframe("all")

    def validate(self, table: pd.DataFrame, expectations: Sequence[Any]) -> dict[int, Any]:
        """Return the results by the expectations' order. Raises: SpecError."""
        if not expectations:
            return {}
        suite = self._gx.ExpectationSuite(name="expectations", expectations=list(expectations))
        batch = self._batches.get_batch({"dataframe": table})
        results = batch.validate(suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 0}).results
        return {result.expectation_config.meta["order"]: _without_rows(result, table, self._place) for result in results}


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations  # noqa: PLC0415 - seconds to import

    return great_expectations


def _build(item: Expectation, order: int, place: str) -> Any:
    """Make Great Expectations' object of an expectation. Raises: SpecError."""
    known = {_snake(name): name for name in dir(_great_expectations().expectations) if name.startswith("Expect")}
    if item.expect not in known:
        near = difflib.get_close_matches(item.expect, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        msg = f"{place}[{order}]: {item.expect!r} is not an expectation of Great Expectations{hint}"
        raise SpecError(msg)
    kind = getattr(_great_expectations().expectations, known[item.expect])
    try:
        return kind(**item.kwargs, meta={"order": order})
    except (ValueError, TypeError) as error:  # pydantic v1's ValidationError is a ValueError
        why = " ".join(str(error).split())[:300]
        msg = f"{place}[{order}]: {item.expect} does not accept {dict(item.kwargs)}: {why}"
        raise SpecError(msg) from error


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _is_rowwise(item: Expectation) -> bool:
    return item.expect in ROWWISE and item.kwargs.get("mostly", 1) == 1


def _same_types(item: Expectation, types: Sequence[Mapping[Any, Any]]) -> bool:
    """Tell whether rows look the same in all tables: pandas makes integers beside nulls floats, whose text differs."""
    return all(len({table[name] for table in types}) == 1 for name in _columns_of(item.kwargs))


def _without_rows(result: Any, table: pd.DataFrame, place: str) -> Any:
    """Reduce a result to counts and aggregates, in plain Python numbers (the renderer refuses numpy's).

    Raises: SpecError when the expectation could not be computed at all.
    """
    details = result.exception_info or {}
    if any(info.get("raised_exception") for info in [details, *(v for v in details.values() if isinstance(v, dict))]):
        config = result.expectation_config
        why = _why_impossible(_columns_of(config.kwargs), table)
        msg = f"{place}[{config.meta['order']}]: {config.type} {why}"
        raise SpecError(msg)
    result.result = {key: _plain(value) for key, value in result.result.items() if key in KEPT}
    return result


def _why_impossible(columns: Sequence[str], table: pd.DataFrame) -> str:
    """Say why by names and types alone: the engine's own words quote values of rows."""
    absent = [name for name in columns if name not in table.columns]
    if absent:
        near = difflib.get_close_matches(absent[0], map(str, table.columns), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(str, table.columns))}"
        return f"names column {absent[0]!r}, which the table does not have; {hint}"
    types = ", ".join(f"column {name!r} of type {table[name].dtype}" for name in columns) or "the table"
    return f"can't be computed on {types}; use one that fits the type, or change the column's type"


def _columns_of(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the columns that an expectation's arguments name."""
    named = [value for key, value in kwargs.items() if key in {"column", "column_A", "column_B"}]
    return [str(name) for name in [*named, *kwargs.get("column_list", [])]]


KEPT = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent", "observed_value")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, str | list | tuple | set | dict):
        return f"{len(value)} values" if not isinstance(value, str) else "a text"
    return value


def _checked(item: Expectation, result: Any, rows: int) -> Checked:
    asked = ", ".join(f"{key}={value}" for key, value in item.kwargs.items() if not key.startswith("column"))
    return Checked(
        expect=item.expect,
        column=", ".join(_columns_of(item.kwargs)),
        success=bool(result.success),
        observed=_observed(item, result, rows),
        asked=asked or "it",
    )


def _observed(item: Expectation, result: Any, rows: int) -> str:
    """Say what was seen. What holds of all rows of a range is told by the window's own number of rows."""
    found = result.result
    if "unexpected_count" not in found:
        return str(found.get("observed_value", "no such column" if item.expect == "expect_column_to_exist" else None))
    if result.success and _is_rowwise(item):
        return f"0 unexpected of {rows} values"
    return f"{found['unexpected_count']} unexpected of {found.get('element_count', rows)} values"
