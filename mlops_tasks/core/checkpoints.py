"""The state of a fit to one object of the store and back: arrays and JSON in an .npz, no pickle."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

FACTS = "facts.json"


def pack(arrays: Mapping[str, npt.NDArray[Any]], facts: object) -> bytes:
    """Write arrays and JSON-able facts into one .npz."""
    stream = io.BytesIO()
    encoded = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    np.savez(stream, allow_pickle=False, **{**arrays, FACTS: encoded})
    return stream.getvalue()


def unpack(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], Any] | None:
    """Read what `pack` wrote; None when it is damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(arrays.pop(FACTS).tobytes())
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError):
        return None


class Objects(Protocol):
    """What a slot needs of an `ArtifactStore`."""

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises: KeyError when absent."""

    def write(self, key: str, data: bytes) -> None:
        """Replace an object atomically."""


@dataclass
class Slot:
    """Where one fit keeps its newest checkpoint, and how often it writes one."""

    store: Objects
    key: str
    every_s: float
    clock: Callable[[], float] = time.monotonic
    _written: float | None = field(default=None, init=False)

    def due(self) -> bool:
        """Tell whether it is time for the next checkpoint; the first call starts the clock."""
        now = self.clock()
        if self._written is None:
            self._written = now
        return now - self._written >= self.every_s

    def save(self, arrays: Mapping[str, npt.NDArray[Any]], facts: object) -> None:
        """Replace the checkpoint, atomically. Raises: StoreUnavailable."""
        self.store.write(self.key, pack(arrays, facts))
        self._written = self.clock()

    def load(self) -> tuple[dict[str, npt.NDArray[Any]], Any] | None:
        """Return the newest checkpoint; None when there is none or it is damaged."""
        try:
            return unpack(self.store.read(self.key))
        except KeyError:
            return None
