"""File sources on an S3 server."""

from __future__ import annotations

import gzip
import io
import socket
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from mlops_tasks.adapters.sources import Sources
from mlops_tasks.artifacts import Window
from mlops_tasks.errors import DataRejected, PipelineError, SpecError, StoreUnavailable
from mlops_tasks.specs import CollectSpec, Source
from mlops_tasks.stages import collect
from tests.fakes import make_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3
COLUMNS: dict[str, Any] = {"at": "timestamp", "user": "string"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Client]:
    environment = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**environment, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    yield client
    for item in client.list_objects_v2(Bucket="shop").get("Contents", []):
        client.delete_object(Bucket="shop", Key=item["Key"])
    client.delete_bucket(Bucket="shop")


def source(path: str) -> Source:
    return Source.model_validate({"path": path, "event_time": "at", "columns": COLUMNS})


def users(source: Source) -> list[str]:
    return [row["user"] for batch in Sources().read(source, None) for row in batch.to_pylist()]


def refusal(path: str, kind: type[PipelineError]) -> str:
    with pytest.raises(kind) as caught:
        users(source(path))
    return str(caught.value)


def put(client: S3Client, key: str, *names: str) -> None:
    text = "at,user\n" + "".join(f"2024-01-0{day}T12:00:00Z,{name}\n" for day, name in enumerate(names, 1))
    client.put_object(Bucket="shop", Key=key, Body=gzip.compress(text.encode()) if key.endswith(".gz") else text.encode())


def test_a_glob_of_objects_is_read_in_the_order_of_keys(client: S3Client) -> None:
    put(client, "in/b.csv", "second")
    put(client, "in/a.csv.gz", "first")
    put(client, "in/deep/c.csv", "third")
    put(client, "other/d.csv", "no")
    assert users(source("s3://shop/in/*.csv*")) == ["first", "second"]
    assert users(source("s3://shop/in/**/*.csv")) == ["second", "third"]
    assert users(source("s3://shop/in/[ab].csv")) == ["second"]


def test_parquet_and_zip_objects(client: S3Client) -> None:
    parquet, archive = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"at": [datetime(2024, 1, 1, tzinfo=UTC)], "user": ["first"]}), parquet)
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("b.csv", "at,user\n2024-01-01,second\n")
    client.put_object(Bucket="shop", Key="in/a.parquet", Body=parquet.getvalue())
    client.put_object(Bucket="shop", Key="in/b.csv.zip", Body=archive.getvalue())
    assert users(source("s3://shop/in/*")) == ["first", "second"]


def test_more_objects_than_a_page(client: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_tasks.adapters.sources.s3.PAGE_OBJECTS", 2)
    for number in range(5):
        put(client, f"many/{number}.csv", f"user {number}")
    assert users(source("s3://shop/many/*.csv")) == [f"user {number}" for number in range(5)]


def test_the_fingerprint_and_extent_follow_the_objects(client: S3Client) -> None:
    put(client, "in/a.csv", "one")
    sources, wanted = Sources(), source("s3://shop/in/*.csv")
    first = sources.fingerprint(wanted, None)
    assert sources.fingerprint(wanted, None) == first
    assert sources.latest(wanted) == datetime(2024, 1, 1, 12, tzinfo=UTC)
    put(client, "in/a.csv", "one", "two")
    assert sources.fingerprint(wanted, None) != first
    assert sources.latest(wanted) == datetime(2024, 1, 2, 12, tzinfo=UTC)


def test_windows_are_collected_from_s3(client: S3Client, tmp_path: Path) -> None:
    put(client, "in/a.csv", "one", "two")
    sources = {"visits": source("s3://shop/in/*.csv").model_dump()}
    spec = CollectSpec.model_validate({"sources": sources, "primary": "visits", "entity_key": ["user"]})
    windows = [Window(start=datetime(2024, 1, d, tzinfo=UTC), end=datetime(2024, 1, d + 1, tzinfo=UTC)) for d in (1, 2)]
    assert [raw.rows for raw in collect.run(spec, windows, ports=make_ports(tmp_path))] == [1, 1]


def test_what_is_not_there(client: S3Client) -> None:
    assert client
    assert refusal("s3://nosuch/in/*.csv", SpecError) == (
        "s3://nosuch/in/*.csv: there is no bucket 'nosuch'; create it, or correct the path"
    )
    assert refusal("s3://shop/in/*.csv", SpecError) == (
        "s3://shop/in/*.csv: no object matches; correct the path, or upload the objects"
    )


def test_a_damaged_object_is_named(client: S3Client) -> None:
    client.put_object(Bucket="shop", Key="in/a.csv.gz", Body=gzip.compress(b"at,user\n2024-01-01,a\n")[:-6])
    assert refusal("s3://shop/in/*", DataRejected) == "s3://shop/in/a.csv.gz: is cut off or not a gz file; fetch it again"


def test_an_object_that_changes_after_it_was_listed(client: S3Client) -> None:
    put(client, "in/a.csv", "one")
    put(client, "in/b.csv", "two")
    batches = Sources().read(source("s3://shop/in/*.csv"), None)
    next(batches)
    put(client, "in/b.csv", "changed")
    with pytest.raises(StoreUnavailable) as caught:
        list(batches)
    assert str(caught.value) == "s3://shop/in/b.csv: changed or vanished while it was read; run again"


def test_a_server_that_is_down(client: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    assert refusal("s3://shop/in/*.csv", StoreUnavailable) == (
        "s3://shop/in/*.csv: S3 does not answer (EndpointConnectionError); check AWS_ENDPOINT_URL and the network"
    )


def test_no_credentials(client: S3Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert refusal("s3://shop/in/*.csv", SpecError) == (
        "s3://shop/in/*.csv: no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )
