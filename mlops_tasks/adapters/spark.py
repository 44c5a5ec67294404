"""A Spark Connect session, on a server that exists already or on one that lives as long as we do.

One protocol for a laptop and a cluster: `MLOPS_SPARK` is `sc://host:port` for a server that runs
already, or a master (`local[*]`, `spark://host:port`) for a server started here. A server costs 6 s to
start and then answers a new client in 0.1 s, so whoever runs many tasks starts one: `mlops spark`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from mlops_tasks.adapters.spark_java import java
from mlops_tasks.adapters.spark_server import LocalServer, free_port, start_for_this_process
from mlops_tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame, SparkSession

__all__ = ["ConnectSpark", "LocalServer", "connect", "free_port", "java", "start_for_this_process"]

RETRIES = 5
LONGEST_PAUSE_MS = 10_000
"""With Spark's own pauses, 15 s until a server counts as gone; its default is ten minutes. A task's retries wait longer."""
SESSION_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}


class ConnectSpark:
    """Implements `ports.Spark`: joins the server of `where`, or starts one and ends it with this process."""

    def __init__(self, where: str, memory: str) -> None:
        """Take `sc://...` or a master, and the heap of a local server, e.g. `3g`."""
        self._where = where
        self._memory = memory
        self._session: SparkSession | None = None
        self._server: LocalServer | None = None

    def session(self) -> SparkSession:
        """Return the session. Raises: StoreUnavailable, SpecError."""
        if self._server is not None and self._server.process.poll() is not None:
            self._session = self._server = None  # it was killed: the next try gets another one
        if self._session is None and self._where.startswith("sc://"):
            self._session = connect(self._where)
        elif self._session is None:
            self._server = start_for_this_process(self._where, self._memory)
            self._session = connect(self._server.url)
        return self._session

    def read(self, uris: Sequence[str]) -> DataFrame:
        """Read Parquet files into one frame."""
        return self.session().read.parquet(*uris)


def connect(url: str) -> SparkSession:
    """Open a session on a Spark Connect server. Raises: StoreUnavailable."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # PySpark's own functions then build Connect's columns
    from pyspark.errors import PySparkException  # noqa: PLC0415 - seconds to import
    from pyspark.sql.connect.client.retries import DefaultPolicy  # noqa: PLC0415 - likewise
    from pyspark.sql.connect.session import SparkSession  # noqa: PLC0415 - likewise

    from mlops_tasks.adapters.spark_channel import Channel  # noqa: PLC0415 - likewise

    try:
        session = SparkSession.builder.channelBuilder(Channel(url)).create()
        session.client.set_retry_policies([DefaultPolicy(max_retries=RETRIES, max_backoff=LONGEST_PAUSE_MS)])
        for key, value in SESSION_CONF.items():
            session.conf.set(key, value)
    except (PySparkException, OSError) as error:
        msg = f"Spark at {_shown(url)} does not answer: {_reason(error)}; start it (`mlops spark`) or unset MLOPS_SPARK"
        raise StoreUnavailable(msg) from error
    return session


def _shown(url: str) -> str:
    """Return a URL without the token that it may hold."""
    return re.sub(r"(?<=token=)[^;]*", "***", url)


def _reason(error: Exception) -> str:
    """Return the first line of an error; without the token."""
    why = str(error).splitlines()[0][:200]
    token = os.environ.get("SPARK_CONNECT_AUTHENTICATE_TOKEN")
    return why.replace(token, "***") if token else why
