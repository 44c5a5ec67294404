"""A process that ends with the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_ORPHANED = 70


def end_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end at once if it has ended already.

    Elsewhere than on Linux a process that lost its parent ends when the collective communication times out.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_ORPHANED)
