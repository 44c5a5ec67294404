"""What a stage may use of a machine: limits of its container, and GPUs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mlops_tasks.artifacts import Frozen

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _checked_size(value: object) -> object:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[1-9]\d*[kmg]", value)):
        msg = "must be a size such as 512m or 4g"
        raise ValueError(msg)
    return value


Size = Annotated[str, BeforeValidator(_checked_size)]


class Resources(Frozen):
    """Limits of one stage where it runs in a container, and the GPUs that it needs anywhere."""

    cpus: float | None = Field(default=None, gt=0, description="CPU cores its container may use; unset: all")
    memory: Size | None = Field(default=None, description="memory its container may use, e.g. `4g`; unset: all")
    shm: Size | None = Field(default=None, description="its container's /dev/shm, e.g. `1g`; unset: the engine's default")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs it is given; more than one trains with torchrun")
    on_missing_gpu: Literal["fail", "cpu"] = Field(
        default="fail", description="`fail`, or go on without one, where fewer GPUs are found than `gpus` asks for"
    )


def in_bytes(size: str) -> int:
    """Return the bytes of a size such as `512m`."""
    return int(size[:-1]) * _UNITS[size[-1]]
