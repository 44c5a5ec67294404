from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from mlops_tasks.serving.memory import free_bytes

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20


def host(folder: Path, available_mb: int, mapped_mb: int = 0) -> Path:
    (folder / "proc").mkdir()
    lines = ["MemTotal: 99999 kB", f"MemAvailable: {available_mb * 1024} kB", f"Mapped: {mapped_mb * 1024} kB", ""]
    (folder / "proc" / "meminfo").write_text("\n".join(lines), encoding="ascii")
    return folder / "proc"


def group(folder: Path, limit: str, used_mb: int, cached_mb: int, mapped_mb: int = 0) -> Path:
    root = folder / "cgroup"
    root.mkdir()
    (root / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (root / "memory.current").write_text(f"{used_mb * MB}\n", encoding="ascii")
    lines = ["anon 5", f"file_mapped {mapped_mb * MB}", f"inactive_file {cached_mb * MB - 10}", "active_file 10", ""]
    (root / "memory.stat").write_text("\n".join(lines), encoding="ascii")
    return root


def test_a_containers_limit_counts_less_what_it_uses_and_cached_files_are_free(tmp_path: Path) -> None:
    assert free_bytes(group(tmp_path, str(512 * MB), 400, 150), host(tmp_path, 9000)) == 262 * MB


def test_mapped_files_are_not_free_for_they_are_weights_that_requests_read(tmp_path: Path) -> None:
    assert free_bytes(group(tmp_path, str(1200 * MB), 1100, 900, mapped_mb=750), host(tmp_path, 9000)) == 250 * MB
    (tmp_path / "other").mkdir()
    assert free_bytes(group(tmp_path / "other", "max", 0, 0), host(tmp_path / "other", 1000, mapped_mb=750)) == 250 * MB


def test_without_a_limit_the_host_counts(tmp_path: Path) -> None:
    assert free_bytes(group(tmp_path, "max", 400, 150), host(tmp_path, 900)) == 900 * MB


def test_a_limit_above_what_the_host_has_does_not_help(tmp_path: Path) -> None:
    assert free_bytes(group(tmp_path, str(5000 * MB), 0, 0), host(tmp_path, 100)) == 100 * MB


def test_the_older_kernels_cgroups_are_read_too(tmp_path: Path) -> None:
    root = tmp_path / "cgroup" / "memory"
    root.mkdir(parents=True)
    (root / "memory.limit_in_bytes").write_text(f"{256 * MB}\n", encoding="ascii")
    (root / "memory.usage_in_bytes").write_text(f"{100 * MB}\n", encoding="ascii")
    (root / "memory.stat").write_text(
        f"total_inactive_file {3 * MB}\ntotal_active_file {2 * MB}\ntotal_mapped_file {MB}\n", encoding="ascii"
    )
    assert free_bytes(root.parent, host(tmp_path, 9000)) == 160 * MB


def test_the_own_group_counts_where_it_is_not_the_root(tmp_path: Path) -> None:
    proc, root = host(tmp_path, 9000), group(tmp_path, "max", 1, 1)
    (proc / "self").mkdir()
    (proc / "self" / "cgroup").write_text("3:cpu,cpuacct:/x\n0::/system.slice/serve.service\n", encoding="utf-8")
    own = root / "system.slice" / "serve.service"
    own.mkdir(parents=True)
    for name, text in (("memory.max", 300 * MB), ("memory.current", 100 * MB), ("memory.stat", f"inactive_file {MB}")):
        (own / name).write_text(str(text), encoding="ascii")
    assert free_bytes(root, proc) == 201 * MB


PEAKS = """
import numpy as np
from mlops_tasks.serving.memory import Peak, give_back
MB = 1 << 20
for size in (64, 16):
    with Peak() as peak:
        kept = np.ones(size * MB // 8)
        del kept
        give_back()
    print(peak.bytes // MB)
"""


def test_the_peak_is_what_was_held_at_once_beyond_the_beginning() -> None:
    # In a process of its own: one that has run many tests has memory to give back meanwhile.
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    much, little = map(int, done.stdout.split())
    assert 60 < much < 80
    assert little < 30
