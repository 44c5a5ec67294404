"""What keeps Spark from its store or its executors is no fault of the data, and is told with what to do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlops_tasks.stages.preprocess import _trouble


@dataclass
class SparkError(Exception):
    text: str
    condition: str = ""

    def __str__(self) -> str:
        return self.text

    def getCondition(self) -> str:  # noqa: N802 - PySpark's name
        return self.condition


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            SparkError("java.lang.ClassNotFoundException: Class org.apache.hadoop.fs.s3a.S3AFileSystem not found"),
            (
                "the Spark server has no jars for a store in S3; fetch them (docker/fetch-jars), set MLOPS_SPARK_JARS to "
                "their folder where the server starts, and start it again"
            ),
        ),
        (
            SparkError("[PATH_NOT_FOUND] Path does not exist: file:/srv/store/x", "PATH_NOT_FOUND"),
            (
                "Spark does not see the store file:///srv/store; use one that the Spark server and its workers see, "
                "in S3 or on a shared disk"
            ),
        ),
        (
            SparkError("Job aborted\nCaused by: java.nio.file.AccessDeniedException: team: getFileStatus: Forbidden\n\tat x"),
            (
                "Spark could not use the store file:///srv/store: Caused by: java.nio.file.AccessDeniedException: team: "
                "getFileStatus: Forbidden; check the AWS_ variables of the Spark server and its workers"
            ),
        ),
        (
            SparkError("Job aborted due to stage failure: Task 0 failed 4 times: ExecutorLostFailure (executor 3 exited)"),
            (
                "Spark lost the executors that did the work; run again, with more of them or with more memory "
                "(MLOPS_SPARK_EXECUTOR_MEMORY) if they were killed"
            ),
        ),
        (SparkError("[DIVIDE_BY_ZERO] Division by zero"), ""),
        (SparkError("[DIVIDE_BY_ZERO] Division by zero\n\tat org.apache.hadoop.fs.s3a.S3AFileSystem.close(x.java:1)"), ""),
    ],
)
def test_trouble_is_told(error: SparkError, told: str) -> None:
    assert _trouble(error, "file:///srv/store") == told
