"""A store in S3 that Spark reaches: a bucket, and the environment that leads to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import fetch_spark_jars

if TYPE_CHECKING:
    from tests.s3_servers import S3Proxy


def store_in_s3(server: S3Proxy, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, name a folder of it as this process's store, and return the store's URI; skips without Maven."""
    jars = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlops-tasks" / "spark-jars"
    fetch_spark_jars(jars)
    store = f"s3://{server.make_bucket()}/team"
    for name, value in {**server.environ(), "MLOPS_STORE": store, "MLOPS_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLOPS_SPARK_JARS", raising=False)
    return store


def left_by_spark(server: S3Proxy, store: str) -> list[str]:
    """Return the keys of what Spark left: objects in staging and unfinished uploads."""
    bucket = store.split("/")[2]
    uploads = server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [key for key in keys_of(server, store) if ".staging/" in key] + [item["Key"] for item in uploads]


def keys_of(server: S3Proxy, store: str) -> list[str]:
    """Return all keys of the store's bucket."""
    return [item["Key"] for item in server.client().list_objects_v2(Bucket=store.split("/")[2]).get("Contents", [])]
