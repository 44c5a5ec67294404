"""The format of a segment: a head, then frames of length, checksum and payload.

    head   8 bytes `MLOPSLG` and the format's number, 4 bytes marker, CRC-32 of the 12 bytes before it
    frame  4 bytes marker, length of the payload, CRC-32 of the payload seeded with its length, payload

Numbers are little-endian, 32 bits. The marker is random for each segment: reading goes on behind a damaged
frame at the next one, and nobody who sends requests can make the payload of one look like a frame.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from zlib import crc32

FORMAT = 1
MAGIC = b"MLOPSLG"
MARKER_BYTES = 4
_HEAD = struct.Struct(f"<8s{MARKER_BYTES}sI")
_FRAME = struct.Struct(f"<{MARKER_BYTES}sII")
HEAD_BYTES = _HEAD.size
FRAME_BYTES = _FRAME.size
"""What a frame takes beyond its payload."""


class UnknownFormat(Exception):
    """A segment that a newer version of this program wrote."""


@dataclass
class Scan:
    """What a segment holds."""

    payloads: list[bytes] = field(default_factory=list)
    """Of all whole frames, in their order."""
    damaged: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of bytes that are no frames, though frames or a whole length of bytes follow."""
    torn: tuple[int, int] | None = None
    """Start and end of a frame at the end that was begun and not finished."""


def new_marker() -> bytes:
    """Return the marker of a new segment."""
    return os.urandom(MARKER_BYTES)


def head_of(marker: bytes) -> bytes:
    """Return what a segment begins with."""
    start = MAGIC + bytes([FORMAT])
    return _HEAD.pack(start, marker, crc32(start + marker))


def frame_of(marker: bytes, payload: bytes) -> bytes:
    """Return a payload's frame."""
    size = len(payload)
    return _FRAME.pack(marker, size, crc32(payload, size)) + payload


def scan(data: bytes) -> Scan:
    """Find the frames of a segment, whatever happened to it.

    Raises:
        UnknownFormat: another version of this program wrote it.

    """
    marker = _marker_of(data)
    if marker is None:
        begun = len(data) < HEAD_BYTES and (MAGIC + bytes([FORMAT])).startswith(data[: len(MAGIC) + 1])
        return Scan(torn=(0, len(data))) if begun else Scan(damaged=[(0, len(data))])
    found, at = Scan(), HEAD_BYTES
    while at < len(data):
        end = _end_of_frame(data, at, marker)
        if end is not None:
            found.payloads.append(data[at + FRAME_BYTES : end])
            at = end
            continue
        following = _next_frame(data, at + 1, marker)
        if following is None and _begun(data, at, marker):
            found.torn = (at, len(data))
            break
        found.damaged.append((at, following or len(data)))
        at = following or len(data)
    return found


def _marker_of(data: bytes) -> bytes | None:
    """Return a segment's marker; None if its head is damaged."""
    if len(data) < HEAD_BYTES:
        return None
    start, marker, checksum = _HEAD.unpack_from(data)
    if crc32(start + marker) != checksum or not start.startswith(MAGIC):
        return None
    if start[-1] != FORMAT:
        msg = f"has format {start[-1]}, and this version reads {FORMAT}; ship it with the version that wrote it"
        raise UnknownFormat(msg)
    return bytes(marker)


def _end_of_frame(data: bytes, at: int, marker: bytes) -> int | None:
    """Return the end of the whole frame that starts here; None if none does."""
    if at + FRAME_BYTES > len(data):
        return None
    got, size, checksum = _FRAME.unpack_from(data, at)
    end = at + FRAME_BYTES + int(size)
    if got != marker or end > len(data) or crc32(memoryview(data)[at + FRAME_BYTES : end], size) != checksum:
        return None
    return end


def _next_frame(data: bytes, at: int, marker: bytes) -> int | None:
    """Return where the next whole frame starts."""
    while (at := data.find(marker, at)) >= 0:
        if _end_of_frame(data, at, marker) is not None:
            return at
        at += 1
    return None


def _begun(data: bytes, at: int, marker: bytes) -> bool:
    """Tell whether the rest is the beginning of a frame whose end was never written."""
    rest = len(data) - at
    if rest < FRAME_BYTES:
        return marker.startswith(data[at : at + MARKER_BYTES])
    got, size, _ = _FRAME.unpack_from(data, at)
    return bool(got == marker and size + FRAME_BYTES > rest)
