"""Cron expressions: the times that Airflow's own parser names."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from mlops_tasks.core.cron import PRESETS, data_intervals, parse_cron
from mlops_tasks.errors import SpecError

START = datetime(2013, 1, 1, tzinfo=UTC)
croniter: Any = importlib.import_module("croniter").croniter  # it has no types


@pytest.mark.parametrize(
    "expression",
    [
        "0 6 * * 1",
        "0 0 1 * *",
        "*/15 3-5 * * mon-fri",
        "30 2 1,15 */2 *",
        "0 0 13 * 5",
        "0 12 * jan,JUL sun",
        "5/20 0 * * 7",
        "0 0 29 2 *",
        "0 0 */10 * *",
        "0 4 * * */2",
        *PRESETS,
    ],
)
def test_the_times_are_those_of_the_parser_that_airflow_uses(expression: str) -> None:
    theirs = croniter(PRESETS.get(expression, expression), START - timedelta(seconds=1), ret_type=datetime)
    wanted = [theirs.get_next() for _ in range(60)]
    assert list(islice(parse_cron(expression).times(START), 60)) == wanted


def test_intervals_are_those_whose_start_lies_in_the_dates_of_a_backfill() -> None:
    found = data_intervals("0 6 * * 1", START, datetime(2013, 1, 21, 6, tzinfo=UTC))
    assert [(f"{w.start:%m-%dT%H}", f"{w.end:%m-%dT%H}") for w in found] == [
        ("01-07T06", "01-14T06"),
        ("01-14T06", "01-21T06"),
        ("01-21T06", "01-28T06"),
    ]


def test_a_date_that_never_comes_has_no_times() -> None:
    assert list(parse_cron("0 0 31 2 *").times(START)) == []
    assert data_intervals("0 0 31 2 *", START, START + timedelta(days=30)) == []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 6 * *", "must have five fields"),
        ("61 * * * *", "its minute must be *, a number from 0 to 59, a range or a step, got '61'"),
        ("0 0 * * moon", "its day of week must be"),
        ("0 5-3 * * *", "its hour must be"),
        ("*/0 * * * *", "its minute must be"),
    ],
)
def test_what_is_no_cron_is_refused_with_its_field(expression: str, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("*", r"\*")):
        parse_cron(expression)
