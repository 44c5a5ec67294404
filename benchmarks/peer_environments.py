"""A peer's pinned requirements to a virtual environment of its own, bytecode compiled; made once for each content."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import ROOT, BenchmarkError, say

PEERS = Path(__file__).parent / "peers"
KEPT = ROOT / ".mlops" / "benchmarks"
UV = str(Path(sys.executable).parent / "uv")


def peer_bin(peer: str) -> Path:
    """Return the folder of a peer's programs, installed if they are not yet. Raises: BenchmarkError, with the error."""
    wanted = PEERS / peer / "requirements.in"
    kept = KEPT / f"{peer}-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    done = kept / "installed"
    if not done.exists():
        shutil.rmtree(kept, ignore_errors=True)
        _run([UV, "venv", "--quiet", "--python", sys.executable, str(kept)])
        python = str(kept / "bin" / "python")
        _run([UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "--requirements", str(wanted)])
        done.touch()
    return kept / "bin"


def installed_peers(peers: list[str]) -> dict[str, Path]:
    """Return the programs of those peers that can be installed here; say of the others why they can't."""
    found = {}
    for peer in peers:
        try:
            found[peer] = peer_bin(peer)
        except BenchmarkError as error:
            say(f"{peer} is left out: {error}\n")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - uv, on files of this folder
    if done.returncode:
        msg = f"{' '.join(command[1:4])} ended with {done.returncode}: {done.stderr.strip()[-1000:]}"
        raise BenchmarkError(msg)
