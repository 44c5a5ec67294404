"""Loopback ports: the usual one if it is free, else another, remembered for the next start."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def any_free() -> int:
    """Return a port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def choose(file: Path, name: str, usual: int, *, running: bool) -> int:
    """Return a service's port: the remembered one while it runs or is free, else the usual one, else any free one."""
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    remembered = known.get(name)
    if remembered is not None and (running or is_free(remembered)):
        return remembered
    known[name] = usual if is_free(usual) else any_free()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=2, sort_keys=True))
    return known[name]
