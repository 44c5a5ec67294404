"""Requests to those whose token allows them; the tokens' file may change at any time."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from typing import TYPE_CHECKING

import orjson

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

ROLES = frozenset({"predict", "admin", "metrics"})
OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/ping", "/health"})
"""Orchestrators' probes carry no token; they learn nothing but whether it serves."""
LOOK_S = 1.0
SHORTEST = 16
"""Characters; a shorter token could be guessed."""


class Tokens:
    """The tokens of a file, read again when it changes: a new one is added, clients change over, the old one is removed.

    Each line is `<role> <token>` or `<role> sha256:<hex of the token's SHA-256>`; `#` begins a comment. What no token is for is
    open to all, but for `admin`. Only hashes are kept in memory; a lookup by hash tells nothing of the token by its duration.
    """

    def __init__(self, path: Path | None, admin: str = "") -> None:
        """Read the file and take one more token, of an admin. Raises: SpecError."""
        self._path = path
        self._given = {hashlib.sha256(admin.encode()).digest(): frozenset({"admin"})} if admin else {}
        self._seen = self._state()
        self._take()
        self._looked = time.monotonic()

    def open_to_all(self, needed: frozenset[str]) -> bool:
        """Tell whether no token is needed where one of some roles is."""
        self._look()
        return "predict" in needed and not self._asked & (needed - {"admin"})

    def roles_of(self, token: str) -> frozenset[str]:
        """Return what a token allows; nothing if it is unknown."""
        self._look()
        return self._roles.get(hashlib.sha256(token.encode()).digest(), frozenset())

    def _look(self) -> None:
        """Read the file anew if it changed; one that can't be read leaves the tokens as they are."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._take()
            except SpecError as error:
                log.warning("%s; the tokens that were valid before stay", error)

    def _take(self) -> None:
        self._roles = self._given | (read_tokens(self._path) if self._path else {})
        self._asked = frozenset[str]().union(*self._roles.values())

    def _state(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_tokens(path: Path) -> dict[bytes, frozenset[str]]:
    """Read a file of tokens: SHA-256 -> roles. Raises: SpecError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"tokens: {path} can't be read: {error}; give a file with a line such as `predict <token>` for each token"
        raise SpecError(msg) from error
    found: dict[bytes, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        digest = _digest_of(words)
        if digest is None:
            # The line is not shown: it may hold a secret.
            msg = (
                f"{path}: line {number} must be a role ({', '.join(sorted(ROLES))}), a space, and a token of at least "
                f"{SHORTEST} characters or sha256:<64 hexadecimal digits>"
            )
            raise SpecError(msg)
        found[digest] = found.get(digest, frozenset()) | {words[0]}
    if not found:
        msg = f"{path}: holds no token; add a line such as `predict <token>`"
        raise SpecError(msg)
    return found


def _digest_of(words: list[str]) -> bytes | None:
    if len(words) != 2 or words[0] not in ROLES:  # noqa: PLR2004 - a role and a token
        return None
    if words[1].startswith("sha256:"):
        hexadecimal = words[1].removeprefix("sha256:")
        return bytes.fromhex(hexadecimal) if re.fullmatch(r"[0-9a-fA-F]{64}", hexadecimal) else None
    return hashlib.sha256(words[1].encode()).digest() if len(words[1]) >= SHORTEST else None


def allowed_roles(path: str) -> frozenset[str]:
    """Return the roles of which a request to a path needs one."""
    if path.startswith("/v2/repository/models/"):
        return frozenset({"admin"})
    if path == "/metrics":
        return ROLES
    return frozenset({"predict", "admin"})


class Authentication:
    """ASGI middleware: 401 without a known token, 403 with one of another role."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        kind, _, token = next((v for k, v in scope["headers"] if k == b"authorization"), b"").decode("latin-1").partition(" ")
        roles = self._tokens.roles_of(token.strip()) if kind.lower() == "bearer" else frozenset()
        needed = allowed_roles(scope["path"])
        if roles & needed or self._tokens.open_to_all(needed):
            await self._app(scope, receive, send)
        elif roles:
            await refuse(send, 403, f"this token is not for {scope['path']}: it needs the role {' or '.join(sorted(needed))}")
        else:
            hint = "send the header `Authorization: Bearer <token>` with a token of this server"
            await refuse(send, 401, hint, (b"www-authenticate", b"Bearer"))


async def refuse(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer a request without looking at its body."""
    body = orjson.dumps({"error": message})
    given = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})
