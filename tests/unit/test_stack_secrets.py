"""The stack's secrets: made once, readable by their owner alone, never overwritten."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(file: Path) -> str:
    done = subprocess.run([ROOT / "docker" / "stack" / "secrets", file], capture_output=True, text=True, check=True)
    return done.stdout


def read(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_every_secret_that_compose_asks_for_is_made(tmp_path: Path) -> None:
    make(tmp_path / "env")
    asked = set(re.findall(r"\$\{(\w+):\?run make up", (ROOT / "docker-compose.yaml").read_text()))
    assert set(read(tmp_path / "env")) == asked


def test_they_are_random_long_and_private(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert len({*one.values(), *two.values()}) == 2 * len(one)
    assert min(len(value) for value in one.values()) >= 15


def test_what_is_there_stays_and_what_is_missing_comes(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("MLOPS_PASSWORD_ADMIN=mine\nOTHER=x")
    file.chmod(0o644)
    said = make(file)
    first = read(file)
    assert (first["MLOPS_PASSWORD_ADMIN"], first["OTHER"]) == ("mine", "x")
    assert said == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    make(file)
    assert read(file) == first


def test_nothing_secret_is_printed(tmp_path: Path) -> None:
    said = make(tmp_path / "env")
    assert "MLOPS_PASSWORD_ADMIN" in said
    assert not [value for value in read(tmp_path / "env").values() if value in said]
