"""SQL sources on a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import Window
from mlops_tasks.core.windows import windows_between
from mlops_tasks.errors import DataRejected, PipelineError, SpecError, StoreUnavailable
from mlops_tasks.specs import CollectSpec, Source
from mlops_tasks.stages import collect
from tests.fakes import make_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class that psycopg2 spells small

pytestmark = pytest.mark.postgres
PASSWORD = "p@ss/w:rd%"
QUERY = "SELECT * FROM visits WHERE at >= :start AND at < :end"
COLUMNS: dict[str, Any] = {
    "at": "timestamp",
    "user_id": "int",
    "price": "float",
    "paid": "bool",
    "day": "date",
    "note": "string",
}
FIRST = Window(start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 1, 2, tzinfo=UTC))


def binaries() -> Path:
    """Find the server's programs: on PATH, or where Debian keeps them."""
    found = [Path(p).parent for p in [shutil.which("initdb")] if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert found, "no PostgreSQL server is installed: apt-get install postgresql, or deselect with -m 'not postgres'"
    return found[-1]


def as_server(*command: str) -> None:
    """Run a program of the server, which refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else None
    result = subprocess.run(
        command, user=user, group=user, extra_groups=[] if user else None, cwd="/", check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Start a server of our own on a free port; a socket's path must be short, so not in pytest's folder."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if os.geteuid() == 0:
        entry = pwd.getpwnam("postgres")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    data, programs = str(folder / "data"), binaries()
    # The session's zone is not UTC on purpose.
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off -c timezone=America/New_York"
    init = ("-D", data, "-U", "shop", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync", "-E", "UTF8")
    try:
        as_server(str(programs / "initdb"), *init)
        as_server(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield port
        finally:
            as_server(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def database(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    monkeypatch.setenv("SHOP_PORT", str(server))
    connection = psycopg2.connect(host="127.0.0.1", port=server, user="shop", password=PASSWORD, dbname="postgres")
    connection.autocommit = True
    connection.cursor().execute(
        "CREATE TABLE visits (at timestamptz, plain timestamp, user_id bigint, price numeric(10, 2), "
        "paid boolean, day date, note text)"
    )
    yield connection
    connection.cursor().execute("DROP TABLE visits")
    connection.close()


def insert(database: Connection, *rows: tuple[object, ...]) -> None:
    for row in rows:
        at = row[0]
        plain = at.astimezone(UTC).replace(tzinfo=None) if isinstance(at, datetime) else None
        database.cursor().execute("INSERT INTO visits VALUES (%s, %s, %s, %s, %s, %s, %s)", (at, plain, *row[1:]))


def at(day: int, hour: int = 0, zone: timezone = UTC) -> datetime:
    return datetime(2024, 1, day, hour, tzinfo=zone)


def source(server: int, query: str = QUERY, columns: dict[str, Any] | None = None, event_time: str = "at") -> Source:
    url = f"postgresql://shop:${{SHOP_PASSWORD}}@127.0.0.1:{server}/postgres"
    return Source.model_validate({"url": url, "query": query, "event_time": event_time, "columns": columns or COLUMNS})


def rows(source: Source, window: Window | None = FIRST) -> list[dict[str, Any]]:
    return [row for batch in Sources().read(source, window) for row in batch.to_pylist()]


def refusal(source: Source, kind: type[PipelineError]) -> str:
    with pytest.raises(kind) as caught:
        rows(source)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_rows_of_the_window_come_typed(server: int, database: Connection) -> None:
    insert(
        database,
        (at(1, 1, timezone(timedelta(hours=2))), 1, 1.25, True, date(2024, 1, 1), "before midnight UTC"),
        (at(1), 2, 1.25, True, date(2024, 1, 1), "on the start"),
        (at(1, 23), 3, None, None, None, None),
        (at(2), 4, 2, False, date(2024, 1, 2), "on the end"),
    )
    assert rows(source(server)) == [
        {"at": at(1), "user_id": 2, "price": 1.25, "paid": True, "day": date(2024, 1, 1), "note": "on the start"},
        {"at": at(1, 23), "user_id": 3, "price": None, "paid": None, "day": None, "note": None},
    ]


def test_a_column_without_a_zone_is_utc_whatever_the_servers_zone(server: int, database: Connection) -> None:
    insert(database, (at(1), 1, 1, True, None, "in"), (at(1, 23), 2, 1, True, None, "in"), (at(2), 3, 1, True, None, "out"))
    query = "SELECT plain, user_id FROM visits WHERE plain >= :start AND plain < :end ORDER BY plain"
    found = rows(source(server, query, {"plain": "timestamp", "user_id": "int"}, "plain"))
    assert found == [{"plain": at(1), "user_id": 1}, {"plain": at(1, 23), "user_id": 2}]


def test_many_rows_stream_in_batches(server: int, database: Connection) -> None:
    database.cursor().execute(
        "INSERT INTO visits SELECT '2024-01-01'::timestamptz + n * interval '1 second', NULL, n, 1, true, NULL, NULL "
        "FROM generate_series(0, 49999) AS n"
    )
    batches = list(Sources().read(source(server, columns={"at": "timestamp", "user_id": "int"}), None))
    assert [batch.num_rows for batch in batches] == [20_000, 20_000, 10_000]
    assert sources_extent(source(server)) == (at(1, 5), at(1, 5) + timedelta(seconds=49_999))


def sources_extent(source: Source) -> tuple[datetime | None, datetime | None]:
    sources = Sources()
    return sources.earliest(source), sources.latest(source)


def test_the_extent_of_no_rows(server: int, database: Connection) -> None:
    assert database
    assert sources_extent(source(server)) == (None, None)


def test_windows_do_not_depend_on_the_order_of_the_database(server: int, database: Connection, tmp_path: Path) -> None:
    visits = [(at(d, h), user, float(user), True, None, "n") for d in (1, 2) for h in (3, 1, 2) for user in (2, 1)]
    spec = CollectSpec.model_validate({"sources": {"visits": source(server)}, "primary": "visits", "entity_key": ["user_id"]})
    windows = windows_between(at(1), at(3), "day")
    insert(database, *visits)
    first = collect.run(spec, windows, ports=make_ports(tmp_path))
    database.cursor().execute("TRUNCATE visits")
    insert(database, *reversed(visits))
    assert collect.run(spec, windows, ports=make_ports(tmp_path)) == first
    assert [raw.rows for raw in first] == [6, 6]


def test_the_query_s_order_decides_which_duplicate_is_last(server: int, database: Connection, tmp_path: Path) -> None:
    insert(database, (at(1), 1, 9, True, date(2024, 1, 3), "newest"), (at(1), 1, 1, True, date(2024, 1, 2), "older"))
    ordered = source(server, f"{QUERY} ORDER BY at, day")
    spec = CollectSpec.model_validate({"sources": {"visits": ordered}, "primary": "visits", "entity_key": ["user_id"]})
    ports = make_ports(tmp_path)
    (raw,) = collect.run(spec, [FIRST], ports=ports)
    assert b"newest" in ports.store.read(raw.tables["visits"].file.key)
    assert (raw.rows, raw.duplicates) == (1, 1)


def test_the_fingerprint_follows_the_window_s_rows(server: int, database: Connection) -> None:
    insert(database, (at(1), 1, 1, True, None, "a"))
    first = Sources().fingerprint(source(server), FIRST)
    insert(database, (at(2), 2, 1, True, None, "a"))
    assert Sources().fingerprint(source(server), FIRST) == first
    insert(database, (at(1, 5), 2, 1, True, None, "late"))
    assert Sources().fingerprint(source(server), FIRST) != first


def test_a_query_can_t_write(server: int, database: Connection) -> None:
    database.cursor().execute("CREATE SEQUENCE IF NOT EXISTS numbers")
    insert(database, (at(1), 1, 1, True, None, "a"))
    query = "SELECT at, nextval('numbers') AS user_id FROM visits WHERE at >= :start AND at < :end"
    message = refusal(source(server, query, {"at": "timestamp", "user_id": "int"}), SpecError)
    assert message == (
        f"postgresql://127.0.0.1:{server}/postgres: the query failed: cannot execute nextval() in a read-only transaction; "
        "correct the source's query"
    )


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        (
            "SELECT * FROM visitors WHERE at >= :start AND at < :end",
            SpecError,
            'the query failed: relation "visitors" does not exist; correct the source\'s query',
        ),
        (
            "SELEKT * FROM visits WHERE at >= :start AND at < :end",
            SpecError,
            'the query failed: syntax error at or near "SELEKT"; correct the source\'s query',
        ),
        (
            "SELECT at FROM visits WHERE at >= :start AND at < :end",
            DataRejected,
            "has no column 'user_id', 'price', 'paid', 'day', 'note'; it has at; mend the file or the source's columns",
        ),
        (
            "SELECT at, note AS user_id, price, paid, day, note FROM visits WHERE at >= :start AND at < :end",
            DataRejected,
            None,
        ),
        (
            "SELECT NULL::timestamptz AS at, user_id, price, paid, day, note FROM visits WHERE at >= :start AND at < :end",
            DataRejected,
            "1 rows have no 'at'; mend them, or leave them out in the query",
        ),
    ],
)
def test_a_bad_query(server: int, database: Connection, query: str, kind: type[PipelineError], message: str | None) -> None:
    insert(database, (at(1), 1, 1, True, None, "many"))
    where = f"postgresql://127.0.0.1:{server}/postgres"
    expected = (
        f"{where}: {message}"
        if message
        else (
            f"{where}, row 1: column 'user_id' must be int, got 'many'; mend the row, name the value in null_values, "
            "or change the column's type"
        )
    )
    assert refusal(source(server, query), kind) == expected


def test_a_value_the_database_can_t_convert_is_not_shown_where_a_column_is_private(server: int, database: Connection) -> None:
    insert(database, (at(1), 1, 1, True, None, "secret-note"))
    query = "SELECT at, note::int AS user_id FROM visits WHERE at >= :start AND at < :end"
    private = {"at": "timestamp", "user_id": {"type": "int", "privacy": "private"}}
    assert refusal(source(server, query, private), SpecError) == (
        f"postgresql://127.0.0.1:{server}/postgres: the query failed: a value can't be converted (not shown); "
        "correct the source's query"
    )


def test_a_wrong_password(server: int, database: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database
    monkeypatch.setenv("SHOP_PASSWORD", "wrong-secret")
    message = refusal(source(server), StoreUnavailable)
    assert message.startswith(f"postgresql://127.0.0.1:{server}/postgres: the database does not answer: ")
    assert "password authentication failed" in message
    assert "wrong-secret" not in message


def test_the_whole_url_from_the_environment(server: int, database: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(database, (at(1), 1, 1, True, None, "a"))
    monkeypatch.setenv("SHOP_URL", f"postgresql://shop:p%40ss%2Fw%3Ard%25@127.0.0.1:{server}/postgres")
    whole = Source.model_validate({"url": "${SHOP_URL}", "query": QUERY, "event_time": "at", "columns": COLUMNS})
    assert len(rows(whole)) == 1
