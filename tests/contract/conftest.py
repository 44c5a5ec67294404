"""A real MLflow server, started once for the contracts that are held against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mlflow_database import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("mlflow")) as address:
        yield address
