"""Preprocessing on a real Spark: the same rows however windows are grouped, nothing lost, every mistake told."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.spark import ConnectSpark, connect, free_port
from mlops_tasks.artifacts import Features, ValidRaw, Window
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import DataRejected, SpecError, StoreUnavailable
from mlops_tasks.loading import load_pipeline
from mlops_tasks.specs import PreprocessSpec
from mlops_tasks.stages import collect
from mlops_tasks.stages.preprocess import run
from tests.fakes import make_ports
from tests.raw_windows import DAY, HOUR, START, days, make_valid, orders
from tests.shop_features import SQL, digests, schema, shop_window, spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.ports import Ports

pytestmark = pytest.mark.spark
ROOT = Path(__file__).resolve().parents[2]


def ports_on(spark: ConnectSpark, folder: Path) -> Ports:
    return make_ports(folder, spark=spark)


def one_by_one(some: PreprocessSpec, raw: Sequence[ValidRaw], windows: Sequence[Window], ports: Ports) -> list[Features]:
    made = []
    for window in windows:
        needed = [r for r in raw if r.window.end > window.start - some.lookback and r.window.start < window.end]
        made += run(some, needed, [window], ports=ports)
    return made


def rows_of(ports: Ports, features: Features, name: str = "features.parquet") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(ports.store.open_local(features.file(name))).to_pylist()
    return rows


@pytest.mark.slow
def test_flights_are_the_same_one_by_one_and_as_a_range(spark: ConnectSpark, tmp_path: Path) -> None:
    pipeline = load_pipeline("nyc_flights", ROOT / "dags/pipelines")
    windows = windows_between(datetime(2013, 2, 7, tzinfo=UTC), datetime(2013, 2, 12, tzinfo=UTC), "day")
    before = windows_between(windows[0].start - DAY, windows[0].start, "day")
    ranged, single = ports_on(spark, tmp_path / "range"), ports_on(spark, tmp_path / "single")
    raw = [ValidRaw(digest=r.digest, files=(), raw=r) for r in collect.run(pipeline.collect, [*before, *windows], ports=ranged)]
    for key in ranged.store.list(""):
        single.store.write(key, ranged.store.read(key))
    made = run(pipeline.preprocess, raw, windows, ports=ranged)
    assert digests(made) == digests(one_by_one(pipeline.preprocess, raw, windows, single))
    # A storm on 8 and 9 February: many flights were cancelled, which is a rule's business.
    assert sum(sum(f.rejected.values()) for f in made) > 500
    collected = {r.window.label: r.raw.rows for r in raw}
    assert [f.rows + f.rejected.get("has_arrival", 0) for f in made] == [collected[f.window.label] for f in made]
    first_hour = [r for r in rows_of(ranged, made[1]) if r["time_hour"].hour in {10, 11}]
    assert any(r["origin_delay_long"] is not None for r in first_hour), "the delays of the evening before are known"


@pytest.mark.parametrize(("cadence", "count"), [("hour", 30), ("week", 3), ("month", 3)])
def test_every_cadence_gives_every_row_once(spark: ConnectSpark, tmp_path: Path, cadence: Any, count: int) -> None:
    ports = ports_on(spark, tmp_path)
    begin = datetime(2029, 12, 31, tzinfo=UTC) if cadence == "week" else START
    end = {"hour": begin + 30 * HOUR, "week": begin + 21 * DAY, "month": datetime(2030, 4, 1, tzinfo=UTC)}[cadence]
    windows = windows_between(begin, end, cadence)
    assert len(windows) == count
    some = spec()
    raw = [shop_window(ports, window) for window in windows]
    made = run(some, raw, windows, ports=ports)
    assert [(f.rows, f.rejected) for f in made] == [(21, {"has_price": 5, "has_shop": 1})] * count
    chosen = [windows[0], windows[-1]]
    assert digests(run(some, raw, chosen, ports=ports_on(spark, tmp_path))) == {
        f.window.label: digests([f])[f.window.label] for f in made if f.window in chosen
    }


def test_lookback_reaches_across_the_border(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    windows = days(2)
    raw = [
        make_valid(ports.store, windows[0], orders((START + 23 * HOUR, 1, 5.0, "north"), (START + 10 * HOUR, 2, 7.0, "north"))),
        make_valid(ports.store, windows[1], orders((START + 25 * HOUR, 3, 20.0, "north"))),
    ]
    (made,) = run(spec(), raw, [windows[1]], ports=ports)
    assert rows_of(ports, made) == [
        {"at": START + 25 * HOUR, "id": 3, "price": 20.0, "before": 5.0, "shop": "north", "dear": True}
    ]


def test_rejected_rows_are_kept_whole_with_the_first_rule_they_broke(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    (window,) = days(1)
    rows = orders((START, 1, 5.0, "north"), (START, 2, None, ""), (START, 3, 1.0, None), (START + HOUR, 4, None, "south"))
    (made,) = run(spec(), [make_valid(ports.store, window, rows)], [window], ports=ports)
    assert (made.rows, made.rejected) == (1, {"has_price": 2, "has_shop": 1})
    kept = rows_of(ports, made, "rejected.parquet")
    assert [(r["id"], r["rejected_by"], r["note"]) for r in kept] == [
        (2, "has_price", "PLANTED-SECRET"),
        (3, "has_shop", "PLANTED-SECRET"),
        (4, "has_price", "PLANTED-SECRET"),
    ]
    assert made.file("rejected.parquet").rows == 3


def test_static_tables_are_joined_whole(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    windows = days(2)
    raw = [shop_window(ports, window) for window in windows]
    names = make_valid(ports.store, Window(start=START - DAY, end=START), orders((START - 99 * DAY, 0, 1.5, "north"))).raw
    with_static = [
        item.model_copy(
            update={"raw": item.raw.model_copy(update={"tables": {**item.raw.tables, "shops": names.tables["orders"]}})}
        )
        for item in raw
    ]
    code = (
        "SELECT o.at, o.id, o.price, s.price AS before, o.shop, o.price > 10 AS dear "
        "FROM orders o LEFT JOIN shops s USING (shop)"
    )
    made = run(spec(code, static=("shops",)), with_static, windows, ports=ports)
    found = {row["shop"]: row["before"] for f in made for row in rows_of(ports, f)}
    assert found == {"north": 1.5, "south": None}


def test_a_function_gives_what_sql_gives(spark: ConnectSpark, tmp_path: Path) -> None:
    code = """
