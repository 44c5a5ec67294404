"""Starts Spark Connect servers: one that lives as long as this process, or one in the foreground."""

from __future__ import annotations

import atexit
import ctypes
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlops_tasks.adapters.scratch import scratch, sweep
from mlops_tasks.adapters.spark_java import JAVA_OPENS, java, pyspark_home
from mlops_tasks.adapters.spark_s3 import s3_jars, s3a_conf, wants_s3
from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
TOKEN = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - a variable's name
START_TIMEOUT_S = 90
PR_SET_PDEATHSIG = 1
SCRATCH_PREFIX = "mlops-spark-server-"
DETACHED_S = 30
"""How long a job goes on without its client, twice a client's own patience; Spark's default is five minutes."""
MASTER_PORT = 7077
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Server:
    """What server to start: where its work runs, its heap (e.g. `3g`), and the address that clients come to."""

    master: str
    memory: str
    port: int
    host: str = LOOPBACK
    short_lived: bool = False


@dataclass(frozen=True)
class LocalServer:
    """A Spark Connect server that this process started."""

    url: str
    process: subprocess.Popen[bytes]


def start_for_this_process(master: str, memory: str) -> LocalServer:
    """Start a server that dies with this process, also by kill -9. Raises: StoreUnavailable, SpecError."""
    ending = ExitStack()
    folder = ending.enter_context(_scratch())
    port = free_port()
    os.environ.setdefault(TOKEN, secrets.token_urlsafe(24))
    log = folder / "spark.log"
    command = server_command(Server(master, memory, port, short_lived=True), folder, os.environ)
    with log.open("wb") as stream:
        server = _popen(command, master, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def stop() -> None:
        # On this machine nothing is left to save; a cluster's driver tells its master that it goes.
        (server.terminate if _is_cluster(master) else server.kill)()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        ending.close()

    atexit.register(stop)
    wait_until_up(server, port, log)
    return LocalServer(f"sc://localhost:{port}", server)


def run_server(server: Server) -> int:
    """Run a server in the foreground until a signal ends it; return its exit status. Raises: SpecError, StoreUnavailable."""
    if not is_loopback(server.host) and not os.environ.get(TOKEN):
        msg = (
            f"--host {server.host}: whoever reaches this address could run code here; set {TOKEN} to a secret, "
            "for the server and for its clients, or listen on 127.0.0.1"
        )
        raise SpecError(msg)
    with _scratch() as folder:
        process = _popen(server_command(server, folder, os.environ), server.master)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.terminate())
        return process.wait()


def _popen(command: list[str], master: str, **streams: object) -> subprocess.Popen[bytes]:
    """Start a server's process, which ends with this one; unless executors are elsewhere it uses no interface but loopback."""
    local = {"SPARK_LOCAL_IP": LOOPBACK} if is_loopback(driver_host(master, os.environ)) else {}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # noqa: S603 - our own command line
        command,
        env={**os.environ, **local},
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of a C library loaded before the fork
        **streams,
    )


def server_command(server: Server, folder: Path, environ: Mapping[str, str]) -> list[str]:
    """Return the command line of a server that keeps its files in `folder`, where its settings are written to.

    Raises:
        SpecError: pyspark, Java or the jars for a store in S3 are missing, or a setting is wrong.
        StoreUnavailable: the master's name leads nowhere.

    """
    spark_jars = pyspark_home() / "jars"
    jars = s3_jars(environ, spark_jars) if wants_s3(environ) else []
    settings = folder / "spark.conf"
    settings.touch(mode=0o600)
    settings.write_text(_properties(server_conf(server, folder, environ, jars), environ), encoding="utf-8")
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
        f"-Xmx{server.memory}",
        "-XX:+UseParallelGC",
        # A server of one run spends more on optimising code than it gains by it: 47 against 29 CPU s for 90 days of flights.
        *(["-XX:TieredStopAtLevel=1"] if server.short_lived else []),
        "-cp",
        os.pathsep.join([str(spark_jars / "*"), *map(str, jars)]),
        "org.apache.spark.deploy.SparkSubmit",
        "--properties-file",
        str(settings),
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        "spark-internal",
    ]


