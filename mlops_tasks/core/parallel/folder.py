"""The files through which the processes of a fit and the one that waits for it talk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

JOB = "job.json"
CHECKPOINT = "checkpoint.npz"
EVENTS = "events.jsonl"
FAILURE = "failure.json"
"""By the agent; `<rank>.failure.json` by a process that knows why."""
MEMORY = "memory.json"
"""`<rank>.memory.json`: GPU memory peaks."""
RENDEZVOUS = "rendezvous"


def append_event(folder: Path, **event: Any) -> None:
    """Tell the process that waits for the fit something; a line is written whole."""
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file such that a reader sees all of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
