from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mlops_tasks.adapters.progress import LogProgress, TerminalProgress, progress_for


def test_a_log_gets_a_line_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_tasks.adapters.progress.time.monotonic", iter([0.0, 1.0, 6.0, 6.0, 7.0, 8.5]).__next__)
    stream = io.StringIO()
    with LogProgress(stream).bar("train", 3) as bar:
        bar.advance(loss=0.51234)
        bar.advance(rows=7)
        bar.advance()
    assert stream.getvalue().splitlines() == ["train: 2/3  loss 0.5123  rows 7", "train: 3/3  loss 0.5123  rows 7 in 8.5 s"]


def test_a_bar_that_fails_does_not_claim_to_have_finished() -> None:
    stream = io.StringIO()

    def fail() -> None:
        with LogProgress(stream).bar("train", 3) as bar:
            bar.advance()
            msg = "broken"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError):
        fail()
    assert stream.getvalue() == ""


def test_without_a_total_only_what_is_done_is_told() -> None:
    stream = io.StringIO()
    with LogProgress(stream).bar("collect", None) as bar:
        bar.advance(2.5)
    assert re.fullmatch(r"collect: 2\.5 in \d+\.\d s\n", stream.getvalue())


def test_notes_are_whole_lines() -> None:
    stream = io.StringIO()
    progress_for(stream).note("collect [3 made]")
    assert stream.getvalue() == "collect [3 made]\n"


def test_a_terminal_shows_bars_also_within_bars_and_notes_beside_them() -> None:
    stream = io.StringIO()
    shown = TerminalProgress(stream)
    shown._console = Console(file=stream, force_terminal=True, width=120)
    with shown.bar("outer", 2) as outer:
        with shown.bar("inner", None) as inner:
            inner.advance(loss=0.25)
        shown.note("a note [not markup]")
        outer.advance(2)
    text = stream.getvalue()
    assert "outer" in text
    assert "2/2" in text
    assert "loss 0.25" in text
    assert "a note [not markup]" in text
