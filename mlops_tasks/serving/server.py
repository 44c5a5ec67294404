"""A pipeline's name to a running server of its champion."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from mlops_tasks.errors import SpecError
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.copies import Copies
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.swapping import Swapper
from mlops_tasks.serving.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.ports import ModelRegistry
    from mlops_tasks.serve_specs import ServeSpec

DRAIN_S = 10
BACKLOG = 2048


def serve(
    name: str,
    registry: ModelRegistry,
    spec: ServeSpec,
    *,
    copies: Path = Path(".mlops/serving"),
    host: str = "127.0.0.1",
    port: int = 8080,
    poll_s: float = 2.0,
    threads: int = 1,
    max_body_bytes: int = 32 << 20,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a model's champion until SIGTERM or Ctrl-C, which let requests under way finish.

    Without a champion it waits for the first one and answers 503 till then.

    Args:
        name: the model's, that is the pipeline's, name.
        registry: where the aliases are followed.
        spec: what the pipeline says of serving.
        copies: folder for verified copies of versions.
        host: address to listen on.
        port: 0 takes a free one.
        poll_s: seconds between looks at the registry.
        threads: of ONNX Runtime for one request.
        max_body_bytes: larger requests are refused.
        announce: is told the address, each new version and each problem.

    Raises:
        SpecError: the address can't be listened on.

    """
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    announce(f"serving {name} on http://{shown}:{listener.getsockname()[1]}")
    slot = Slot(name)
    gate = Gate()
    swapper = Swapper(slot, gate, mode=spec.swap, threads=threads, announce=announce)
    trial = spec.challenger.mode != "off"
    known = Copies(copies, name, registry)
    watcher = Watcher(registry, slot, swapper, known, poll_s=poll_s, trial=trial, announce=announce)
    app = make_app(Parts(slot, spec, gate=gate, watcher=watcher, max_body_bytes=max_body_bytes))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    with listener, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
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
