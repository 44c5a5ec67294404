"""A certificate's files, which may be renewed at any time, to the context that new connections are opened with."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
State = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """Certificate and key as they are on disk; where they don't fit each other, the pair before goes on.

    A renewal writes two files, so for a moment there may be a new certificate beside the old key. Each pair is loaded into a
    context of its own, which is used from then on if that succeeds.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """Load them. Raises: SpecError."""
        self._cert, self._key = cert, key
        self._seen, self._said = self._state(), ""
        try:
            self._current = self._load()
        except OSError as error:  # ssl.SSLError is one
            msg = f"serve: {cert} and {key} are no certificate with its key: {error}"
            raise SpecError(msg) from error
        self.context = self._load()
        """For the listener; what is current is chosen at each handshake."""
        self.context.sni_callback = self._choose

    def renew(self) -> None:
        """Load the pair anew if its files changed; what can't be used is said once and tried again at the next call."""
        state = self._state()
        if state == self._seen:
            return
        try:
            self._current = self._load()
        except OSError as error:
            problem = f"the certificate in {self._cert} and {self._key} can't be used, the one before goes on: {error}"
            if problem != self._said:
                log.warning("%s", problem)
            self._said = problem
            return
        self._seen, self._said = state, ""
        log.info("the certificate in %s was renewed", self._cert)

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._cert, self._key, password=_no_password)
        return context

    def _state(self) -> State:
        return tuple(_state_of(path) for path in (self._cert, self._key))


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask the terminal for it, which nobody sits at."""
    msg = "the key is encrypted: give one without a password, readable for the server alone"
    raise ssl.SSLError(msg)
