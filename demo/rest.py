"""Airflow's REST API, as far as the demo and the tests need it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import httpx

from demo import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

TERMINAL = frozenset({"success", "failed"})
CONFLICT = 409
NOT_FOUND = 404
UNAUTHORIZED = 401
_PAGE = 100


class AirflowApi:
    """A logged-in client; it logs in again when its token ends and waits out a busy server."""

    def __init__(self, url: str, user: str, password: str, *, patience_s: float = 30) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._patience_s = patience_s
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send one request under `/api/v2`; repeat it while the server is busy. Raises: DemoError."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._http.request(method, f"/api/v2{path}", **arguments)
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    msg = f"Airflow at {self.url} does not answer: {error}; see make stop and its logs"
                    raise DemoError(msg) from error
            else:
                if answer.status_code == UNAUTHORIZED and time.monotonic() < deadline:
                    self._authenticate()
                    continue
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR or time.monotonic() > deadline:
                    return answer
            time.sleep(0.5)

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a GET. Raises: DemoError."""
        return _checked(self.request("GET", path, params=params)).json()

    def send(self, method: str, path: str, body: object) -> Any:
        """Return the JSON answer of a request with a body. Raises: DemoError."""
        answer = _checked(self.request(method, path, json=body))
        return answer.json() if answer.content else None

    def dag_ids(self) -> set[str]:
        """Return the ids of all DAGs that were parsed."""
        return {dag["dag_id"] for dag in self.get("/dags", limit=_PAGE, exclude_stale=True)["dags"]}

    def import_errors(self) -> dict[str, str]:
        """Return file -> stack trace of each DAG file that could not be imported."""
        return {e["filename"]: e["stack_trace"] for e in self.get("/importErrors")["import_errors"]}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs start."""
        self._set_paused(dag_id, paused=False)

    def pause(self, dag_id: str) -> None:
        """Let a DAG's runs wait."""
        self._set_paused(dag_id, paused=True)

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless it exists."""
        body = {"name": name, "slots": slots, "description": description}
        answer = self.request("POST", "/pools", json=body)
        if answer.status_code != CONFLICT:
            _checked(answer)

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any], *, logical_date: datetime | None = None) -> bool:
        """Start a run under an id of our own; return False when there is one of that id already."""
        body = {
            "dag_run_id": run_id,
            "conf": conf,
            "logical_date": logical_date.isoformat() if logical_date else None,
        }
        answer = self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)
        if answer.status_code == CONFLICT:
            return False
        _checked(answer)
        return True

    def run(self, dag_id: str, run_id: str) -> dict[str, Any] | None:
        """Return a run, or None."""
        answer = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return None if answer.status_code == NOT_FOUND else dict(_checked(answer).json())

    def runs(self, dag_id: str, **filters: Any) -> list[dict[str, Any]]:
        """Return all runs of a DAG that meet the filters, e.g. `run_type="backfill"`."""
        return list(self._pages(f"/dags/{dag_id}/dagRuns", "dag_runs", **filters))

    def retry(self, dag_id: str, run_id: str) -> None:
        """Run a run's failed tasks, and what waited for them, again."""
        self.send("POST", f"/dags/{dag_id}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": True})

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances."""
        return list(self._pages(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances"))

    def log(self, task: dict[str, Any]) -> list[str]:
        """Return the lines of a task instance's last try."""
        path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        answer = self.request("GET", path, params={"map_index": task["map_index"], "full_content": True})
        if answer.status_code != httpx.codes.OK:
            return [f"(no log: {answer.status_code})"]
        return [line if isinstance(line, str) else _plain(line) for line in answer.json()["content"]]

    def backfill(self, dag_id: str, start: datetime, end: datetime, *, max_active_runs: int, conf: dict[str, Any]) -> int:
        """Start a backfill of runs whose interval starts within [start, end]; return its id.

        Runs that succeeded stay as they are, failed ones run again. A DAG has one backfill at a time: one that
        runs already is returned instead. The DAG is unpaused afterwards.
        """
        body = {
            "dag_id": dag_id,
            "from_date": start.isoformat(),
            "to_date": end.isoformat(),
            "max_active_runs": max_active_runs,
            "reprocess_behavior": "failed",
            "dag_run_conf": conf,
        }
        # On SQLite the creation may meet a lock and take its runs back; a scheduler that holds one of them dies of it.
        self._set_paused(dag_id, paused=True)
        answer = self.request("POST", "/backfills", json=body)
        running = self.running_backfill(dag_id) if answer.status_code == CONFLICT else None
        self._set_paused(dag_id, paused=False)
        return running if running is not None else int(_checked(answer).json()["id"])

    def backfill_done(self, backfill_id: int) -> bool:
        """Tell whether a backfill ended, whatever became of its runs."""
        return self.get(f"/backfills/{backfill_id}")["completed_at"] is not None

    def running_backfill(self, dag_id: str) -> int | None:
        """Return the id of the DAG's backfill that has not ended, if there is one."""
        backfills = self.get("/backfills", dag_id=dag_id, limit=_PAGE)["backfills"]
        return next((int(b["id"]) for b in backfills if b["completed_at"] is None), None)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """Return what a task handed on under a key; None if nothing."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        answer = self.request("GET", path, params={"stringify": False})
        return None if answer.status_code == NOT_FOUND else _checked(answer).json()["value"]

    def _set_paused(self, dag_id: str, *, paused: bool) -> None:
        self.send("PATCH", f"/dags/{dag_id}", {"is_paused": paused})

    def _pages(self, path: str, key: str, **filters: Any) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self.get(path, limit=_PAGE, offset=offset, **filters)
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return

    def _authenticate(self) -> None:
        answer = self._http.post("/auth/token", json=self._login)
        if answer.status_code != httpx.codes.CREATED:
            refused = f"Airflow at {self.url} refused the generated password ({answer.status_code})"
            msg = f"{refused}; make stop, remove .mlops/airflow and start again"
            raise DemoError(msg)
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    detail = answer.json().get("detail") if "json" in answer.headers.get("content-type", "") else answer.text[:500]
    msg = f"Airflow: {answer.request.method} {answer.request.url.path}: {answer.status_code}, {detail}"
    raise DemoError(msg)


def _plain(line: dict[str, Any]) -> str:
    """Turn a structured log line into text; an error's own lines follow."""
    errors = [f"{e.get('exc_type')}: {e.get('exc_value')}" for e in line.get("error_detail") or []]
    return "\n".join([str(line.get("event", "")), *errors])
