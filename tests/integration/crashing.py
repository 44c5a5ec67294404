"""Runs `mlops` in processes that kill themselves with SIGKILL at a chosen moment of their work.

A moment is a commit (a change to the store or to MLflow, before or after it is made), a step of an optimiser,
or Spark's writing of files. One parent imports the libraries once and forks a process for each run, because
importing them takes seconds, which a run does not.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
STORE_CHANGES = ("write", "create", "publish", "delete")
MLFLOW_CHANGES = (
    "create_experiment", "create_run", "update_run", "log_batch", "log_param", "set_tag", "set_terminated",
    "log_artifact", "log_artifacts", "create_registered_model", "create_model_version", "set_model_version_tag",
    "set_registered_model_alias", "delete_model_version",
)  # fmt: skip


class Death(BaseModel):
    """When a process kills itself: before or after its nth moment of a kind whose text holds `match`, or a while later."""

    kind: str = "commit"
    match: str = ""
    number: int = 1
    after: bool = False
    delay_s: float = 0


class Order(BaseModel):
    """One run of `mlops`."""

    argv: list[str]
    environ: dict[str, str]
    log: str
    death: Death | None


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (negative: the signal), what it printed and the moments that it reached."""

    code: int
    out: str
    err: str
    moments: list[str]

    @property
    def commits(self) -> list[str]:
        """The commits among the moments."""
        return [text.removeprefix("commit ") for text in self.moments if text.startswith("commit ")]

    @property
    def result(self) -> Any:
        """The JSON object on stdout."""
        return json.loads(self.out)


class Mortals:
    """The parent process, seen from a test."""

    def __init__(self) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.crashing"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT,
        )  # fmt: skip

    def run(self, argv: Sequence[str], environ: Mapping[str, str], death: Death | None = None) -> Ended:
        """Run `mlops` with these arguments until it ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as name:
            log = Path(name)
            order = Order(argv=list(argv), environ=dict(environ), log=str(log), death=death)
            self._process.stdin.write(order.model_dump_json() + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            texts = [(log / part).read_text() if (log / part).exists() else "" for part in ("out", "err", "moments")]
        return Ended(code, texts[0], texts[1], texts[2].splitlines())

    def close(self) -> None:
        """End the parent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


class _Reaper:
    """Counts the moments of its process, writes them down and kills it when its time has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.death: Death | None = None
        self.log = -1

    def pass_moment(self, kind: str, name: str, work: Callable[[], Any]) -> Any:
        if self.log < 0:
            return work()
        death = self._due(kind, name)
        if death and not death.after:
            self._die(death.delay_s)
        result = work()
        if death and death.after:
            self._die(death.delay_s)
        return result

    def _due(self, kind: str, name: str) -> Death | None:
        with self._lock:
            os.write(self.log, f"{kind} {name}\n".encode())
            if self.death is None or kind != self.death.kind or self.death.match not in name:
                return None
            self._count += 1
            return self.death if self._count == self.death.number else None

    def _die(self, delay_s: float) -> None:
        if delay_s:
            threading.Timer(delay_s, _kill).start()
        else:
            _kill()


REAPER = _Reaper()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: type, method: str, kind: str) -> None:
    real = getattr(owner, method)

    @functools.wraps(real)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = next((a for a in reversed(args) if isinstance(a, str)), "")
        return REAPER.pass_moment(kind, f"{owner.__name__}.{method} {name}", lambda: real(self, *args, **kwargs))

    setattr(owner, method, wrapped)


def _watch_spark() -> None:
    """Make it a moment that Spark has files of a write under way."""
    from pyspark.sql.connect.readwriter import DataFrameWriter  # noqa: PLC0415 - in the parent only

    real = DataFrameWriter.parquet

    def parquet(self: Any, path: str, *args: Any, **kwargs: Any) -> None:
        def watch() -> None:
            folder = Path(path.removeprefix("file://"))
            while not (folder / "_temporary" / "0").exists() and not (folder / "_SUCCESS").exists():
                time.sleep(0.001)
            REAPER.pass_moment("spark", path, lambda: None)

        threading.Thread(target=watch, daemon=True).start()
        real(self, path, *args, **kwargs)

    DataFrameWriter.parquet = parquet


def _import_all() -> None:
    """Import what stages import, and wrap what changes the world."""
    import great_expectations  # noqa: F401, PLC0415 - so that no run has to
    import matplotlib.pyplot  # noqa: ICN001, F401, PLC0415 - likewise
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401, PLC0415 - likewise
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - likewise
    from torch.optim import AdamW  # noqa: PLC0415 - likewise

    from mlops_tasks.adapters.local_store import LocalStore  # noqa: PLC0415 - likewise
    from mlops_tasks.adapters.mlflow_writing import SqliteClient  # noqa: PLC0415 - likewise
    from mlops_tasks.pipeline import STAGES  # noqa: PLC0415 - likewise

    for stage in STAGES:
        stage.function()
    for method in STORE_CHANGES:
        _wrap(LocalStore, method, "commit")
    for method in MLFLOW_CHANGES:
        _wrap(SqliteClient if method in vars(SqliteClient) else MlflowClient, method, "commit")
    _wrap(AdamW, "step", "step")
    _watch_spark()


def _run_in_child(order: Order) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(order.log) / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(order.environ)
    REAPER.log = os.open(Path(order.log) / "moments", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    REAPER.death = order.death
    from mlops_tasks.cli import main  # noqa: PLC0415 - quick to import, unlike the rest

    try:
        code = main(order.argv)
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the libraries' own ends would wait for threads that exist in the parent alone


def serve() -> None:
    """Fork a process for each order on stdin; answer with its exit code."""
    _import_all()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run_in_child(Order.model_validate_json(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
