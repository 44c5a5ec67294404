"""Airflow reads its settings when it is first imported: give it a home of the tests' own before that."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from mlops_tasks.adapters.spark import start_for_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker_engine import Images
    from tests.s3_servers import Moto, S3Proxy

ROOT = Path(__file__).parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_home = tempfile.mkdtemp(prefix="airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    {
        "AIRFLOW_HOME": _home,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
    }
)


@pytest.fixture(scope="session")
def spark_url() -> str:
    """One Spark server for all tests: it takes seconds to start. It ends with this process, after its sessions."""
    return start_for_this_process("local[2]", "1g").url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    """An S3 server that checks signatures, with its own credentials; a test that takes it down puts it up again."""
    from tests.s3_servers import S3Proxy  # noqa: PLC0415 - only where it is asked for

    server = S3Proxy(tmp_path_factory.mktemp("s3proxy"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Moto]:
    """An S3 server in this process that knows all of S3's calls and checks no credentials."""
    from tests.s3_servers import Moto  # noqa: PLC0415 - only where it is asked for

    server = Moto()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def image_of() -> Images:
    """Images by name, each built when it is first asked for: `image_of["serve"]` is its tag."""
    from tests.docker_engine import Images, require_engine  # noqa: PLC0415 - only where it is asked for

    require_engine()
    return Images()


@pytest.fixture(scope="session")
def images(image_of: Images) -> Images:
    """The same, with the images that stages run in built already."""
    from tests.docker_engine import STAGE_IMAGES  # noqa: PLC0415 - only where it is asked for

    image_of.need(*STAGE_IMAGES)
    return image_of
