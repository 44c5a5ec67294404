"""Proofs of windows: what is published, what is refused, and that no row's value leaves the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.artifacts import FileRef, Window
from mlops_tasks.core import validation
from mlops_tasks.core.validation import Batch, prove
from mlops_tasks.errors import DataRejected, SpecError
from mlops_tasks.ports import ArtifactStore, Ports
from mlops_tasks.specs import Expectation
from tests.fakes import FakeProgress, make_ports
from tests.raw_windows import days

SECRET = "PLANTED-SECRET"


def ask(name: str, **kwargs: Any) -> Expectation:
    return Expectation(expect=f"expect_{name}", kwargs=kwargs)


CHEAP = ask("column_values_to_be_between", column="price", max_value=100)
KNOWN = ask("column_values_to_be_in_set", column="shop", value_set=["north", "south"])


def put(store: ArtifactStore, key: str, table: pa.Table) -> FileRef:
    with store.staging() as folder:
        pq.write_table(table, folder / "t.parquet")
        return store.publish(folder / "t.parquet", key, rows=table.num_rows)


def batch(store: ArtifactStore, window: Window, prices: list[float | None], shop: str = "north") -> Batch:
    table = pa.table(
        {
            "price": pa.array(prices, pa.float64()),
            "shop": pa.array([shop] * len(prices), pa.string()),
            "sold": pa.array([(True, None, False)[i % 3] for i in range(len(prices))], pa.bool_()),
            "unnamed": pa.array([SECRET] * len(prices)),
        }
    )
    ref = put(store, f"shop/{window.label}/{shop}/t.parquet", table)
    return Batch(window, {"orders": ref}, f"subject {window.label}")


def text_of(ports: Ports, files: tuple[FileRef, ...], name: str) -> str:
    return next(ports.store.read(ref.key).decode() for ref in files if ref.key.endswith(name))


def test_each_window_gets_its_own_proof_and_all_share_a_page(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    windows = days(3)
    proofs = prove([batch(ports.store, w, [1.0, 2.0]) for w in windows], {"orders": [CHEAP, KNOWN]}, kind="raw", ports=ports)
    assert [json.loads(text_of(ports, p.files, "result.json"))["window"] for p in proofs] == [w.label for w in windows]
    assert len({p.digest for p in proofs}) == 3
    assert {p.files[-1].key for p in proofs} == {proofs[0].files[-1].key}
    assert proofs[0].files[-1].key.startswith("shop/data_docs/raw/2030-01-01_2030-01-03/")
    first = json.loads(text_of(ports, proofs[0].files, "result.json"))["expectations"]
    assert first[0] == {
        "expect": "expect_column_values_to_be_between",
        "column": "price",
        "success": True,
        "observed": "0 unexpected of 2 values",
        "asked": "max_value=100",
    }
    assert isinstance(ports.progress, FakeProgress)
    assert ports.progress.bars["validate raw"].done == 3


def test_a_proof_is_the_same_alone_and_in_a_range(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    batches = [batch(ports.store, w, [1.0, None, 3.0]) for w in days(3)]
    asked = {"orders": [CHEAP, KNOWN, ask("column_mean_to_be_between", column="sold", min_value=0.4)]}
    ranged = prove(batches, asked, kind="features", ports=ports)
    single = [prove([b], asked, kind="features", ports=ports)[0] for b in batches]
    assert [p.digest for p in ranged] == [p.digest for p in single]
    assert [p.files[0] for p in ranged] == [p.files[0] for p in single]


def test_the_subject_is_part_of_a_proof(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    one = batch(ports.store, window, [1.0])
    other = Batch(window, one.files, "another subject")
    found = [prove([b], {"orders": [CHEAP]}, kind="raw", ports=ports)[0].digest for b in (one, other)]
    assert found[0] != found[1]


def test_a_broken_rule_names_window_column_rule_and_count_but_no_value(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    windows = days(3)
    batches = [
        batch(ports.store, windows[0], [1.0, 2.0]),
        batch(ports.store, windows[1], [1.0, 7777.125, 8888.25]),
        batch(ports.store, windows[2], [1.0], shop=SECRET),
    ]
    with pytest.raises(DataRejected) as caught:
        prove(batches, {"orders": [CHEAP, KNOWN]}, kind="raw", ports=ports)
    (page,) = ports.store.list("shop/data_docs/")
    assert str(caught.value) == (
        "shop: raw data broke 2 expectations; mend the source or the expectation, then run again "
        f"(Data Docs: {ports.store.root}/{page})\n"
        "window [2030-01-02T00:00, 2030-01-03T00:00): price: expect_column_values_to_be_between asked for max_value=100, "
        "observed 2 unexpected of 3 values\n"
        "window [2030-01-03T00:00, 2030-01-04T00:00): shop: expect_column_values_to_be_in_set asked for "
        "value_set=['north', 'south'], observed 1 unexpected of 1 values"
    )
    everything = [str(caught.value), *(ports.store.read(key).decode() for key in ports.store.list("shop/data_docs/"))]
    assert not [text for text in everything for value in (SECRET, "7777.125", "8888.25") if value in text]
    assert list(ports.store.list("shop/validated_raw/")) == []


def test_one_line_for_each_of_the_first_dozen(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    with pytest.raises(DataRejected) as caught:
        prove([batch(ports.store, w, [200.0]) for w in days(14)], {"orders": [CHEAP]}, kind="features", ports=ports)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("shop: features data broke 14 expectations; ")
    assert len(lines) == 14
    assert lines[-1] == "... and 2 more"


def test_tables_are_named_where_there_are_several(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    one = batch(ports.store, window, [200.0])
    both = Batch(window, {**one.files, "shops": one.files["orders"]}, "s")
    rows = ask("table_row_count_to_be_between", min_value=5)
    with pytest.raises(DataRejected) as caught:
        prove([both], {"orders": [CHEAP], "shops": [rows]}, kind="raw", ports=ports)
    named = [line.partition("): ")[2].partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert named == ["orders.price", "shops"]


@pytest.mark.parametrize(
    ("kind", "place"), [("raw", "validate_raw.expectations.orders"), ("features", "validate.expectations")]
)
def test_what_cannot_be_asked_names_its_place_in_the_file(tmp_path: Path, kind: str, place: str) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    asked = [CHEAP, ask("column_mean_to_be_between", column="shop", min_value=0)]
    with pytest.raises(SpecError) as caught:
        prove([batch(ports.store, window, [1.0], shop=SECRET)], {"orders": asked}, kind=kind, ports=ports)
    assert str(caught.value) == (
        f"{place}[1]: expect_column_mean_to_be_between can't be computed on column 'shop' of type object; "
        "use one that fits the type, or change the column's type"
    )


def test_without_expectations_nothing_is_read(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    gone = FileRef(key="shop/gone.parquet", bytes=1, sha256="0" * 64)
    (proof,) = prove([Batch(window, {"orders": gone}, "s")], {}, kind="raw", ports=ports)
    assert [ref.key.rsplit("/", 1)[-1] for ref in proof.files] == ["result.json"]


def test_long_ranges_are_checked_in_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = make_ports(tmp_path)
    batches = [batch(ports.store, w, [1.0, 2.0]) for w in days(5)]
    whole = prove(batches, {"orders": [CHEAP]}, kind="raw", ports=ports)
    monkeypatch.setattr(validation, "ROWS_PER_PASS", 4)
    assert [len(some) for some in validation._passes(batches)] == [2, 2, 1]
    assert [p.digest for p in prove(batches, {"orders": [CHEAP]}, kind="raw", ports=ports)] == [p.digest for p in whole]


def test_rules_for_some_rows_may_name_columns_that_no_rule_names(tmp_path: Path) -> None:
    ports = make_ports(tmp_path)
    (window,) = days(1)
    some = ask(
        "column_values_to_be_between", column="price", max_value=1, row_condition='unnamed=="x"', condition_parser="pandas"
    )
    assert len(prove([batch(ports.store, window, [5.0])], {"orders": [some]}, kind="raw", ports=ports)) == 1
