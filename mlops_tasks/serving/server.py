"""A pipeline's name to a running server of its champion."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from typing import TYPE_CHECKING, Any

import uvicorn

from mlops_tasks.errors import SpecError
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.auth import Authentication, Tokens
from mlops_tasks.serving.certificates import Certificates
from mlops_tasks.serving.connection import Limits, Load, guarded
from mlops_tasks.serving.copies import Copies
from mlops_tasks.serving.draining import DrainingServer
from mlops_tasks.serving.front import Front
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.logs import logging_to_stderr, teller
from mlops_tasks.serving.metrics import Exposition, Metrics
from mlops_tasks.serving.private import hasher
from mlops_tasks.serving.recording.session import recording
from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.swapping import Swapper
from mlops_tasks.serving.tracing import TracedMetrics, Tracing, is_wanted, open_tracer
from mlops_tasks.serving.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp

    from mlops_tasks.ports import ModelRegistry
    from mlops_tasks.serving.predictions import Recorder
    from mlops_tasks.serving.settings import ServeSettings
    from mlops_tasks.specs import PipelineSpec

BACKLOG = 2048
FILES = 256
"""That a server opens beside its connections: models, the request log, the registry."""


def serve(
    pipeline: PipelineSpec,
    registry: ModelRegistry,
    settings: ServeSettings,
    *,
    environ: Mapping[str, str] = os.environ,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a pipeline's champion until SIGTERM or Ctrl-C, which let requests under way finish.

    Without a champion it waits for the first one and answers 503 till then.

    Args:
        pipeline: whose model, and how it is served.
        registry: where the aliases are followed.
        settings: of this process.
        environ: where the request log, the tokens of private columns and the collector of traces are named.
        announce: is told the address, each new version and each problem; with the log format `json` nobody is, but stderr.

    Raises:
        SpecError: the address can't be listened on, or a file of tokens or of TLS is wrong.
        StoreUnavailable: the folder of copies or of the request log can't be written.

    """
    say = teller(settings.log_format, announce)
    tokens = Tokens(settings.tokens, settings.admin_token) if settings.tokens or settings.admin_token else None
    certificates = _certificates(settings)
    prepare = hasher(pipeline, environ)
    slot = Slot(pipeline.name)
    provider = open_tracer(pipeline.name) if is_wanted(environ) else None
    tracer = provider.get_tracer("mlops_tasks") if provider else None
    metrics = Metrics(slot) if tracer is None else TracedMetrics(slot, tracer)
    with logging_to_stderr(settings.log_format), _listen(settings.host, settings.port) as listener, _quiet_signals():
        log = pipeline.serve.log.model_copy(update={"enabled": pipeline.serve.log.enabled and settings.request_log})
        with recording(
            pipeline.name, log, environ=environ, telemetry=metrics, announce=say, log_format=settings.log_format
        ) as recorder:
            load = Load(lambda status: metrics.responded("connection", status))
            parts = _parts(pipeline, registry, settings, _Watched(slot, metrics, recorder, load, say))
            parts.prepare = prepare
            app = Front(_guard(make_app(parts, Exposition(metrics)), tokens, tracer), metrics, settings.max_requests)
            _announce_address(pipeline.name, listener, settings, say)
            allow_files(settings.max_connections, say)

            def drain() -> None:
                slot.draining = True
                say(f"serving {pipeline.name} ends: requests under way are answered")

            gc.collect()
            gc.freeze()  # what was imported stays: collections that look through it would hold requests up
            _server(app, settings, load, certificates, drain).run(sockets=[listener])
    if provider is not None:
        provider.shutdown()


@dataclass(frozen=True)
class _Watched:
    """What reports on a server."""

    slot: Slot
    metrics: Metrics
    recorder: Recorder
    load: Load
    say: Callable[[str], None]


def _parts(pipeline: PipelineSpec, registry: ModelRegistry, settings: ServeSettings, watched: _Watched) -> Parts:
    """Make a server's parts."""
    spec, slot = pipeline.serve, watched.slot
    gate = Gate(settings.waiting, watched.metrics)
    swapper = Swapper(slot, gate, mode=spec.swap, threads=settings.threads, telemetry=watched.metrics, announce=watched.say)
    watcher = Watcher(
        registry,
        slot,
        swapper,
        Copies(settings.copies, pipeline.name, registry),
        poll_s=settings.poll_s,
        trial=spec.challenger.mode != "off",
        version=settings.version,
        telemetry=watched.metrics,
        announce=watched.say,
    )
    return Parts(
        slot,
        spec,
        entity_key=pipeline.features.entity_key,
        gate=gate,
        recorder=watched.recorder,
        telemetry=watched.metrics,
        watcher=watcher,
        under_way=lambda: watched.load.requests,
        max_body_bytes=settings.max_body_bytes,
    )


def _guard(app: ASGIApp, tokens: Tokens | None, tracer: Any) -> ASGIApp:
    """Put before the application what is asked for, the outermost last."""
    if tracer is not None:
        app = Tracing(app, tracer)
    return app if tokens is None else Authentication(app, tokens)


def _server(
    app: ASGIApp, settings: ServeSettings, load: Load, certificates: Certificates | None, drain: Callable[[], None]
) -> DrainingServer:
    """Make the server of an application."""
    limits = Limits(
        header_s=settings.header_s,
        body_s=settings.body_s,
        keep_alive_s=settings.keep_alive_s,
        write_s=settings.write_s,
        connections=settings.max_connections,
        bodies_bytes=max(settings.max_bodies_bytes, settings.max_body_bytes),
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=guarded(limits, load),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `make_app` reads them, where they matter
        backlog=BACKLOG,
        timeout_graceful_shutdown=ceil(settings.drain_s),
    )
    config.load()
    return DrainingServer(config, limits=limits, delay_s=settings.drain_delay_s, on_drain=drain, certificates=certificates)


def _certificates(settings: ServeSettings) -> Certificates | None:
    """Load TLS's files. Raises: SpecError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_cert, settings.tls_key)


def allow_files(connections: int, say: Callable[[str], None]) -> None:
    """Let the process open as many files as it may have connections, and some for itself; or say that it can't."""
    wanted = connections + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        able = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (able, hard))
        if able < wanted:
            say(f"at most {able} files may be open, so fewer than {connections} connections: raise `ulimit -n`")


def _announce_address(name: str, listener: socket.socket, settings: ServeSettings, say: Callable[[str], None]) -> None:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"serving {name} on http{'s' if settings.tls_cert else ''}://{shown}:{listener.getsockname()[1]}")
    if settings.tokens is None and not _is_loopback(settings.host):
        say(f"everybody who reaches {shown} may ask this server: give --tokens, or keep others out by the network")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Let the signals that ended the server, which uvicorn raises once more when it has ended, end nothing else."""
    kept = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Listen. Raises: SpecError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        msg = f"serve: {host}:{port} can't be listened on: {error.strerror}; choose another --port, or 0 for any free one"
        raise SpecError(msg) from error
    return listener
