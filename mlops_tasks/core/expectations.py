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


def check(tables: Mapping[str, pd.DataFrame], expectations: Sequence[Expectation]) -> Checks:
    """Check each window's rows against the expectations.

    Args:
        tables: window label -> rows; at least one.
        expectations: in Great Expectations' names.

    Raises:
        SpecError: an expectation, argument or column that does not exist.

    """
    import pandas as pd  # noqa: PLC0415 - keeps the module light

    engine = _Engine()
    built = [_build(item, order) for order, item in enumerate(expectations)]
    union = pd.concat(tables.values(), ignore_index=True) if len(tables) > 1 else next(iter(tables.values()))
    document = engine.validate(union, built)
    sure = {o for o, item in enumerate(expectations) if len(tables) == 1 or (document[o].success and _is_rowwise(item))}
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

    def __init__(self) -> None:
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
        return {result.expectation_config.meta["order"]: _without_rows(result, table) for result in results}


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations  # noqa: PLC0415 - seconds to import

    return great_expectations


def _build(item: Expectation, order: int) -> Any:
    """Make Great Expectations' object of an expectation. Raises: SpecError."""
    known = {_snake(name): name for name in dir(_great_expectations().expectations) if name.startswith("Expect")}
    if item.expect not in known:
        near = difflib.get_close_matches(item.expect, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        msg = f"expectations: {item.expect!r} is not an expectation of Great Expectations{hint}"
        raise SpecError(msg)
    kind = getattr(_great_expectations().expectations, known[item.expect])
    try:
        return kind(**item.kwargs, meta={"order": order})
    except (ValueError, TypeError) as error:  # pydantic v1's ValidationError is a ValueError
        why = " ".join(str(error).split())[:300]
        msg = f"expectations: {item.expect} does not accept {dict(item.kwargs)}: {why}"
        raise SpecError(msg) from error


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _is_rowwise(item: Expectation) -> bool:
    return item.expect in ROWWISE and item.kwargs.get("mostly", 1) == 1


def _without_rows(result: Any, table: pd.DataFrame) -> Any:
    """Reduce a result to counts and aggregates, in plain Python numbers (the renderer refuses numpy's).

    Raises: SpecError when the expectation could not be computed at all.
    """
    details = result.exception_info or {}
    for info in [details, *(v for v in details.values() if isinstance(v, dict))]:
        if info.get("raised_exception"):
            why = str(info.get("exception_message")).splitlines()[0]
            config = result.expectation_config
            msg = f"expectations: {config.type} on {config.kwargs.get('column', 'the table')!r} can't be computed: {why}; it has {list(table.columns)}"
            raise SpecError(msg)
    result.result = {key: _plain(value) for key, value in result.result.items() if key in KEPT}
    return result


KEPT = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent", "observed_value")


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, str | list | tuple | set | dict):
        return f"{len(value)} values" if not isinstance(value, str) else "a text"
    return value


def _checked(item: Expectation, result: Any, rows: int) -> Checked:
    found = result.result
    if "unexpected_count" in found:
        observed = f"{found['unexpected_count']} unexpected of {found.get('element_count', rows)} values" if not result.success else f"0 unexpected of {rows} values"
        if result.success and item.kwargs.get("mostly", 1) != 1:
            observed = f"{found['unexpected_count']} unexpected of {found.get('element_count', rows)} values"
    else:
        observed = str(found.get("observed_value"))
    columns = [str(value) for key, value in item.kwargs.items() if key.startswith("column") and isinstance(value, str)]
    asked = ", ".join(f"{key}={value}" for key, value in item.kwargs.items() if not key.startswith("column"))
    return Checked(expect=item.expect, column=", ".join(columns), success=bool(result.success), observed=observed, asked=asked or "it")


def render_docs(results: Sequence[Any], title: str) -> str:
    """Render results as one page of Great Expectations' Data Docs."""
    _great_expectations()
    from great_expectations.core import ExpectationSuiteValidationResult  # noqa: PLC0415 - seconds to import
    from great_expectations.render.renderer import ValidationResultsPageRenderer  # noqa: PLC0415 - likewise
    from great_expectations.render.view import DefaultJinjaPageView  # noqa: PLC0415 - likewise

    met = sum(bool(result.success) for result in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": met,
        "unsuccessful_expectations": len(results) - met,
        "success_percent": 100.0 * met / len(results) if results else 100.0,
    }
    whole = ExpectationSuiteValidationResult(
        success=met == len(results), results=list(results), suite_name=title, statistics=statistics, meta={}
    )
    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(whole))
    return page
