"""Every format gives the same typed rows; everything damaged is refused in words."""

from __future__ import annotations

import gzip
import json
import math
import os
import sqlite3
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import Window
from mlops_tasks.core.collection import TIMESTAMP, schema_of
from mlops_tasks.errors import DataRejected, PipelineError, SpecError, StoreUnavailable
from mlops_tasks.specs import Source

COLUMNS: dict[str, Any] = {"at": "timestamp", "user": "string", "n": "int", "x": "float", "ok": "bool", "day": "date"}
ROWS: list[dict[str, Any]] = [
    {"at": "2024-01-01T10:00:00Z", "user": "anna", "n": 1, "x": 1.5, "ok": True, "day": "2024-01-01", "more": 1},
    {"at": "2024-01-01T23:59:59.999999Z", "user": None, "n": None, "x": None, "ok": None, "day": None, "more": 2},
    {"at": "2024-01-02T00:00:00Z", "user": "bo, b", "n": -7, "x": 2e9, "ok": False, "day": "2024-02-29", "more": 3},
]
TYPED: list[dict[str, Any]] = [
    {"at": datetime(2024, 1, 1, 10, tzinfo=UTC), "user": "anna", "n": 1, "x": 1.5, "ok": True, "day": date(2024, 1, 1)},
    {"at": datetime(2024, 1, 1, 23, 59, 59, 999999, tzinfo=UTC), "user": None, "n": None, "x": None, "ok": None, "day": None},
    {"at": datetime(2024, 1, 2, tzinfo=UTC), "user": "bo, b", "n": -7, "x": 2e9, "ok": False, "day": date(2024, 2, 29)},
]
FIRST = Window(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 1, 2, tzinfo=UTC))


def csv_text() -> str:
    def field(value: object) -> str:
        text = "" if value is None else str(value)
        return f'"{text}"' if "," in text else text

    return "\n".join([",".join(ROWS[0]), *(",".join(field(v) for v in row.values()) for row in ROWS)]) + "\n"


def write_csv(path: Path) -> None:
    path.write_text(csv_text(), encoding="utf-8")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.csv", csv_text())


def jsonl_text() -> str:
    return "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in ROWS)


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({name: [row[name] for row in TYPED] for name in COLUMNS} | {"more": [1, 2, 3]}), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.csv": write_csv,
    "a.csv.zip": write_zip,
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_text().encode())),
    "a.jsonl": lambda path: path.write_text(jsonl_text()),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl_text().encode())),
    "a.parquet": write_parquet,
}


def source(path: object, columns: dict[str, Any] | None = None, **more: Any) -> Source:
    return Source.model_validate({"path": str(path), "event_time": "at", "columns": columns or COLUMNS, **more})


