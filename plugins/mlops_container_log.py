"""A container's output, as the engine sends it, to whole lines with their times."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) ?")
LONGEST = 1 << 16
"""Bytes of a line after which the rest becomes a line of its own: a progress bar may never end its line."""


class Lines:
    """Puts lines together again, and goes on where an earlier stream broke off.

    The engine sends messages that each start with a time: whole lines or, when those are long, pieces of them, cut
    anywhere, also within a character.
    """

    def __init__(self, after: str = "") -> None:
        """Leave out what is not later than the time `after`, as the engine writes times."""
        self._after = self.last = after
        """Time of the latest line that was given out."""

    @property
    def since(self) -> float | None:
        """From when the engine has to send again, in seconds since 1970."""
        return datetime.fromisoformat(self.last).timestamp() if self.last else None

    def read(self, messages: Iterable[bytes]) -> Iterator[str]:
        """Yield each line as soon as it is whole, decoded, without its end; the last one also if it has no end."""
        buffer, time = b"", ""
        for message in messages:
            stamp = TIME.match(message)
            if stamp and not buffer:
                time = stamp[1].decode()
            buffer += message[stamp.end() :] if stamp else message
            while len(buffer) > LONGEST or b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n") if b"\n" in buffer else (buffer, b"", b"")
                yield from self._give(line, time)
        if buffer:
            yield from self._give(buffer, time)

    def _give(self, line: bytes, time: str) -> Iterator[str]:
        if self._after and time <= self._after:
            return
        self.last = time
        yield line.decode(errors="replace").rstrip().rpartition("\r")[2]
