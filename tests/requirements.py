"""What a test needs of its machine: it is skipped without it, and fails where CI=true says that it must be there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]


def give_up(reason: str) -> NoReturn:
    """Skip the test for a reason; where CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def fetch_spark_jars(folder: Path) -> None:
    """Bring what Spark needs for `s3a://` into a folder, or give up: it takes Maven."""
    command = [ROOT / "docker" / "fetch-jars", ROOT / "docker" / "spark" / "jars.lock", folder]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        give_up(f"Spark's jars for S3 can't be had: {done.stderr.strip()}")
