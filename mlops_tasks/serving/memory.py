"""What the kernel says of memory: how much is free to this process, and how much it holds."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2^63 where there is no limit."""


def free_bytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how many bytes this process may take before it or the host runs out: the lesser of both.

    Cached pages of files count as free, since the kernel drops them first.
    """
    return max(0, min(_host_free(proc), *_cgroup_free(cgroup)))


def _host_free(proc: Path) -> int:
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return UNLIMITED


def _cgroup_free(root: Path) -> list[int]:
    """Return what each version of the kernel's cgroups leaves; a container sees its own at the root."""
    found = []
    for limit, usage, stat, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such version, or "max": no limit
            most = int((root / limit).read_text(encoding="ascii"))
            rows = dict(line.split() for line in (root / stat).read_text(encoding="ascii").splitlines())
            if most < UNLIMITED:
                used = int((root / usage).read_text(encoding="ascii"))
                found.append(most - used + int(rows.get(cached, 0)))
    return found or [UNLIMITED]


def resident_bytes(proc: Path = PROC) -> int:
    """Return the physical memory that this process holds, without pages of files that are only mapped."""
    resident, shared = (proc / "self" / "statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Return freed memory to the kernel: the allocator keeps it otherwise (malloc_trim(3), where there is one)."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
