from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from mlops_tasks.serving.answering import JOINED_BYTES, OneWrite


class Transport:
    """Remembers what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def transport() -> Transport:
    return Transport()


@dataclass
class Cycle:
    """A request and its answer, as far as it is looked at."""

    response_started: bool


BEGUN = Cycle(response_started=True)


@pytest.fixture
def answer(transport: Transport) -> OneWrite:
    return OneWrite(cast("Any", transport), cast("Any", BEGUN))


def test_head_and_body_are_one_write(transport: Transport, answer: OneWrite) -> None:
    answer.write(b"head")
    assert transport.written == []
    answer.write(b"body")
    answer.write(b"more")
    assert transport.written == [b"headbody", b"more"]


def test_a_body_of_no_bytes_lets_the_head_go(transport: Transport, answer: OneWrite) -> None:
    answer.write(b"head")
    answer.write(b"")
    assert transport.written == [b"head"]


def test_a_large_body_is_not_copied(transport: Transport, answer: OneWrite) -> None:
    body = b"x" * (JOINED_BYTES + 1)
    answer.write(b"head")
    answer.write(body)
    assert transport.written == [b"head", body]
    assert transport.written[1] is body


def test_what_is_said_before_the_answer_goes_at_once(transport: Transport) -> None:
    cycle = Cycle(response_started=False)
    answer = OneWrite(cast("Any", transport), cast("Any", cycle))
    answer.write(b"continue")
    cycle.response_started = True
    answer.write(b"head")
    answer.write(b"body")
    assert transport.written == [b"continue", b"headbody"]


def test_an_application_that_fails_after_the_head_has_it_sent(transport: Transport, answer: OneWrite) -> None:
    answer.write(b"head")
    answer.close()
    assert transport.written == [b"head"]
    assert answer.is_closing()
