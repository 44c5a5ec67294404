from __future__ import annotations

from pathlib import Path

import pytest

from mlops_tasks.artifacts import TableRef
from mlops_tasks.errors import DataRejected, SpecError
from mlops_tasks.specs import Expectation, ValidateRawSpec
from mlops_tasks.stages.validate_raw import run
from tests.fakes import make_ports
from tests.raw_windows import DAY, START, days, make_raw, orders

CHEAP = Expectation(expect="expect_column_values_to_be_between", kwargs={"column": "price", "max_value": 10})
FULL = Expectation(expect="expect_table_row_count_to_be_between", kwargs={"min_value": 2})
SPEC = ValidateRawSpec(expectations={"orders": (CHEAP, FULL)})


def test_raw_data_that_meets_the_rules_gets_its_proof(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    raw = [make_raw(ports.store, w, {"orders": orders((w.start, 1, 2.0, "a"), (w.start, 2, 3.0, "b"))}) for w in days(2)]
    made = run(SPEC, raw, ports=ports)
    assert [item.raw for item in made] == raw
    assert all(ports.store.verify(ref) for item in made for ref in item.files)
    assert [m.digest for m in made] == [run(SPEC, [r], ports=ports)[0].digest for r in raw]


def test_windows_without_rows_pass_in_their_place(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    first, second, third = days(3)
    full = {w: orders((w.start, 1, 2.0, "a"), (w.start, 2, 3.0, "b")) for w in (first, third)}
    raw = [make_raw(ports.store, w, {"orders": full.get(w, orders())}) for w in (first, second, third)]
    assert [item.window for item in run(SPEC, raw, ports=ports)] == [first, second, third]


def test_a_broken_rule_names_its_source_where_there_are_several(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    static = make_raw(ports.store, days(1, start=START - DAY)[0], {"shops": orders((START, 0, 99.0, "PLANTED"))}).tables[
        "shops"
    ]
    raw = make_raw(ports.store, window, {"orders": orders((START, 1, 20.0, "a"))}, static={"shops": TableRef(**dict(static))})
    some = ValidateRawSpec(expectations={"orders": (CHEAP,), "shops": (CHEAP, FULL)})
    with pytest.raises(DataRejected) as caught:
        run(some, [raw], ports=ports)
    asked = "expect_column_values_to_be_between asked for max_value=10, observed 1 unexpected of 1 values"
    assert str(caught.value).splitlines()[1:] == [
        f"window {window}: orders.price: {asked}",
        f"window {window}: shops.price: {asked}",
        f"window {window}: shops: expect_table_row_count_to_be_between asked for min_value=2, observed 1",
    ]
    page = next(iter(ports.store.list("shop/data_docs/raw/")))
    assert b"PLANTED" not in ports.store.read(page)


def test_a_missing_column_names_its_place(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    some = ValidateRawSpec(
        expectations={"orders": (FULL, Expectation(expect="expect_column_values_to_not_be_null", kwargs={"column": "prise"}))}
    )
    rows = orders((START, 1, 20.0, "a"), (START, 2, 2.0, "a"))
    with pytest.raises(SpecError) as caught:
        run(some, [make_raw(ports.store, window, {"orders": rows})], ports=ports)
    assert str(caught.value).startswith(
        "validate_raw.expectations.orders[1]: expect_column_values_to_not_be_null names column 'prise', "
        "which the table does not have; "
    )
