"""Whatever happens to a segment, only what is hit by it is lost, and that is told."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.serving.recording.frames import (
    FRAME_BYTES,
    HEAD_BYTES,
    MAGIC,
    Scan,
    UnknownFormat,
    frame_of,
    head_of,
    new_marker,
    scan,
)

MARKER = b"\xf0mrk"
payloads = st.lists(st.binary(max_size=40) | st.just(MARKER) | st.just(frame_of(b"\0\0\0\0", b"x")), max_size=8)


def segment(items: list[bytes]) -> tuple[bytes, list[int]]:
    """Return a segment's bytes and where its frames end."""
    data, ends = head_of(MARKER), [HEAD_BYTES]
    for item in items:
        data += frame_of(MARKER, item)
        ends.append(len(data))
    return data, ends


@given(payloads)
def test_what_was_written_is_read(items: list[bytes]) -> None:
    assert scan(segment(items)[0]) == Scan(payloads=items)


@given(payloads, st.data())
def test_a_cut_at_any_byte_loses_only_the_frame_that_it_hits(items: list[bytes], data: st.DataObject) -> None:
    whole, ends = segment(items)
    cut = data.draw(st.integers(0, len(whole)))
    found = scan(whole[:cut])
    kept = sum(end <= cut for end in ends[1:])
    assert found.payloads == items[:kept]
    assert found.damaged == []
    start = max([end for end in ends if end <= cut], default=0)
    assert found.torn == (None if cut in ends else (start, cut))


@settings(max_examples=300)
@given(payloads.filter(bool), st.data())
def test_damage_to_one_frame_leaves_the_others(items: list[bytes], data: st.DataObject) -> None:
    whole, ends = segment(items)
    hit = data.draw(st.integers(0, len(items) - 1))
    at = data.draw(st.integers(ends[hit], ends[hit + 1] - 1))
    broken = bytearray(whole)
    broken[at] ^= data.draw(st.integers(1, 255))
    found = scan(bytes(broken))
    assert found.payloads == items[:hit] + items[hit + 1 :]
    told = [*found.damaged, *([found.torn] if found.torn else [])]
    assert told == [(ends[hit], ends[hit + 1])]
    if hit < len(items) - 1:
        assert found.torn is None, "a frame with others behind it was acknowledged"


@given(payloads.filter(bool), st.binary(min_size=FRAME_BYTES, max_size=60))
def test_foreign_bytes_between_frames_are_told(items: list[bytes], foreign: bytes) -> None:
    whole, ends = segment(items)
    found = scan(whole[: ends[-2]] + foreign + whole[ends[-2] :])
    assert found.payloads == items
    assert found.damaged == [(ends[-2], ends[-2] + len(foreign))]


def test_zeros_after_a_loss_of_power_are_damage_not_an_end() -> None:
    whole, ends = segment([b"first"])
    assert scan(whole + bytes(64)) == Scan(payloads=[b"first"], damaged=[(ends[-1], ends[-1] + 64)])


def test_a_frame_inside_a_damaged_payload_is_not_read() -> None:
    inner = frame_of(new_marker(), b"made up")
    whole, ends = segment([inner, b"last"])
    broken = bytearray(whole)
    broken[HEAD_BYTES + 4] ^= 1  # the length of the first frame
    assert scan(bytes(broken)) == Scan(payloads=[b"last"], damaged=[(ends[0], ends[1])])


def test_a_damaged_head_sets_all_aside() -> None:
    whole, _ = segment([b"first"])
    assert scan(b"\0" + whole[1:]) == Scan(damaged=[(0, len(whole))])


def test_another_format_is_not_guessed() -> None:
    start = MAGIC + bytes([2])
    with pytest.raises(UnknownFormat) as caught:
        scan(start + MARKER + struct.pack("<I", crc32(start + MARKER)))
    assert str(caught.value) == "has format 2, and this version reads 1; ship it with the version that wrote it"
