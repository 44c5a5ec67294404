"""A model that does not answer until it is let go."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stuck:
    """What is called of a scorer."""

    signature: Any
    go: threading.Event = field(default_factory=threading.Event)

    def score_arrays(self, *_: object) -> np.ndarray:
        """Wait, and give one score."""
        assert self.go.wait(30), "nobody let it go: whoever asked waits for it"
        return np.array([0.5], dtype=np.float32)
