"""What Airflow loads: the reports' pages in the API server, and imports made once before tasks are forked."""

from __future__ import annotations

import importlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from mlops_links import FILES_PREFIX

PRELOAD = ("mlops_operator", "mlops_dags", "mlops_approval", "mlops_controls", "mlops_tasks.runner")
"""Modules that are cheap, start no threads and are needed by every task."""


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
        """Import what every task needs; forked task processes inherit it (with lazy_load_plugins off)."""
        if os.environ.get("MLOPS_PRELOAD", "1") == "1":
            for module in PRELOAD:
                importlib.import_module(module)
