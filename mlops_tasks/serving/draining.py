"""uvicorn's server with an end that loses no request, and an eye on connections and certificates while it runs."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.serving.certificates import Certificates
    from mlops_tasks.serving.connection import Limits

log = logging.getLogger(__name__)
CLOSE = (b"connection", b"close")
LAST_REQUESTS_S = 0.5
"""How long idle connections are still read when the server ends: a request may be on its way."""
HANDSHAKE_S = 0.1
"""How long a connection that a client has begun to open may take."""
LOOK_S = 0.25
"""Between looks at what every connection is late with."""
CERTIFICATES_S = 5.0
"""Between looks at the certificate's files."""
SO_ATTACH_FILTER = 26
ONLY_WITH_ACK = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x10), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))
"""A classic BPF program: load the TCP flags; a packet with ACK passes, a SYN alone, which asks for a connection, does not."""


def _let_no_more_in(listener: socket.socket) -> None:
    """Open no new connections and finish those that are being opened; elsewhere than on Linux: keep the queue short."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in ONLY_WITH_ACK)
    program = ctypes.create_string_buffer(code)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(ONLY_WITH_ACK), ctypes.addressof(program))
        )
    except OSError:
        listener.listen(0)


class _Threads(ThreadPoolExecutor):
    """Threads that nobody waits for when the server has ended: one may ask a registry that does not answer."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT002 - the library's
        """Begin nothing more."""
        del wait, cancel_futures
        super().shutdown(wait=False, cancel_futures=True)


class DrainingServer(uvicorn.Server):
    """uvicorn that loses no request when it is told to end, cuts off who is late, and takes a renewed certificate."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        limits: Limits,
        delay_s: float,
        on_drain: Callable[[], None],
        certificates: Certificates | None = None,
    ) -> None:
        """Serve.

        Args:
            config: uvicorn's.
            limits: of its connections.
            delay_s: how long to go on as before, but not ready, when told to end.
            on_drain: is called at once then.
            certificates: for TLS; None: HTTP.

        """
        super().__init__(config)
        self._limits, self._delay_s, self._on_drain, self._certificates = limits, delay_s, on_drain, certificates
        self._watching: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, as uvicorn does, but with a bound of the TLS handshake."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_exception)
        loop.set_default_executor(_Threads())
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(1)
        tls: dict[str, Any] = {}
        if self._certificates is not None:
            limits = self._limits
            tls = {"ssl": self._certificates.context, "ssl_handshake_timeout": limits.header_s}
            tls["ssl_shutdown_timeout"] = limits.write_s
        self.servers = [
            await loop.create_server(self._connection, sock=listener, backlog=self.config.backlog, **tls)
            for listener in sockets or []
        ]
        self._watching = [asyncio.create_task(self._look())]
        if self._certificates is not None:
            self._watching.append(asyncio.create_task(self._renew(self._certificates)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is on its way, each answer being a connection's last; then let uvicorn end.

        A connection that waits to be accepted would be reset when the listener closes: so no more are let in first, and
        those that are there are taken. Who asks for one after that is refused, which loses no request.
        """
        self._on_drain()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        await self._pass(self._delay_s)
        for listener in sockets or []:
            _let_no_more_in(listener)
        await self._pass(HANDSHAKE_S)
        for server in self.servers:
            server.close()
        await self._pass(LAST_REQUESTS_S)
        await super().shutdown(sockets)
        for task in self._watching:
            task.cancel()

    def _connection(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _look(self) -> None:
        """Cut off connections that are late, also while the server ends."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            for connection in list(self.server_state.connections):
                connection.look(now)  # type: ignore[union-attr]  # of ours

    async def _renew(self, certificates: Certificates) -> None:
        while True:
            await asyncio.sleep(CERTIFICATES_S)
            await asyncio.to_thread(certificates.renew)

    async def _pass(self, seconds: float) -> None:
        """Let time pass, less if there is nobody, or if a second signal says so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self.force_exit:
            await asyncio.sleep(0.01)
            if seconds == LAST_REQUESTS_S and not self.server_state.connections:
                return


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody awaited; the objects that asyncio would describe beside it may hold what a request does."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))
