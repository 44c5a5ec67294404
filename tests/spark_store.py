"""A store in S3 that Spark reaches: a bucket, and the environment that leads to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3_servers import S3Proxy

ROOT = Path(__file__).parents[1]


def store_in_s3(server: S3Proxy, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, name a folder of it as this process's store, and return the store's URI; skips without Maven."""
    jars = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlops-tasks" / "spark-jars"
    command = [ROOT / "docker" / "fetch-jars", ROOT / "docker" / "spark" / "jars.lock", jars]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up(f"Spark's jars for S3 can't be had: {done.stderr.strip()}")
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
