"""An answer's head and the first of its body to one write: two are two packets, and wake the client twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

JOINED_BYTES = 64 << 10
"""Larger bodies are not copied for it."""


class OneWrite:
    """The transport of one answer: holds its head until the body comes, which uvicorn writes by itself.

    Not for answers to HEAD, which have no body.
    """

    __slots__ = ("_cycle", "_head", "_held", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        """Write to a connection's transport what a cycle of request and answer gives.

        The cycle, which holds this object, is not held by it: what refers to itself stays until garbage is collected, and to
        collect what a second's requests leave behind takes a tenth of the second, in which nobody is answered.
        """
        self._transport, self._cycle = transport, ref(cycle)
        self._head, self._held = b"", False

    def write(self, data: bytes) -> None:
        """Write, or hold a head; what comes before it, `100 Continue`, is written at once."""
        if self._head:
            head, self._head = self._head, b""
            if len(data) > JOINED_BYTES:
                self._transport.write(head)
                self._transport.write(data)
            else:
                self._transport.write(head + data)
        elif self._held or not self._has_begun():
            self._transport.write(data)
        else:
            self._head, self._held = data, True

    def _has_begun(self) -> bool:
        cycle = self._cycle()
        return cycle is not None and cycle.response_started

    def close(self) -> None:
        """Write what is held, and close."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Be the connection's transport in all else."""
        return getattr(self._transport, name)
