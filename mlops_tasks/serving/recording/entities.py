"""Whom a request is about, never in clear: keyed hashes, and the share of the entities that is logged."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from typing import TYPE_CHECKING

from mlops_tasks.core.privacy import HASH_KEY, SHORTEST_KEY
from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

KEY_FILE = "entity.key"
BLOCK_BYTES = 64
"""Of SHA-256."""
is_hash = re.compile(r"[0-9a-f]{64}", re.ASCII).fullmatch
"""Tells whether a text is what HMAC-SHA256 looks like in hex: then it is taken as it is."""


def entity_key(folder: Path, environ: Mapping[str, str], announce: Callable[[str], None]) -> bytes:
    """Return the secret that entities are hashed with: MLOPS_HASH_KEY, or a random one that is kept beside the log.

    Raises:
        SpecError: MLOPS_HASH_KEY is too short.
        StoreUnavailable: the folder can't be written.

    """
    key = environ.get(HASH_KEY)
    if key:
        if len(key) < SHORTEST_KEY:
            msg = f"{HASH_KEY} must have at least {SHORTEST_KEY} characters, got {len(key)}; set it to a long random secret"
            raise SpecError(msg)
        return key.encode()
    try:
        made = _kept_key(folder)
    except OSError as error:
        msg = f"request log {folder}: {KEY_FILE} can't be kept: {error.strerror}; check the folder and its rights"
        raise StoreUnavailable(msg) from error
    announce(
        f"{HASH_KEY} is not set: entities in the request log are hashed with a key of this log alone, "
        "and can't be joined with those of other servers or of collected data"
    )
    return made


def known_keys(folder: Path, environ: Mapping[str, str]) -> list[bytes]:
    """Return the secrets that a log's entities may have been hashed with, as far as they are known here; none is made."""
    given, kept = environ.get(HASH_KEY), folder / KEY_FILE
    return [*([given.encode()] if given else []), *([kept.read_bytes()] if kept.is_file() else [])]


def _kept_key(folder: Path) -> bytes:
    """Return the key of a folder; the first of several servers makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / KEY_FILE, folder / f".{KEY_FILE}.{secrets.token_hex(8)}"
    if not path.exists():
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secrets.token_hex(32).encode())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_bytes()


def entity_hasher(key: bytes) -> Callable[[str], bytes]:
    """Return what gives HMAC-SHA256 (RFC 2104) of an entity's text, 32 bytes; one that is a hash already stays.

    The key's part is computed once, which makes it more than twice as quick as `hmac.digest`.
    """
    padded = (hashlib.sha256(key).digest() if len(key) > BLOCK_BYTES else key).ljust(BLOCK_BYTES, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))

    def hash_entity(entity: str) -> bytes:
        if is_hash(entity):
            return bytes.fromhex(entity)
        within, around = inner.copy(), outer.copy()
        within.update(entity.encode("utf-8", "surrogatepass"))
        around.update(within.digest())
        return around.digest()

    return hash_entity


def share_of(entity: str) -> float:
    """Return where in [0, 1) an entity stands, the same on every server; independent of a canary's choice."""
    digest = hashlib.blake2b(entity.encode("utf-8", "surrogatepass"), digest_size=8, person=b"request log").digest()
    return int.from_bytes(digest, "big") / 2**64
