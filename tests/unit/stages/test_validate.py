from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.errors import DataRejected
from mlops_tasks.specs import Expectation, ValidateSpec
from mlops_tasks.stages.validate import run
from tests.fakes import make_ports
from tests.feature_windows import make_features
from tests.raw_windows import days


def asking(**asked: dict[str, Any]) -> ValidateSpec:
    return ValidateSpec(
        expectations=tuple(Expectation(expect=f"expect_{name}", kwargs=kwargs) for name, kwargs in asked.items())
    )


SPEC = asking(
    column_values_to_be_between={"column": "price", "max_value": 10},
    column_mean_to_be_between={"column": "sold", "min_value": 0.2, "max_value": 0.8},
)


def test_valid_features_carry_their_proof(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = [make_features(ports.store, w, [1.0, 2.0]) for w in days(3)]
    made = run(SPEC, features, ports=ports)
    assert [item.features for item in made] == features
    assert [[ref.key.rsplit("/", 1)[-1] for ref in item.files] for item in made] == [["result.json", "data_docs.html"]] * 3
    assert all(ports.store.verify(ref) for item in made for ref in item.files)


def test_a_window_without_rows_breaks_no_rule_of_values(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    first, second, third = days(3)
    features = [make_features(ports.store, w, prices) for w, prices in ((first, [1.0, 2.0]), (second, []), (third, [1.0, 3.0]))]
    made = run(SPEC, features, ports=ports)
    assert [item.window for item in made] == [first, second, third]


def test_a_window_without_rows_fails_where_rows_are_asked_for(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    some = asking(column_values_to_not_be_null={"column": "price"}, table_row_count_to_be_between={"min_value": 1})
    features = [make_features(ports.store, w, prices) for w, prices in zip(days(2), ([1.0], []), strict=True)]
    with pytest.raises(DataRejected) as caught:
        run(some, features, ports=ports)
    (told,) = str(caught.value).splitlines()[1:]
    assert told == (
        "window [2030-01-02T00:00, 2030-01-03T00:00): table: "
        "expect_table_row_count_to_be_between asked for min_value=1, observed 0"
    )


def test_one_broken_window_stops_all(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = [make_features(ports.store, w, prices) for w, prices in zip(days(2), ([1.0, 2.0], [11.0, 2.0]), strict=True)]
    with pytest.raises(DataRejected, match="observed 1 unexpected of 2 values"):
        run(SPEC, features, ports=ports)
    assert list(ports.store.list("shop/validated_features/")) == []


def test_an_all_null_column_is_caught_where_values_are_asked_for(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    some = asking(column_values_to_not_be_null={"column": "price", "mostly": 0.1})
    with pytest.raises(
        DataRejected,
        match=r"price: expect_column_values_to_not_be_null asked for mostly=0\.1, observed 3 unexpected of 3 values",
    ):
        run(some, [make_features(ports.store, window, [None] * 3)], ports=ports)


def test_without_expectations_all_pass(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    features = [make_features(ports.store, w, [1.0]) for w in days(2)]
    assert [item.features for item in run(ValidateSpec(), features, ports=ports)] == features
