"""The whole loop on a store in S3, by the command line: what it moves, and that it moves nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.tiny_pipeline import NAME, RANGE, write_pipeline
from tests.mlflow_database import fresh_uri
from tests.requirements import fetch_spark_jars

if TYPE_CHECKING:
    from tests.s3_servers import S3Proxy

pytestmark = [pytest.mark.s3, pytest.mark.spark, pytest.mark.slow]
NOTHING = dict.fromkeys((f"{kind}_{what}" for kind in ("downloaded", "uploaded", "reused") for what in ("bytes", "files")), 0)


@pytest.fixture
def environ(s3_server: S3Proxy, tmp_path: Path) -> dict[str, str]:
    jars = tmp_path.parent / "spark-jars"
    fetch_spark_jars(jars)
    write_pipeline(tmp_path)
    (tmp_path / "mlflow").mkdir()
    return {
        **os.environ,
        **s3_server.environ(),
        "MLOPS_PIPELINES": str(tmp_path / "pipelines"),
        "MLOPS_STORE": f"s3://{s3_server.make_bucket()}/team",
        "MLOPS_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": fresh_uri(tmp_path / "mlflow"),
        "MLOPS_SPARK": "local[2]",
        "MLOPS_SPARK_MEMORY": "1g",
        "MLOPS_SPARK_JARS": str(jars),
        "MLOPS_CODE_VERSION": "test",
        "OMP_NUM_THREADS": "1",
    }


def run(environ: dict[str, str], *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mlops_tasks", "run", NAME, *RANGE, "--json", *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_what_is_unchanged_is_not_moved_again(environ: dict[str, str], s3_server: S3Proxy) -> None:
    first = run(environ)
    assert first["passed"]
    assert first["report"].startswith(environ["MLOPS_STORE"])
    moved = first["moved"]
    assert moved["uploaded_files"] > 50
    assert moved["uploaded_bytes"] > 100_000
    assert moved["reused_files"] > 0, "later stages read what earlier ones published from this machine's cache"

    second = run(environ)
    assert all(stage["computed"] == 0 for stage in second["stages"].values())
    assert second["moved"] == NOTHING

    third = run(environ, "--recompute", "evaluate")
    assert third["stages"]["evaluate"]["computed"] == 1
    assert third["moved"]["downloaded_bytes"] < 10_000, "the new model card, which evaluate wrote as a record"
    assert third["moved"]["reused_bytes"] > 100_000, "the dataset and the model"

    bucket = environ["MLOPS_STORE"].split("/")[2]
    keys = [item["Key"] for item in s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert all(key.startswith(f"team/{NAME}/") for key in keys), "nothing unfinished is left"
