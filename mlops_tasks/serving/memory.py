"""What the kernel says of memory: how much is free to this process, and how much it holds."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import Self

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2^63 where there is no limit."""


def free_bytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how many bytes this process may take before it or the host runs out: the lesser of both.

    Cached pages of files count as free, since the kernel drops them first; those that are mapped don't. Weights of models that
    serve are among them, and each request reads these: once dropped, they are read from the disk again and again.
    """
    return max(0, min(_host_free(proc), *_cgroup_free(cgroup, proc)))


def _host_free(proc: Path) -> int:
    rows = dict(line.split(":", 1) for line in (proc / "meminfo").read_text(encoding="ascii").splitlines())
    if "MemAvailable" not in rows:
        return UNLIMITED
    available, mapped = (int(rows.get(name, "0 kB").split()[0]) * 1024 for name in ("MemAvailable", "Mapped"))
    return available - mapped


def _cgroup_free(root: Path, proc: Path) -> list[int]:
    """Return what this process's group leaves, with either version of the kernel's cgroups."""
    groups = _groups(proc)
    found = []
    for kind, base, limit, usage, prefix, mapped in (
        ("", root, "memory.max", "memory.current", "", "file_mapped"),
        ("memory", root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "total_mapped_file"),
    ):
        # A container sees its own group at the root, and may know it by a path that is the host's.
        own = base / groups.get(kind, "")
        place = own if (own / limit).exists() else base
        with suppress(OSError, ValueError):  # no such version, or "max": no limit
            most = int((place / limit).read_text(encoding="ascii"))
            rows = dict(line.split() for line in (place / "memory.stat").read_text(encoding="ascii").splitlines())
            if most < UNLIMITED:
                used = int((place / usage).read_text(encoding="ascii"))
                cached = sum(int(rows.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))
                found.append(most - used + max(0, cached - int(rows.get(mapped, 0))))
    return found or [UNLIMITED]


def _groups(proc: Path) -> dict[str, str]:
    """Return controller -> path of this process's group; the newer version's has no controller."""
    with suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
        return {
            name: path.lstrip("/") for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")
        }
    return {}


class Peak:
    """The most physical memory that this process held at once while `with` lasted, beyond what it held at its beginning."""

    def __init__(self, proc: Path = PROC) -> None:
        self._own = proc / "self"
        self.bytes = 0

    def __enter__(self) -> Self:
        """Begin; the kernel forgets an earlier peak (proc(5), clear_refs), where it may be told to."""
        with suppress(OSError):
            (self._own / "clear_refs").write_text("5", encoding="ascii")
        self._before = self._status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.bytes = max(0, self._status("VmHWM") - self._before)

    def _status(self, name: str) -> int:
        for line in (self._own / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return 0


def give_back() -> None:
    """Return freed memory to the kernel: the allocator keeps it otherwise (malloc_trim(3), where there is one)."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
