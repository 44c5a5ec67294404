"""What the store in S3 promises beyond the contract of all stores."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters import s3_objects, s3_staging
from mlops_tasks.adapters.s3_store import S3Store, open_s3_store
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.ports import Moved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_tasks.artifacts import FileRef
    from tests.s3_servers import Moto, S3Proxy, S3Server

    Opener = Callable[..., S3Store]

pytestmark = pytest.mark.s3


@pytest.fixture
def open_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Return a function: a server to an empty store on it."""

    def opened(server: S3Server, *, bucket: str = "", cache: str = "cache", **environ: str) -> S3Store:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        where = f"s3://{bucket or server.make_bucket()}/some/prefix"
        return open_s3_store(where, {"MLOPS_CACHE": str(tmp_path / cache), **environ})

    return opened


def put(store: S3Store, key: str, data: bytes) -> FileRef:
    with store.staging() as folder:
        (folder / "file").write_bytes(data)
        return store.publish(folder / "file", key)


def bucket_of(store: S3Store) -> str:
    return store.root.removeprefix("s3://").split("/")[0]


def test_more_keys_than_a_page(open_on: Opener, moto_server: Moto) -> None:
    store = open_on(moto_server)
    client, bucket = moto_server.client(), bucket_of(store)
    keys = [f"a/{number:04}" for number in range(1234)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=f"some/prefix/{key}"), keys))
    assert list(store.list("a/")) == keys
    assert list(store.list("a/11")) == keys[1100:1200]


def test_large_files_go_in_parts(open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "PART_BYTES", 5 << 20)
    store, data = open_on(s3_server), os.urandom(12 << 20)
    ref = put(store, "a/model", data)
    assert store.verify(ref)
    elsewhere = open_on(s3_server, bucket=bucket_of(store), cache="another cache")
    assert elsewhere.open_local(ref).read_bytes() == data
    assert s3_server.client().list_multipart_uploads(Bucket=bucket_of(store)).get("Uploads", []) == []
    assert elsewhere.moved == Moved(downloaded_bytes=12 << 20, downloaded_files=1)


def test_what_is_unchanged_is_not_moved_again(open_on: Opener, s3_server: S3Proxy) -> None:
    store = open_on(s3_server)
    ref = put(store, "a/file", b"x" * 1000)
    assert store.open_local(ref).read_bytes() == b"x" * 1000
    assert store.moved == Moved(uploaded_bytes=1000, uploaded_files=1, reused_bytes=1000, reused_files=1)
    again = open_on(s3_server, bucket=bucket_of(store))
    assert put(again, "a/file", b"x" * 1000) == ref
    assert again.open_local(ref).exists()
    assert again.moved == Moved(reused_bytes=2000, reused_files=2)


def test_what_was_damaged_in_the_bucket_is_refused(open_on: Opener, s3_server: S3Proxy) -> None:
    store = open_on(s3_server)
    ref = put(store, "a/file", b"right")
    store.write("a/record", b"right")
    for key, sha256 in (("a/file", ref.sha256), ("a/record", "0" * 64)):
        s3_server.client().put_object(
            Bucket=bucket_of(store), Key=f"some/prefix/{key}", Body=b"wrong", Metadata={"sha256": sha256}
        )
    elsewhere = open_on(s3_server, bucket=bucket_of(store), cache="another cache")
    with pytest.raises(StoreUnavailable) as caught:
        elsewhere.open_local(ref)
    assert str(caught.value) == (
        f"store {store.root}: a/file was changed or damaged: its size or sha256 is not what was published; "
        "run again to make it anew"
    )
    with pytest.raises(StoreUnavailable) as caught:
        elsewhere.read("a/record")
    assert str(caught.value) == (
        f"{store.root}/a/record: its bytes are not those that were written (sha256 differs); delete it and run again"
    )
    assert put(elsewhere, "a/file", b"right") == ref


