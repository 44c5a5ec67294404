"""The environment that KServe's SDK needs, made once for each version of its lock."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from tests.requirements import ROOT, give_up

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"


def kserve_python() -> Path:
    """Return the interpreter of an environment with KServe's SDK; give up where it can't be installed."""
    content = f"{LOCK.read_text(encoding='utf-8')}{sys.version}"
    home = ROOT / ".mlops" / "kserve-sdk"
    folder = home / hashlib.sha256(content.encode()).hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            _install(folder)
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    install = ("pip", "sync", "--require-hashes", "--python", folder / "bin" / "python", LOCK)
    for command in (("venv", "--clear", "--python", sys.executable, folder), install):
        try:
            done = subprocess.run([str(uv), *map(str, command)], capture_output=True, text=True, check=False, timeout=400)
        except subprocess.TimeoutExpired:
            give_up("KServe's SDK could not be installed within 400 s")
        if done.returncode:
            give_up(f"KServe's SDK can't be installed: {done.stderr.strip()}")
    (folder / "installed").touch()


def run_with_kserve(script: str, *argv: str, given: str = "") -> str:
    """Run a script of this folder with KServe's SDK; return what it printed."""
    command = [str(kserve_python()), str(HERE / script), *argv]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
