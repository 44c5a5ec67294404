"""What Airflow loads: the reports' pages in the API server, and imports made once before tasks are forked."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from mlops_links import FILES_PREFIX
from mlops_operator import runtime

LIGHT = ("mlops_operator", "mlops_dags", "mlops_approval", "mlops_controls", "mlops_tasks.runner")
"""What every task needs; 0.2 s."""
RUNTIMES = {"docker": ("mlops_docker", "mlops_reaper")}
"""What every task of a runtime needs; 1 s for the Docker provider."""
LIBRARIES = "pandas,pyarrow.parquet,great_expectations"
"""What most stages need here, slow to import (2.5 s, 200 MB that tasks share) and safe to fork: MLOPS_PRELOAD replaces it.

Not torch and not pyspark: their threads and gateways don't survive a fork.
"""


class LazyApp:
    """An ASGI app that is built at its first request, so that only the API server imports FastAPI."""

    def __init__(self) -> None:
        self._app: Callable[..., Awaitable[None]] | None = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer by the real app."""
        if self._app is None:
            self._app = importlib.import_module("mlops_files").build_app()
        await self._app(scope, receive, send)


class MlopsPlugin(AirflowPlugin):
    """The pages under `/mlops`, and the preloading of imports."""

    name = "mlops"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - the base class declares it so
        {"app": LazyApp(), "url_prefix": FILES_PREFIX, "name": "mlops files"}
    ]

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:  # noqa: ARG003 - Airflow's signature
        """Import what tasks need; forked task processes inherit it (with `core.lazy_load_plugins` off)."""
        for module in LIGHT + RUNTIMES.get(runtime(), ()) + libraries_to_preload(sys.argv):
            importlib.import_module(module)


def libraries_to_preload(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the installed libraries of MLOPS_PRELOAD, in the process that forks tasks; nothing elsewhere."""
    if "scheduler" not in arguments[1:2] and arguments[1:3] != ["celery", "worker"]:
        return ()
    here = LIBRARIES if runtime() == "process" else ""  # else stages import them elsewhere
    wanted = os.environ.get("MLOPS_PRELOAD", here).split(",")
    return tuple(name for name in wanted if name and importlib.util.find_spec(name.partition(".")[0]))