def server_conf(server: Server, folder: Path, environ: Mapping[str, str], jars: list[Path]) -> dict[str, str]:
    """Return a server's settings; `jars` are those of an S3 store. Raises: StoreUnavailable."""
    cluster = _is_cluster(server.master)
    cores = os.cpu_count() or 1
    return {
        "spark.app.name": "mlops-tasks",
        "spark.master": server.master,
        "spark.connect.grpc.binding.address": server.host,
        "spark.connect.grpc.binding.port": str(server.port),
        "spark.connect.execute.manager.detachedTimeout": f"{DETACHED_S}s",
        "spark.connect.execute.manager.maintenanceInterval": "5s",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.log.level": "WARN",
        **(_cluster_conf(server.master, environ, jars) if cluster else _local_conf(cores, folder)),
        **(s3a_conf(environ) if jars else {}),
    }


def _local_conf(cores: int, folder: Path) -> dict[str, str]:
    return {
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
        "spark.default.parallelism": str(2 * cores),
        "spark.hadoop.hadoop.tmp.dir": str(folder / "hadoop"),
    }


def _cluster_conf(master: str, environ: Mapping[str, str], jars: list[Path]) -> dict[str, str]:
    """Return what executors need to call back and to run; the driver sends them the jars."""
    host = driver_host(master, environ)
    given = {
        "spark.driver.host": host,
        "spark.driver.bindAddress": host if is_loopback(host) else "0.0.0.0",  # noqa: S104 - executors are elsewhere
        "spark.driver.port": environ.get("MLOPS_SPARK_DRIVER_PORT", ""),
        "spark.driver.blockManager.port": environ.get("MLOPS_SPARK_BLOCK_PORT", ""),
        "spark.executor.memory": environ.get("MLOPS_SPARK_EXECUTOR_MEMORY", ""),
        "spark.cores.max": environ.get("MLOPS_SPARK_CORES", ""),
        "spark.jars": ",".join(path.resolve().as_uri() for path in jars),
    }
    return {name: value for name, value in given.items() if value}


def _properties(conf: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return settings as Java's properties, then those of MLOPS_SPARK_CONF's file, which win. Raises: SpecError."""
    lines = [f"{name} {value}".replace("\\", "\\\\") for name, value in conf.items()]
    extra = environ.get("MLOPS_SPARK_CONF")
    try:
        more = Path(extra).expanduser().read_text(encoding="utf-8") if extra else ""
    except OSError as error:
        msg = f"MLOPS_SPARK_CONF: {extra} can't be read ({error.strerror}); correct the path or unset it"
        raise SpecError(msg) from error
    return "\n".join([*lines, more, ""])


def driver_host(master: str, environ: Mapping[str, str]) -> str:
    """Return the address by which executors reach a server: loopback where they are in its own process."""
    if not _is_cluster(master):
        return LOOPBACK
    return environ.get("MLOPS_SPARK_DRIVER_HOST") or address_towards(master)


def address_towards(master: str) -> str:
    """Return this machine's address on the route to `spark://host:port`; no packet is sent. Raises: StoreUnavailable."""
    try:
        found = urlsplit(master.split(",", maxsplit=1)[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((found.hostname, found.port or MASTER_PORT))
            return str(probe.getsockname()[0])
    except (OSError, ValueError, TypeError) as error:
        msg = f"Spark's master {master} can't be reached ({error}); it must be spark://host:port, with a name known here"
        raise StoreUnavailable(msg) from error


def is_loopback(host: str) -> bool:
    """Tell whether an address or name leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_cluster(master: str) -> bool:
    return not master.startswith("local")


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server accepts connections. Raises: StoreUnavailable with the end of its log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    tail = " | ".join(log.read_text(errors="replace").splitlines()[-5:])
    server.kill()
    msg = f"the Spark server did not start: {tail}; check Java (`{java()} -version`) and free memory"
    raise StoreUnavailable(msg)


def _scratch() -> AbstractContextManager[Path]:
    """Give a server's temporary folder; those of servers whose owners were killed are removed."""
    base = Path(tempfile.gettempdir())
    sweep(base, SCRATCH_PREFIX)
    return scratch(base, SCRATCH_PREFIX)


def _die_with_parent() -> None:
    """Ask the kernel to end the server with us, however we end; elsewhere than on Linux atexit has to do."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
