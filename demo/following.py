"""Runs of Airflow as progress on a terminal: a bar for each task; plain lines where there is no terminal."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from demo import DemoError
from demo.rest import TERMINAL, AirflowApi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POLL_S = 0.5
LOG_LINES = 25
_MARKS = {"success": "[green]done[/]", "failed": "[red]failed[/]", "skipped": "[dim]skipped[/]", "running": "running"}
_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class Board(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, name: str, state: str, done: float, total: float, detail: str = "") -> None:
        """Show a line: its state, how much is done, and a detail."""


class LiveBoard:
    """Bars that move, for people."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        columns = (
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[state]:<8}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._live = Live(Group(self._progress), console=console, refresh_per_second=8)
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, name: str, state: str, done: float, total: float, detail: str = "") -> None:
        """Move the line's bar; one that runs without a known end pulses."""
        if name not in self._lines:
            self._lines[name] = self._progress.add_task(name, total=total, start=False, state="", detail="")
        line = self._lines[name]
        pulses = state == "running" and total <= 1
        if state in _ENDED | {"running"}:
            self._progress.start_task(line)
        self._progress.update(
            line, completed=done, total=None if pulses else total, state=_MARKS.get(state, state), detail=detail[:60]
        )
        if state in _ENDED:
            self._progress.update(line, completed=total, total=total)
            self._progress.stop_task(line)


class PlainBoard:
    """One line for each change, for logs."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._seen: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, name: str, state: str, done: float, total: float, detail: str = "") -> None:
        """Write the line if it changed in state or count."""
        if self._seen.get(name) == (state, done):
            return
        self._seen[name] = (state, done)
        count = f" {done:.0f}/{total:.0f}" if total > 1 else ""
        self._console.print(f"  {name}: {state}{count} {detail}".rstrip(), markup=False)


def board(console: Console) -> Board:
    """Return the board that fits where the output goes."""
    return LiveBoard(console) if console.is_terminal else PlainBoard(console)


def _trust() -> None:
    """Check nothing."""


def follow_run(api: AirflowApi, dag_id: str, run_id: str, console: Console, *, watch: Callable[[], None] = _trust) -> None:
    """Show a run's tasks until it ends; `watch` is called at each look. Raises: DemoError with the failed task's log."""
    with board(console) as shown:
        while True:
            watch()
            run = api.run(dag_id, run_id) or {"state": "missing"}
            tasks = _in_order(api.tasks(dag_id, run_id))
            for task in tasks:
                detail = _latest_line(api, task) if task["state"] == "running" and console.is_terminal else _duration(task)
                shown.show(_name(task), task["state"] or "waiting", 0, 1, detail)
            if run["state"] in TERMINAL:
                break
            time.sleep(POLL_S)
    if run["state"] == "failed":
        raise DemoError(explain(api, dag_id, run_id))


def follow_windows(
    api: AirflowApi,
    dag_id: str,
    starts: Sequence[datetime],
    console: Console,
    *,
    ended: Callable[[], bool],
    watch: Callable[[], None] = _trust,
) -> list[dict[str, Any]]:
    """Show the runs of windows until `ended`; return them. Raises: DemoError with a failed task's log."""
    with board(console) as shown:
        while True:
            watch()
            done = ended()
            runs = runs_of(api, dag_id, starts)
            finished = [run for run in runs if run["state"] in TERMINAL]
            at = max((f"{run['data_interval_start'][:10]}" for run in finished), default="")
            shown.show(dag_id, "success" if done else "running", len(finished), len(starts), at)
            if done:
                break
            time.sleep(POLL_S)
    for run in runs:
        if run["state"] == "failed":
            raise DemoError(explain(api, dag_id, run["dag_run_id"]))
    return runs


def runs_of(api: AirflowApi, dag_id: str, starts: Sequence[datetime]) -> list[dict[str, Any]]:
    """Return a DAG's runs whose data interval starts at one of the given times."""
    wanted = set(starts)
    day = timedelta(days=1)
    runs = api.runs(dag_id, logical_date_gte=(min(starts) - day).isoformat(), logical_date_lte=(max(starts) + day).isoformat())
    return [run for run in runs if run["data_interval_start"] and datetime.fromisoformat(run["data_interval_start"]) in wanted]


def explain(api: AirflowApi, dag_id: str, run_id: str) -> str:
    """Return what failed in a run: the task, its page, the end of its log."""
    page = f"{api.url}/dags/{dag_id}/runs/{run_id}"
    for task in _in_order(api.tasks(dag_id, run_id)):
        if task["state"] == "failed":
            log = "\n".join(api.log(task)).splitlines()[-LOG_LINES:]
            return "\n".join([f"{dag_id}: task {task['task_id']} failed", f"{page}/tasks/{task['task_id']}", *log])
    return f"{dag_id}: run {run_id} failed before any task: {page}"


def _in_order(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by when they started; those that wait keep the API's order, after the others."""
    return sorted(tasks, key=lambda task: (task["start_date"] is None, task["start_date"] or ""))


def _name(task: dict[str, Any]) -> str:
    return str(task["task_id"])


def _duration(task: dict[str, Any]) -> str:
    return f"{task['duration']:.1f} s" if task["duration"] else ""


def _latest_line(api: AirflowApi, task: dict[str, Any]) -> str:
    lines = [line for line in api.log(task) if line and not line.startswith("::")]
    return lines[-1].splitlines()[-1].strip() if lines else ""
