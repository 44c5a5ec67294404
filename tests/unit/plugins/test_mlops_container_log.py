from __future__ import annotations

from mlops_container_log import LONGEST, Lines


def at(second: int, text: str | bytes, fraction: int = 1) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return f"2024-01-01T00:00:{second:02d}.{fraction:09d}Z ".encode() + data


def test_each_message_that_ends_a_line_is_one() -> None:
    lines = Lines()
    assert list(lines.read([at(1, "one\n"), at(2, "\n"), at(3, "three\r\n")])) == ["one", "", "three"]
    assert lines.last == "2024-01-01T00:00:03.000000001Z"


def test_pieces_of_a_line_become_whole_also_where_a_character_is_cut() -> None:
    text = "Zürich ä".encode()
    cut = text.index(b"\xc3") + 1
    assert list(Lines().read([at(1, text[:cut]), at(2, text[cut:] + b"\n")])) == ["Zürich ä"]


def test_what_is_no_utf8_is_shown_all_the_same() -> None:
    assert list(Lines().read([at(1, b"a\xffb\n")])) == ["a\N{REPLACEMENT CHARACTER}b"]


def test_the_last_line_needs_no_end() -> None:
    assert list(Lines().read([at(1, "end")])) == ["end"]


def test_of_a_line_written_over_itself_the_last_state_counts() -> None:
    assert list(Lines().read([at(1, "10%\r50%\r100%\n")])) == ["100%"]


def test_a_line_without_end_is_not_kept_back_for_ever() -> None:
    pieces = [at(1, "x" * 16384, fraction) for fraction in range(1, 8)]
    assert [len(line) for line in Lines().read(pieces)] == [LONGEST + 16384, 2 * 16384]


def test_a_second_stream_goes_on_after_the_first() -> None:
    first = Lines()
    assert list(first.read([at(1, "one\n"), at(2, "two\n")])) == ["one", "two"]
    second = Lines(first.last)
    assert second.since == 1704067202.0
    assert list(second.read([at(2, "two\n"), at(2, "same second\n", 2), at(3, "three\n")])) == ["same second", "three"]
    assert Lines().since is None
