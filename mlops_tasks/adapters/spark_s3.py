"""What a Spark server needs for a store in S3: jars on its classpath, and S3A's settings from the environment.

Credentials are in none of these settings. A server and its executors take them from their own environment by the
usual chain (variables, profile, web identity, container, instance), so none crosses the network or shows in `ps`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCK = "docker/spark/jars.lock"
CONNECTIONS = 128
THREADS = 32
RETRIES = 8
"""With S3A's pauses, which double from half a second, a server may be away for two minutes."""
COMMITTER = {
    "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol",
    "spark.sql.parquet.output.committer.class": "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
    "spark.hadoop.mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
    "spark.hadoop.fs.s3a.committer.name": "magic",
    "spark.hadoop.fs.s3a.committer.magic.enabled": "true",
}
"""Files are uploaded where they belong and become visible when the job commits: nothing is renamed, that is copied."""
SSE = {"AES256": "SSE-S3", "aws:kms": "SSE-KMS"}


def wants_s3(environ: Mapping[str, str]) -> bool:
    """Tell whether a server started here has to reach S3: the store is there, or an image brought the jars."""
    return environ.get("MLOPS_STORE", "").startswith("s3://") or bool(environ.get("MLOPS_SPARK_JARS"))


def s3_jars(environ: Mapping[str, str], spark_jars: Path) -> list[Path]:
    """Return the jars beyond Spark's own in `spark_jars`.

    Raises:
        SpecError: they are not there, or belong to another Hadoop than Spark's; says how to fetch them.

    """
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mlops-tasks" / "spark-jars"
    folder = Path(environ.get("MLOPS_SPARK_JARS") or cache).expanduser()
    jars = sorted(folder.glob("*.jar"))
    found, wanted = _version(folder, "hadoop-aws"), _version(spark_jars, "hadoop-client-api")
    if found != wanted:
        msg = (
            f"Spark needs hadoop-aws {wanted} for a store in S3, {folder} has {found or 'none'}: fetch it with "
            f"`docker/fetch-jars {LOCK} {folder}`, or set MLOPS_SPARK_JARS to the folder that has it"
        )
        raise SpecError(msg)
    return jars


def _version(folder: Path, artifact: str) -> str:
    """Return the version in the name of an artifact's newest jar, `` if there is none."""
    found = [re.fullmatch(rf"{artifact}-(\d.*)\.jar", path.name) for path in sorted(folder.glob(f"{artifact}-*.jar"))]
    return next((match[1] for match in reversed(found) if match), "")


def s3a_conf(environ: Mapping[str, str]) -> dict[str, str]:
    """Return Spark's settings for `s3a://` from the AWS_ variables, MLOPS_S3_SSE and MLOPS_S3_SSE_KMS_KEY_ID."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else "")
    sse = SSE.get(environ.get("MLOPS_S3_SSE", ""), "")
    settings = {
        "endpoint": endpoint,
        "endpoint.region": region,
        "path.style.access": "true" if endpoint else "",
        "connection.ssl.enabled": "false" if urlsplit(endpoint).scheme == "http" else "",
        "aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
        "connection.maximum": str(CONNECTIONS),
        "threads.max": str(THREADS),
        "retry.limit": str(RETRIES),
        "input.stream.type": "classic",
        "encryption.algorithm": sse,
        "encryption.key": environ.get("MLOPS_S3_SSE_KMS_KEY_ID", "") if sse == "SSE-KMS" else "",
    }
    return COMMITTER | {f"spark.hadoop.fs.s3a.{name}": value for name, value in settings.items() if value}