def rows(source: Source, window: Window | None = None) -> list[dict[str, Any]]:
    batches = list(Sources().read(source, window))
    assert all(batch.schema == schema_of(source) for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def refusal(source: Source, kind: type[PipelineError] = DataRejected) -> str:
    with pytest.raises(kind) as caught:
        rows(source)
    return str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert rows(source(tmp_path / name)) == TYPED
    assert rows(source(tmp_path / name), FIRST) == TYPED[:2]


@pytest.mark.parametrize("name", WRITERS)
def test_the_extent_is_known_with_and_without_reading_first(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    sources, wanted = Sources(), source(tmp_path / name)
    assert (sources.earliest(wanted), sources.latest(wanted)) == (TYPED[0]["at"], TYPED[2]["at"])
    list(sources.read(wanted, FIRST))
    assert (sources.earliest(wanted), sources.latest(wanted)) == (TYPED[0]["at"], TYPED[2]["at"])


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path, sources = tmp_path / "a.csv", Sources()
    write_csv(path)
    first = sources.fingerprint(source(path), FIRST)
    os.utime(path, ns=(1, 1))
    assert sources.fingerprint(source(path), FIRST) == first
    path.write_text(csv_text().replace("anna", "lena"))
    assert sources.fingerprint(source(path), FIRST) != first
    assert Sources().fingerprint(source(path), FIRST) == sources.fingerprint(source(path), None)


def test_the_fingerprint_of_hashed_columns_follows_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "a.csv")
    wanted = source(tmp_path / "a.csv", {"at": "timestamp", "user": {"type": "string", "privacy": "hash"}})
    found = set()
    for secret in ("one-long-secret-1", "one-long-secret-2", "one-long-secret-1"):
        monkeypatch.setenv("MLOPS_HASH_KEY", secret)
        found.add(Sources().fingerprint(wanted, None))
    assert len(found) == 2


def test_a_changed_file_has_its_new_extent(tmp_path: Path) -> None:
    path, sources = tmp_path / "a.csv", Sources()
    write_csv(path)
    assert sources.latest(source(path)) == TYPED[2]["at"]
    path.write_text(csv_text() + "2024-05-01T00:00:00Z,a,1,1,true,2024-01-01,4\n")
    assert sources.latest(source(path)) == datetime(2024, 5, 1, tzinfo=UTC)


def test_a_glob_reads_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, user in (("b.csv", "second"), ("a.csv", "first")):
        (tmp_path / name).write_text(f"at,user\n2024-01-01,{user}\n")
    found = rows(source(tmp_path / "*.csv", {"at": "timestamp", "user": "string"}))
    assert [row["user"] for row in found] == ["first", "second"]


def test_a_file_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shopdata" / "data").mkdir(parents=True)
    (tmp_path / "shopdata" / "__init__.py").write_text("raise RuntimeError('imported')")
    write_csv(tmp_path / "shopdata" / "data" / "a.csv")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert rows(source("package://shopdata/data/*.csv")) == TYPED


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2024-01-01", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01 10:00", datetime(2024, 1, 1, 10, tzinfo=UTC)),
        ("2024-01-01T10:00:00+02:00", datetime(2024, 1, 1, 8, tzinfo=UTC)),
        ("2024-01-01T10:00:00.5Z", datetime(2024, 1, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-01-01 10:00:00.123456789", datetime(2024, 1, 1, 10, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_times_without_a_zone_are_utc(tmp_path: Path, text: str, wanted: datetime) -> None:
    (tmp_path / "a.csv").write_text(f"at\n{text}\n2024-06-01T00:00:00Z\n")
    assert rows(source(tmp_path / "a.csv", {"at": "timestamp"}))[0]["at"] == wanted


def test_null_values_nan_and_all_null_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,x,empty\n2024-01-01,NA,NA\n2024-01-01,nan,\n2024-01-01, 2 ,\n")
    columns = {"at": "timestamp", "x": "float", "empty": "int"}
    found = rows(source(tmp_path / "a.csv", columns, null_values=["", "NA"]))
    assert [row["x"] for row in found] == [None, None, 2.0]
    assert [row["empty"] for row in found] == [None, None, None]


def test_infinite_values_stay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,x\n2024-01-01,inf\n2024-01-01,-Infinity\n")
    pq.write_table(pa.table({"at": [TYPED[0]["at"]], "x": [-math.inf]}), tmp_path / "a.parquet")
    columns = {"at": "timestamp", "x": "float"}
    assert [row["x"] for row in rows(source(tmp_path / "a.csv", columns))] == [math.inf, -math.inf]
    assert [row["x"] for row in rows(source(tmp_path / "a.parquet", columns))] == [-math.inf]


def test_a_quoted_newline_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('\ufeffat,user\n2024-01-01,"a\nb"\n'.encode())
    assert rows(source(tmp_path / "a.csv", {"at": "timestamp", "user": "string"}))[0]["user"] == "a\nb"


def test_a_dropped_column_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,n\n2024-01-01,1\n")
    columns = {"at": "timestamp", "n": "int", "ssn": {"type": "string", "privacy": "drop"}}
    assert rows(source(tmp_path / "a.csv", columns)) == [{"at": datetime(2024, 1, 1, tzinfo=UTC), "n": 1}]


def test_one_row_and_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,n\n2024-01-01,1\n")
    assert len(rows(source(tmp_path / "a.csv", {"at": "timestamp", "n": "int"}))) == 1
    (tmp_path / "a.csv").write_text("at,n\n")
    assert rows(source(tmp_path / "a.csv", {"at": "timestamp", "n": "int"})) == []
    assert Sources().latest(source(tmp_path / "a.csv", {"at": "timestamp", "n": "int"})) is None


LINES = "at,user,n\n" + "2024-01-01,anna,1\n" * 5
MEND = "mend the row, name the value in null_values, or change the column's type"
SMALL = {"at": "timestamp", "user": "string", "n": "int"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, expected columns at, user, n; fetch the file again"),
        (b"at,n\n2024-01-01,1\n", ": has no column 'user'; it has at, n; mend the file or the source's columns"),
        (b"at,user,n,n\n1\n", ", line 1: column 'n' stands 2 times in the header; rename or remove one"),
        (b"n\n1\n", ": has no column 'at', 'user'; it has n; mend the file or the source's columns"),
        (
            LINES.encode() + b"2024-01-01,be",
            ", line 7: has 2 of 3 columns; the file may be cut off: fetch it again, or mend the row",
        ),
        (
            LINES.encode() + b'2024-01-01,"be,1\n',
            ", line 7: has 2 of 3 columns; the file may be cut off: fetch it again, or mend the row",
        ),
        (
            LINES.encode() + b"2024-01-01,b\xf6,1\n",
            ", line 7: column 'user' is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8",
        ),
        (b"at,us\xf6r,n\n2024-01-01,a,1\n", ", line 1: is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"),
        (
            LINES.encode() + b"2024-01-01,bert,many\n",
            f", line 7: column 'n' must be int, got 'many'; {MEND}",
        ),
        (
            LINES.encode() + b"2024-01-01,bert,1.5\n",
            f", line 7: column 'n' must be int, got '1.5'; {MEND}",
        ),
        (
            LINES.encode() + b"soon,bert,1\n",
            (
                ", line 7: column 'at' must be timestamp, got 'soon'; mend the row, name the value in null_values, "
                "or change the column's type"
            ),
        ),
        (
            LINES.encode() + b",bert,1\n,bert,1\n",
            ": 2 rows have no 'at', the first is data row 6; mend or remove them",
        ),
    ],
)
def test_a_bad_csv_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    separator = "" if message.startswith((",", ":")) else ": "
    assert refusal(source(path, SMALL)) == f"{path}{separator}{message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"at": "2024-01-01", "us', ", line 3: is not valid JSON; the file may be cut off: fetch it again, or mend the line"),
        (
            '{"at": "2024-01-01", "n": "x"}',
            ", line 3: column 'n' must be int, got 'x'; mend the line, or change the column's type",
        ),
        (
            '{"at": "2024-01-01", "n": 1.5}',
            ", line 3: column 'n' must be int, got 1.5; mend the line, or change the column's type",
        ),
        (
            '{"at": "2024-01-01", "user": 5}',
            ", line 3: column 'user' must be string, got 5; mend the line, or change the column's type",
        ),
        ("[1]", ", line 3: must be an object of column names and values; mend the line"),
        ('{"user": "b"}', ": 1 rows have no 'at', the first is data row 3; mend or remove them"),
        (
            '{"at": "soon"}',
            (
                ", line 3: column 'at' must be timestamp, got 'soon'; mend the row, name the value in null_values, "
                "or change the column's type"
            ),
        ),
    ],
)
def test_a_bad_json_lines_file(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"at": "2024-01-01", "user": "a", "n": 1}\n' * 2 + line + "\n")
    assert refusal(source(path, SMALL)) == f"{path}{message}"


