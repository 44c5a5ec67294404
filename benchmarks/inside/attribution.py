"""Run `mlops` with a clock on it: seconds of the main thread, and of its CPU, by whose code they are spent in.

`python -m benchmarks.inside.attribution OUT.json run nyc_flights ...`. A stack of regions: each moment is charged
to the innermost one, and what no region claims to `own`. Regions are the import of a library for the first time,
and calls of the library's functions named in `CALLS`, which are wrapped as soon as their module is loaded.
"""

from __future__ import annotations

import atexit
import builtins
import functools
import importlib
import inspect
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

SPARK, GX, LEARNING = "Spark", "Great Expectations", "torch and scikit-learn"
PACKAGES = {
    **dict.fromkeys(("pyspark", "grpc", "google", "grpc_status"), SPARK),
    **dict.fromkeys(("great_expectations", "marshmallow", "altair", "mistune"), GX),
    **dict.fromkeys(("torch", "sklearn", "scipy", "onnx", "onnxscript", "tabm", "rtdl_num_embeddings", "optuna"), LEARNING),
    **dict.fromkeys(("mlflow", "alembic"), "MLflow"),
    "matplotlib": "matplotlib",
    "onnxruntime": "ONNX Runtime",
    **dict.fromkeys(("pandas", "pyarrow", "numpy", "pydantic", "sqlalchemy", "boto3", "rich"), "imports of other libraries"),
}
"""Package -> whose its import is. scipy and onnx are loaded for scikit-learn and torch's exporter."""
CALLS = {
    "mlops_tasks.adapters.spark:start_for_this_process": SPARK,
    "mlops_tasks.adapters.spark:connect": SPARK,
    "mlops_tasks.adapters.spark:ConnectSpark.session": SPARK,
    "pyspark.sql.connect.client.core:SparkConnectClient.*": SPARK,
    "great_expectations:get_context": GX,
    "great_expectations.datasource.fluent.interfaces:Batch.validate": GX,
    "great_expectations.render.renderer:ValidationResultsPageRenderer.render": GX,
    "great_expectations.render.view:DefaultJinjaPageView.render": GX,
    "mlops_tasks.core.fitting:Trainer.run": LEARNING,
    "mlops_tasks.core.losses:predict": LEARNING,
    "torch.onnx:export": LEARNING,
    "sklearn.ensemble:HistGradientBoostingClassifier.fit": LEARNING,
    "sklearn.ensemble:HistGradientBoostingClassifier.predict_proba": LEARNING,
    "sklearn.linear_model:LogisticRegression.fit": LEARNING,
    "mlflow.tracking:MlflowClient.*": "MLflow",
    "matplotlib.figure:Figure.savefig": "matplotlib",
    "onnxruntime:InferenceSession.run": "ONNX Runtime",
    "onnxruntime:InferenceSession.__init__": "ONNX Runtime",
}


class Clock:
    """Charges the main thread's time to the innermost open region."""

    def __init__(self) -> None:
        """Start now."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self._open, self._since = ["own"], (time.perf_counter(), time.thread_time())

    def _charge(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.seconds[self._open[-1]] += now[0] - self._since[0]
        self.cpu[self._open[-1]] += now[1] - self._since[1]
        self._since = now

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Charge the block to `name`; on other threads do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function with its time charged to `name`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.region(name):
                return function(*args, **kwargs)

        return timed

    def close(self) -> dict[str, dict[str, float]]:
        """Return the seconds up to now, of time and of the main thread's CPU."""
        self._charge()
        return {"seconds": self.seconds, "cpu": self.cpu}


class Hooks:
    """Times first imports, and wraps `CALLS` when their modules are there."""

    def __init__(self, clock: Clock) -> None:
        """Take the clock; `install` starts."""
        self._clock, self._import, self._pending = clock, builtins.__import__, dict(CALLS)

    def install(self) -> None:
        """Take imports over."""
        builtins.__import__ = self._timed_import

    def _timed_import(self, name: str, *args: Any, **kwargs: Any) -> ModuleType:
        package = name.partition(".")[0]
        known = len(sys.modules)
        if package in PACKAGES and name not in sys.modules:
            with self._clock.region(PACKAGES[package]):
                module = self._import(name, *args, **kwargs)
        else:
            module = self._import(name, *args, **kwargs)
        if len(sys.modules) != known:
            self._wrap_loaded()
        return module

    def _wrap_loaded(self) -> None:
        for target in list(self._pending):
            module = sys.modules.get(target.partition(":")[0])
            if module is not None and not getattr(module.__spec__, "_initializing", False):
                self._wrap(module, target)

    def _wrap(self, module: ModuleType, target: str) -> None:
        *path, last = target.partition(":")[2].split(".")
        try:
            owner = functools.reduce(getattr, path, module)
        except AttributeError:
            return  # a lazy module: again after the next import
        owned = self._pending.pop(target)
        names = [n for n, f in vars(owner).items() if inspect.isfunction(f) and n[:2] != "__"] if last == "*" else [last]
        for name in names:
            function = getattr(owner, name)
            if not inspect.isgeneratorfunction(function) and not isinstance(vars(owner).get(name), (staticmethod, classmethod)):
                setattr(owner, name, self._clock.wrap(function, owned))

    @property
    def unused(self) -> list[str]:
        """What was never loaded, or is no longer called so."""
        return sorted(self._pending)


def main() -> None:
    """Run the command line; write the seconds when the process is about to end."""
    out, *argv = sys.argv[1:]
    clock = Clock()
    hooks = Hooks(clock)
    # Registered first, so it runs last: what libraries do at the end of the process counts too.
    atexit.register(lambda: Path(out).write_text(json.dumps({**clock.close(), "unused": hooks.unused})))
    hooks.install()
    status = importlib.import_module("mlops_tasks.cli").main(argv)
    ending = clock.region("end of the process")
    ending.__enter__()
    sys.exit(status)


if __name__ == "__main__":
    main()
