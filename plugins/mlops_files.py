"""Reports in the artifact store to pages under `/mlops/files`, for people who may see the DAG."""

from __future__ import annotations

import mimetypes
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Response

from mlops_tasks import wiring
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.ports import ArtifactStore

SHOWN = {".html", ".md"}
"""Only reports: other files may hold rows."""
HEADERS = {
    # A report's scripts run without the origin of Airflow, so they can't act with its user's session.
    "Content-Security-Policy": "sandbox allow-scripts allow-popups",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600",
}


def build_app() -> FastAPI:
    """Build the app; its one route asks Airflow whether the user may read the DAG's task results."""
    app = FastAPI(title="Reports of the pipelines", openapi_url=None)
    allowed = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))

    @app.get("/{dag_id}/{key:path}", dependencies=[allowed])
    def show(dag_id: str, key: str, store: Annotated[ArtifactStore, Depends(open_store)]) -> Response:
        """Return a report of the DAG's own pipeline."""
        return Response(read_report(store, dag_id, key), media_type=mimetypes.guess_type(key)[0], headers=HEADERS)

    return app


def open_store() -> ArtifactStore:
    """Open the store that MLOPS_STORE names."""
    return wiring.open_store()


def read_report(store: ArtifactStore, dag_id: str, key: str) -> bytes:
    """Read a report by its key.

    Raises:
        HTTPException: 404 for what is no report of this pipeline; 503 when the store does not answer.

    """
    pipeline = dag_id.rpartition(".")[0]
    parts = key.split("/")
    suffix = "." + parts[-1].rpartition(".")[2]
    if parts[0] != pipeline or suffix not in SHOWN or any(part in {"", ".", ".."} for part in parts):
        raise HTTPException(404, "there is no such report")
    try:
        return store.read(key)
    except (KeyError, ValueError) as error:
        raise HTTPException(404, "there is no such report") from error
    except StoreUnavailable as error:
        raise HTTPException(503, str(error)) from error