def test_json_lines_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"at": "2024-01-01", "user": "a", "n": 1}\n{"at": "2024-01-01", "user": "b\xf6"}\n')
    assert refusal(source(path, SMALL)) == f"{path}, line 2: is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"


def test_a_key_that_no_json_line_has_is_a_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"at": "2024-01-01", "n": null}\n')
    assert refusal(source(path, SMALL)) == f"{path}: has no column 'user'; it has at, n; mend the file or the source's columns"


@pytest.mark.parametrize(
    ("array", "kind", "shown"),
    [
        (pa.array([1, 2]), "string", "1"),
        (pa.array(["a", "b"]), "int", "'a'"),
        (pa.array([1.0, 2.5]), "int", "2.5"),
        (pa.array([1, 2]), "timestamp", "1"),
        (pa.array([0, 2]), "bool", "2"),
        (pa.array([[1], [2]]), "float", "[1]"),
        (pa.array([True]), "int", "True"),
    ],
)
def test_a_wrong_parquet_type(tmp_path: Path, array: pa.Array, kind: str, shown: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"at": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * len(array), TIMESTAMP), "v": array}), path)
    row = 2 if shown in {"2.5", "2"} else 1
    assert refusal(source(path, {"at": "timestamp", "v": kind})) == (
        f"{path}, row {row}: column 'v' must be {kind}, got {shown}; "
        "mend the row, name the value in null_values, or change the column's type"
    )


