"""What tests that need containers share: is there an engine, and images of the sources as they are now."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from tests.requirements import give_up

ROOT = Path(__file__).parents[1]
STAGE_IMAGES = ("spark", "train")
BUILD_WITHIN_S = 3600


def docker(*arguments: str, timeout_s: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a docker command; its output as text. Raises: AssertionError with that output if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


@cache
def engine_problem() -> str:
    """Say why no Docker engine can be used; empty if one can."""
    try:
        done = docker("version", "--format", "{{.Server.Version}}", timeout_s=30, check=False)
    except FileNotFoundError:
        return "there is no docker command"
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return done.stderr.strip() if done.returncode else ""


def require_engine() -> None:
    """Skip where there is no engine; where CI=true says that there must be one, fail."""
    problem = engine_problem()
    if problem:
        give_up(f"needs a Docker engine: {problem}")


class Images:
    """The project's images by name, each built at its first use, once a session, from the sources as they are then."""

    def __init__(self) -> None:
        self._tags: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """Return an image's tag, e.g. `mlops-tasks/spark:latest` for `spark`."""
        if name not in self._tags:
            self._tags[name] = self._build(name)
        return self._tags[name]

    def need(self, *names: str) -> dict[str, str]:
        """Return the tags of several images."""
        return {name: self[name] for name in names}

    @staticmethod
    def _build(name: str) -> str:
        command = [str(ROOT / "docker" / "build"), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return f"mlops-tasks/{name}:latest"