from pyspark.sql import Window
from pyspark.sql import functions as F

def features(tables):
    orders = tables["orders"]
    earlier = Window.partitionBy("shop").orderBy(F.unix_seconds("at")).rangeBetween(-21600, -1)
    return orders.withColumns({"before": F.sum("price").over(earlier), "dear": F.col("price") > 10})
"""
    ports = ports_on(spark, tmp_path)
    windows = days(2)
    raw = [shop_window(ports, window) for window in windows]
    by_sql = run(spec(), raw, windows, ports=ports)
    assert digests(run(spec(code, features="features.py"), raw, windows, ports=ports)) == digests(by_sql)


def test_an_empty_window_has_the_schema_and_no_rows(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    windows = days(2)
    raw = [shop_window(ports, windows[0]), make_valid(ports.store, windows[1], orders())]
    full, empty = run(spec(), raw, windows, ports=ports)
    assert (empty.rows, empty.rejected, [r.key.rsplit("/", 1)[-1] for r in empty.files]) == (0, {}, ["features.parquet"])
    schemas = [pq.read_schema(ports.store.open_local(f.file("features.parquet"))) for f in (full, empty)]
    assert schemas[0].names == schemas[1].names
    assert [str(t) for t in schemas[0].types] == [str(t) for t in schemas[1].types]


MISTAKES = [
    (
        {"code": "SELECT at, id, price FROM orders"},
        (
            "features.sql: its result lacks before, shop, dear (the label), which `features` in pipeline.yaml asks for; "
            "it has at, id, price"
        ),
    ),
    (
        {"code": SQL.replace("price, shop", "cast(price AS string) AS price, shop")},
        "features.sql: column price must be numeric, got string; cast it, or make its kind categorical",
    ),
    (
        {"code": SQL.replace("price, shop", "price, array(shop) AS shop")},
        "features.sql: column shop must be a text or a code, got array<string>; cast it",
    ),
    (
        {"code": SQL.replace("SELECT at", "SELECT 'x' AS at")},
        "features.sql: column at must be a timestamp, got string; cast it",
    ),
    (
        {
            "feature_schema": schema(task="regression", label="shop_name", categorical=()),
            "code": SQL.replace("shop,", "shop AS shop_name,", 1),
        },
        "features.sql: column shop_name must be numeric, got string; cast it",
    ),
    (
        {"code": "def other(): pass", "features": "features.py"},
        "features.py: must define a function features(tables: dict[str, DataFrame]) -> DataFrame",
    ),
    ({"code": "def features(tables:\n", "features": "features.py"}, "features.py: line 1: '(' was never closed"),
    ({"code": "SELEC at FROM orders"}, "features.sql: Spark does not accept it: [PARSE_SYNTAX_ERROR]"),
    ({"code": "SELECT nope FROM orders"}, "features.sql: Spark does not accept it: [UNRESOLVED_COLUMN.WITH_SUGGESTION]"),
    ({"code": "SELECT * FROM nope"}, "features.sql: Spark does not accept it: [TABLE_OR_VIEW_NOT_FOUND]"),
    (
        {"row_rules": {"cheap": "price <"}},
        "preprocess.row_rules.cheap: 'price <' is no condition on source 'orders': [PARSE_SYNTAX_ERROR]",
    ),
    (
        {"row_rules": {"cheap": "prize < 3"}},
        "preprocess.row_rules.cheap: 'prize < 3' is no condition on source 'orders': [UNRESOLVED_COLUMN.WITH_SUGGESTION]",
    ),
    (
        {"row_rules": {"cheap": "price + 1"}},
        "preprocess.row_rules.cheap: 'price + 1' is no condition on source 'orders': [DATATYPE_MISMATCH",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[m[1][:60] for m in MISTAKES])
def test_mistakes_are_told_before_anything_runs(
    spark: ConnectSpark, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    ports = ports_on(spark, tmp_path)
    (window,) = days(1)
    with pytest.raises(SpecError) as caught:
        run(spec(**changes), [shop_window(ports, window)], [window], ports=ports)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    if "Spark" not in message and "[" not in message[-40:]:
        assert str(caught.value) == message
    assert list(ports.store.list("shop/features/")) == []


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("price / (id - id)", "[DIVIDE_BY_ZERO]"),
        ("cast(note AS int)", '[CAST_INVALID_INPUT] A value of the type "STRING" cannot be cast to "INT"'),
    ],
)  # fmt: skip
def test_a_value_that_breaks_the_features_names_the_windows_and_not_the_value(
    spark: ConnectSpark, tmp_path: Path, expression: str, told: str
) -> None:
    ports = ports_on(spark, tmp_path)
    windows = days(2)
    raw = [shop_window(ports, window) for window in windows]
    code = SQL.replace("at, id, price,", f"at, id, {expression} AS price,")
    with pytest.raises(DataRejected) as caught:
        run(spec(code), raw, windows, ports=ports)
    assert str(caught.value).startswith(f"features.sql, windows 2030-01-01 to 2030-01-02: a value breaks the features: {told}")
    assert str(caught.value).endswith("; mend the features (try_cast, nullif, ...) or add a row rule")
    assert "PLANTED-SECRET" not in str(caught.value)
    assert list(ports.store.list("shop/features/")) == []


def test_a_window_of_rejected_rows_only_is_refused(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    (window,) = days(1)
    raw = make_valid(ports.store, window, orders((START, 1, None, "north"), (START, 2, 1.0, "")))
    with pytest.raises(DataRejected) as caught:
        run(spec(), [raw], [window], ports=ports)
    assert str(caught.value) == (
        f"window {window}: the row rules rejected every row (has_price: 1, has_shop: 1); "
        "mend preprocess.row_rules or the source"
    )


def test_a_source_column_named_like_ours_is_refused(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    (window,) = days(1)
    rows = orders((START, 1, 2.0, "north")).append_column("rejected_by", pa.array(["x"]))
    with pytest.raises(SpecError) as caught:
        run(spec(), [make_valid(ports.store, window, rows)], [window], ports=ports)
    assert str(caught.value) == (
        "collect.sources.orders: column 'rejected_by' must have another name: rejected rows get a column of this one"
    )


def test_columns_named_reason_and_window_stay_the_users_own(spark: ConnectSpark, tmp_path: Path) -> None:
    ports = ports_on(spark, tmp_path)
    (window,) = days(1)
    rows = orders((START, 1, 2.0, "north")).append_column("reason", pa.array(["gift"])).append_column("window", pa.array(["w"]))
    code = "SELECT at, id, price, reason, window, true AS dear FROM orders"
    some = spec(code, feature_schema=schema(numeric=("price",), categorical=("reason", "window")))
    (made,) = run(some, [make_valid(ports.store, window, rows)], [window], ports=ports)
    assert [(r["reason"], r["window"]) for r in rows_of(ports, made)] == [("gift", "w")]


def test_a_server_that_does_not_answer_is_told_soon() -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        connect(f"sc://localhost:{free_port()}")
    assert "does not answer" in str(caught.value)
    assert str(caught.value).endswith("; start it (`mlops spark`) or unset MLOPS_SPARK")
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_server_killed_in_mid_job_leaves_nothing_and_the_retry_succeeds(spark: ConnectSpark, tmp_path: Path) -> None:
    own = ConnectSpark("local[1]", "512m")
    ports = ports_on(own, tmp_path)
    own.session()
    assert own._server is not None
    windows = days(2)
    raw = [shop_window(ports, window) for window in windows]
    endless = "(SELECT sum(a.id * b.id) FROM range(1000000) a CROSS JOIN range(1000000) b)"
    code = SQL.replace("price,", f"price + {endless} AS price,", 1)
    kill = threading.Timer(3, own._server.process.kill)
    kill.start()
    with pytest.raises(StoreUnavailable) as caught:
        run(spec(code), raw, windows, ports=ports)
    assert str(caught.value).startswith("features.sql, windows 2030-01-01 to 2030-01-02: Spark stopped answering: ")
    assert str(caught.value).endswith("; run again, with more memory (MLOPS_SPARK_MEMORY) if it was killed")
    assert list(ports.store.list("shop/features/")) == []
    assert list((tmp_path / "store" / ".staging").iterdir()) == []
    # The same process gets another server; what it makes is what any other makes.
    retried = run(spec(), raw, windows, ports=ports)
    assert digests(retried) == digests(run(spec(), raw, windows, ports=ports_on(spark, tmp_path)))
    assert own._server is not None
    own._server.process.kill()


@pytest.mark.slow
def test_a_killed_client_takes_its_server_with_it() -> None:
    code = (
        "import json, time; from mlops_tasks.adapters.spark import start_for_this_process; "
        "s = start_for_this_process('local[1]', '512m'); print(s.process.pid, flush=True); time.sleep(600)"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert client.stdout is not None
    server = int(client.stdout.readline())
    assert Path(f"/proc/{server}").exists()
    client.kill()
    client.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _alive(server):
        time.sleep(0.1)
    assert not _alive(server)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_the_store_is_told_when_the_disk_is_full(spark: ConnectSpark, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=True)
    try:
        full = make_ports(tmp_path, spark=spark, store=LocalStore(disk))
        (window,) = days(1)
        raw = make_valid(full.store, window, orders((START, 1, 2.0, "north")))
        (disk / "filler").write_bytes(b"x" * 150_000)
        code = (
            "SELECT at, id, rand(1) AS price, rand(2) AS before, shop, true AS dear FROM orders "
            "LATERAL VIEW explode(sequence(1, 200000)) AS i"
        )
        with pytest.raises(StoreUnavailable) as caught:
            run(spec(code), [raw], [window], ports=full)
        assert str(caught.value) == (
            f"features.sql, windows 2030-01-01 to 2030-01-01: No space left on device under {full.store.root} "
            "or Spark's temporary folder; free some space and run again"
        )
        assert list(full.store.list("shop/features/")) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