def test_objects_that_others_wrote_are_read_to_be_verified(open_on: Opener, s3_server: S3Proxy) -> None:
    store = open_on(s3_server)
    ref = put(store, "a/file", b"right")
    for body, verified in ((b"right", True), (b"wrong", False)):
        s3_server.client().put_object(Bucket=bucket_of(store), Key="some/prefix/a/file", Body=body)
        elsewhere = open_on(s3_server, bucket=bucket_of(store), cache=f"cache {verified}")
        assert elsewhere.verify(ref) is verified


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_encryption_is_asked_for(open_on: Opener, moto_server: Moto, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(s3_objects, "PART_BYTES", 5 << 20)
    key = {"MLOPS_S3_SSE_KMS_KEY_ID": "of-the-team"} if kind == "aws:kms" else {}
    store = open_on(moto_server, MLOPS_S3_SSE=kind, **key)
    store.write("written", b"x")
    store.create("created", b"x")
    put(store, "published", b"x")
    put(store, "in parts", b"x" * (6 << 20))
    for name in ("written", "created", "published", "in parts"):
        answer = moto_server.client().head_object(Bucket=bucket_of(store), Key=f"some/prefix/{name}")
        assert answer["ServerSideEncryption"] == kind
        assert answer.get("SSEKMSKeyId") == (key.get("MLOPS_S3_SSE_KMS_KEY_ID") or None)


@pytest.mark.parametrize(("wanted", "sent"), [("when_supported", True), ("when_required", False)])
def test_the_server_is_told_the_checksum(
    open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch, wanted: str, *, sent: bool
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", wanted)
    monkeypatch.setattr(s3_objects, "PART_BYTES", 5 << 20)
    store = open_on(s3_server)
    told: list[bool] = []
    for operation in ("PutObject", "UploadPart"):
        store._objects._client.meta.events.register(
            f"before-send.s3.{operation}", lambda request, **_: told.append("x-amz-checksum-sha256" in request.headers)
        )
    put(store, "a/file", b"x")
    put(store, "in parts", b"x" * (6 << 20))
    assert told == [sent] * 3


CALLS: dict[str, Callable[[S3Store], object]] = {
    "read": lambda store: store.read("a"),
    "write": lambda store: store.write("a", b""),
    "create": lambda store: store.create("a", b""),
    "list": lambda store: list(store.list("")),
    "publish": lambda store: put(store, "a", b""),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_told(open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = open_on(s3_server)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SpecError, match=r"S3 refused access \(.*\); check the credentials and their rights"):
        CALLS[call](store)


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_told(open_on: Opener, s3_server: S3Proxy, call: str) -> None:
    store = open_on(s3_server, bucket="nosuch")
    with pytest.raises(SpecError, match="there is no bucket 'nosuch'; create it, or correct the path"):
        CALLS[call](store)


def test_no_credentials_are_told(open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_on(s3_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(SpecError, match="no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.write("a", b"")


def test_a_store_may_be_the_whole_bucket(moto_server: Moto, open_on: Opener, tmp_path: Path) -> None:
    bucket = bucket_of(open_on(moto_server))
    store = open_s3_store(f"s3://{bucket}", {"MLOPS_CACHE": str(tmp_path / "cache")})
    store.write("a/record", b"x")
    assert list(store.list("")) == ["a/record"]
    assert store.spark_uri("a/record") == f"s3a://{bucket}/a/record"


def test_spark_writes_where_no_reader_looks(open_on: Opener, s3_server: S3Proxy) -> None:
    store = open_on(s3_server)
    client, bucket = s3_server.client(), bucket_of(store)
    with store.spark_staging() as staging:
        base = staging.uri.removeprefix(f"s3a://{bucket}/")
        for name in (
            "features/__window=a/part-1.parquet",
            "features/_SUCCESS",
            "features/_temporary/0/part-2.parquet",
            "other/x",
        ):
            client.put_object(Bucket=bucket, Key=f"{base}/{name}", Body=b"rows")
        client.create_multipart_upload(Bucket=bucket, Key=f"{base}/features/pending")
        assert staging.files("features") == ["features/__window=a/part-1.parquet"]
        assert staging.files("nothing") == []
        fetched = staging.fetch("features/__window=a/part-1.parquet")
        assert fetched.read_bytes() == b"rows"
        fetched.unlink()
        assert list(store.list("")) == []
        with pytest.raises(StoreUnavailable, match="Spark's result vanished; run again"):
            staging.fetch("features/gone")
    assert store.moved == Moved(downloaded_bytes=4, downloaded_files=1)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_what_dead_processes_left_is_removed(open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_on(s3_server)
    client, bucket = s3_server.client(), bucket_of(store)
    for key in ("dead.lease", "dead/features/part-1.parquet"):
        client.put_object(Bucket=bucket, Key=f"some/prefix/.staging/{key}", Body=b"x")
    client.create_multipart_upload(Bucket=bucket, Key="some/prefix/.staging/dead/features/part-2.parquet")
    with store.spark_staging():
        pass
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 2, "nobody is dead yet"
    monkeypatch.setattr(s3_staging, "DEAD_AFTER", s3_staging.DEAD_AFTER * 0)
    time.sleep(1.1)  # S3 tells times in seconds
    with store.spark_staging() as staging:
        keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert keys == [f"{staging.uri.removeprefix(f's3a://{bucket}/')}.lease"]
        assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_uploads_that_nobody_goes_on_with_are_removed(open_on: Opener, moto_server: Moto) -> None:
    store = open_on(moto_server)
    client, bucket = moto_server.client(), bucket_of(store)
    for key in ("some/prefix/a/model", "of/another/store"):
        client.create_multipart_upload(Bucket=bucket, Key=key)  # for moto, every upload began in 2010
    with store.spark_staging():
        pass
    assert [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["of/another/store"]


def test_a_lease_is_kept_alive(open_on: Opener, s3_server: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_staging, "REFRESHED_EVERY_S", 0.05)
    store = open_on(s3_server)
    written: list[str] = []
    put = store._objects.write

    def write(key: str, data: bytes) -> None:
        written.append(key)
        put(key, data)

    monkeypatch.setattr(store._objects, "write", write)
    with store.spark_staging():
        while len(written) < 4:
            time.sleep(0.01)
    assert len(set(written)) == 1