@pytest.mark.parametrize(
    ("array", "kind", "wanted"),
    [
        (pa.array([1, 0]), "bool", [True, False]),
        (pa.array([1.0, math.nan]), "int", [1, None]),
        (pa.array([1, 2], pa.int8()), "float", [1.0, 2.0]),
        (pa.array(["a", "a"]).dictionary_encode(), "string", ["a", "a"]),
        (pa.array([None, None]), "float", [None, None]),
        (pa.array([datetime(2024, 1, 1)]), "timestamp", [datetime(2024, 1, 1, tzinfo=UTC)]),  # noqa: DTZ001 - a file without zones
        (pa.array([1_000_000_001], pa.timestamp("ns")), "timestamp", [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]),
    ],
)
def test_parquet_types_that_lose_nothing_are_taken(tmp_path: Path, array: pa.Array, kind: str, wanted: list[object]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"v": array}), path)
    found = rows(Source.model_validate({"path": str(path), "columns": {"v": kind}}))
    assert [row["v"] for row in found] == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv.zip", "is cut off or not a zip file; fetch it again"),
        ("a.csv.gz", "is cut off or not a gz file; fetch it again"),
        ("a.jsonl.gz", "is cut off or not a gz file; fetch it again"),
        ("a.parquet", "is cut off or not a Parquet file; fetch it again"),
    ],
)
def test_a_truncated_container(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(source(path)) == f"{path}: {message}"
    path.write_bytes(b"this is not what its name says")
    assert refusal(source(path)) == f"{path}: {message}"


def test_a_flipped_bit_inside_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.zip"
    write_zip(path)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    assert refusal(source(path)) == f"{path}: is cut off or not a zip file; fetch it again"


def test_private_values_are_never_shown(tmp_path: Path) -> None:
    secret = {"type": "int", "privacy": "private"}
    (tmp_path / "a.csv").write_text("at,card\n2024-01-01,4111-secret\n")
    (tmp_path / "b.csv").write_text("at,card\n2024-01-01,4111-secret,more\n")
    (tmp_path / "c.jsonl").write_text('{"at": "2024-01-01", "card": "4111-secret"}\n')
    for name in ("a.csv", "b.csv", "c.jsonl"):
        with pytest.raises(DataRejected) as caught:
            rows(source(tmp_path / name, {"at": "timestamp", "card": secret}))
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "4111" not in str(chain)
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def test_no_file_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = f"data/*.csv: no file matches (working directory {tmp_path}); correct the path, or put the files there"
    assert refusal(source("data/*.csv"), SpecError) == wanted


def test_an_unknown_package() -> None:
    wanted = "package://nosuchthing/x.csv: package 'nosuchthing' is not installed; install it, e.g. pip install nosuchthing"
    assert refusal(source("package://nosuchthing/x.csv"), SpecError) == wanted


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.xls").write_text("x")
    wanted = (
        f"{tmp_path}/a.xls: can't tell the format from the name; known are .csv, .csv.zip, .csv.gz, .jsonl, .jsonl.gz, .parquet"
    )
    assert refusal(source(tmp_path / "a.xls"), SpecError) == wanted


# --- a database: SQLite here, PostgreSQL in tests/integration ---


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE visits (at TEXT, user TEXT, n INTEGER, x REAL, ok INTEGER, day TEXT)")
        values = [(r["at"].replace("T", " ").rstrip("Z"), r["user"], r["n"], r["x"], r["ok"], r["day"]) for r in ROWS]
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?, ?)", values)
    connection.close()
    return path


QUERY = "SELECT * FROM visits WHERE at >= :start AND at < :end ORDER BY at"


def query(database: object, text: str = QUERY, columns: dict[str, Any] | None = None) -> Source:
    return Source.model_validate(
        {"url": f"sqlite:///{database}", "query": text, "event_time": "at", "columns": columns or COLUMNS}
    )


def test_a_query_gives_the_same_rows_and_extent(database: Path) -> None:
    assert rows(query(database)) == TYPED
    assert rows(query(database), FIRST) == TYPED[:2]
    sources = Sources()
    assert (sources.earliest(query(database)), sources.latest(query(database))) == (TYPED[0]["at"], TYPED[2]["at"])


def test_the_fingerprint_of_a_query_follows_the_rows_of_the_window(database: Path) -> None:
    first = Sources().fingerprint(query(database), FIRST)
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO visits VALUES ('2024-01-05 00:00:00', 'late', 1, 1, 1, '2024-01-05')")
        connection.commit()
        assert Sources().fingerprint(query(database), FIRST) == first
        connection.execute("INSERT INTO visits VALUES ('2024-01-01 00:00:00', 'more', 1, 1, 1, '2024-01-05')")
    connection.close()
    assert Sources().fingerprint(query(database), FIRST) != first


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "SELECT * FROM visitors WHERE at >= :start AND at < :end",
            SpecError,
            "the query failed: no such table: visitors; correct the source's query",
        ),
        (
            "SELECT at, user FROM visits WHERE at >= :start AND at < :end",
            DataRejected,
            "has no column 'n', 'x', 'ok', 'day'; it has at, user; mend the file or the source's columns",
        ),
    ],
)
def test_a_bad_query(database: Path, text: str, kind: type[PipelineError], message: str) -> None:
    assert refusal(query(database, text), kind) == f"sqlite:///{database}: {message}"


def test_a_query_must_ask_for_its_window(database: Path) -> None:
    wanted = "query must use :start and :end, got :day"
    assert refusal(query(database, "SELECT * FROM visits WHERE day = :day"), SpecError) == wanted
    static = Source.model_validate({"url": f"sqlite:///{database}", "query": QUERY, "columns": {"user": "string"}})
    assert refusal(static, SpecError) == "query must use no parameters, as the source has no event_time, got :end, :start"


def test_a_wrong_value_in_a_database(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE visits SET n = 'many' WHERE user = 'anna'")
    connection.close()
    assert (
        refusal(query(database))
        == f"sqlite:///{database}: column 'n' mixes types that don't fit together; cast it in the query"
    )


def test_a_variable_of_the_url_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    wrong = Source.model_validate(
        {"url": "postgresql://me:${SHOP_PASSWORD}@h/d", "query": QUERY, "event_time": "at", "columns": {"at": "timestamp"}}
    )
    message = "url 'postgresql://me:${SHOP_PASSWORD}@h/d' needs the environment variable SHOP_PASSWORD, which is not set"
    assert refusal(wrong, SpecError) == message


def test_a_database_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "p@ss/word:1")
    down = Source.model_validate(
        {
            "url": "postgresql://me:${SHOP_PASSWORD}@127.0.0.1:9/d",
            "query": QUERY,
            "event_time": "at",
            "columns": {"at": "timestamp"},
        }
    )
    message = refusal(down, StoreUnavailable)
    assert message.startswith("postgresql://127.0.0.1:9/d: the database does not answer: ")
    assert message.endswith("; check that it runs and the url")
    assert "p@ss" not in message
