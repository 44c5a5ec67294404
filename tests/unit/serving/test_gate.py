from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_tasks.serving.decoding import BadRequest
from mlops_tasks.serving.gate import Bounds, Gate


async def ask(gate: Gate, seen: list[int], number: int, *, size: int = 1, steps: int = 1) -> None:
    if not gate.try_enter():
        await gate.wait(size)
    try:
        seen.append(number)
        for _ in range(steps):
            await asyncio.sleep(0)
            assert gate.inside > 0
    finally:
        gate.leave()


def test_those_who_wait_are_let_in_in_the_order_of_arrival() -> None:
    async def scenario() -> list[int]:
        gate, seen = Gate(), list[int]()
        gate.close()
        waiting = [asyncio.create_task(ask(gate, seen, number)) for number in range(20)]
        await asyncio.sleep(0.01)
        assert seen == []
        gate.open()
        await asyncio.gather(*waiting)
        assert gate.inside == 0
        return seen

    assert asyncio.run(scenario()) == list(range(20))


def test_draining_waits_for_those_inside_and_for_those_let_in_just_before_it_closed_again() -> None:
    async def scenario() -> None:
        gate, seen = Gate(), list[int]()
        gate.close()
        waiting = [asyncio.create_task(ask(gate, seen, number, steps=5)) for number in range(3)]
        await asyncio.sleep(0.01)
        gate.open()
        gate.close()
        late = asyncio.create_task(ask(gate, seen, 99))
        await gate.drained()
        assert sorted(seen) == [0, 1, 2]
        assert not late.done()
        gate.open()
        await asyncio.gather(late, *waiting)
        assert seen[-1] == 99

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("bounds", "sizes", "message"),
    [
        (Bounds(requests=2), [1, 1, 1], "2 requests wait for it already: try again in a moment"),
        (Bounds(size=10), [6, 6], "1 requests wait for it already: try again in a moment"),
    ],
)
def test_what_exceeds_the_queue_is_told_at_once(bounds: Bounds, sizes: list[int], message: str) -> None:
    async def scenario() -> None:
        gate, seen = Gate(bounds), list[int]()
        gate.close()
        waiting = [asyncio.create_task(ask(gate, seen, at, size=size)) for at, size in enumerate(sizes[:-1])]
        await asyncio.sleep(0)
        with pytest.raises(BadRequest, match=message) as refused:
            await ask(gate, seen, 9, size=sizes[-1])
        assert refused.value.status == 503
        gate.open()
        await asyncio.gather(*waiting)
        await ask(gate, seen, 10, size=sizes[-1])  # and the room is there again

    asyncio.run(scenario())


def test_nobody_waits_longer_than_the_deadline() -> None:
    async def scenario() -> None:
        gate, seen = Gate(Bounds(deadline_s=0.01)), list[int]()
        gate.close()
        with pytest.raises(BadRequest, match=r"took longer than 0.01 s: try again") as refused:
            await ask(gate, seen, 0)
        assert refused.value.status == 503
        gate.open()
        assert gate.inside == 0

    asyncio.run(scenario())


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ask", "close", "open", "leave", "step"]), max_size=60))
def test_whatever_happens_nobody_is_lost_and_nobody_is_inside_a_drained_gate(events: list[str]) -> None:
    async def scenario() -> None:
        gate, seen, tasks = Gate(), list[int](), list[asyncio.Task[None]]()
        for event in events:
            if event == "ask":
                tasks.append(asyncio.create_task(ask(gate, seen, len(tasks), steps=2)))
            elif event == "close":
                gate.close()
                await gate.drained()
                assert gate.inside == 0
            elif event == "open":
                gate.open()
            elif event == "leave" and tasks:
                tasks[len(tasks) // 2].cancel()  # the client went away
            await asyncio.sleep(0)
        gate.open()
        gone = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in gone)
        assert gate.inside == 0
        answered = [number for number, result in enumerate(gone) if result is None]
        assert set(answered) <= set(seen)

    asyncio.run(scenario())


def test_it_says_when_a_request_would_be_refused() -> None:
    async def scenario() -> None:
        gate = Gate(Bounds(requests=1, deadline_s=0.05))
        assert gate.refusing == ""
        gate.close()
        assert gate.refusing == ""
        waiting = asyncio.create_task(ask(gate, [], 1))
        await asyncio.sleep(0)
        assert "1 requests wait for it already" in gate.refusing
        with pytest.raises(BadRequest):
            await waiting
        assert "it took longer than 0.05 s" in gate.refusing
        gate.open()
        assert gate.refusing == ""

    asyncio.run(scenario())
