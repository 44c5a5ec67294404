from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import onnx
import pytest

from mlops_tasks.errors import ModelRejected
from mlops_tasks.serving.costs import Costs, Size
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.swapping import SPARE_BYTES, Swapper, Version
from tests.judged_models import write_model

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.serve_specs import SwapMode

MB, GB = 1 << 20, 1 << 30


def version(folder: Path, number: int, *, golden_error: float = 0.0, inside: int = 0, beside: int = 0) -> Version:
    """Write a small version; `inside` and `beside` make its files as many bytes larger."""
    place = folder / str(number)
    place.mkdir()
    write_model(place, bias=number / 10, golden_error=golden_error)
    if inside:
        model = onnx.load(place / "model.onnx")
        model.doc_string = "x" * inside
        onnx.save(model, place / "model.onnx")
    if beside:
        with (place / "model.onnx.data").open("wb") as weights:
            weights.truncate(beside)
    return Version(number, place, {}, {})


class Serving:
    """A slot and its swapper on a machine with a given amount of free memory."""

    def __init__(self, mode: SwapMode, free: int = 8 * GB) -> None:
        self.slot, self.gate, self.said = Slot("shop"), Gate(), list[str]()
        self.swapper = Swapper(self.slot, self.gate, mode=mode, announce=self.said.append, free=lambda: free)

    @property
    def champion(self) -> int | None:
        return self.slot.model.version if self.slot.model else None


@pytest.mark.parametrize(
    ("mode", "free", "expected"),
    [("hot", 0, "hot"), ("single-slot", 8 * GB, "single-slot"), ("auto", 8 * GB, "hot"), ("auto", 1 << 20, "single-slot")],
)
def test_the_mode_is_as_asked_or_as_memory_allows(tmp_path: Path, mode: SwapMode, free: int, expected: str) -> None:
    serving = Serving(mode, free)

    async def scenario() -> tuple[str, float]:
        first = await serving.swapper.swap("champion", version(tmp_path, 1))
        assert (first.mode, first.pause_s) == ("hot", 0.0)  # nobody waits where nothing served
        second = await serving.swapper.swap("champion", version(tmp_path, 2))
        return second.mode, second.pause_s

    mode_used, pause = asyncio.run(scenario())
    assert (mode_used, serving.champion, serving.gate.closed) == (expected, 2, False)
    assert (pause > 0) == (expected == "single-slot")


def test_a_single_slot_swap_says_the_expected_pause_before_and_the_measured_one_after(tmp_path: Path) -> None:
    serving = Serving("auto", 1 << 20)

    async def scenario() -> None:
        for number in (1, 2):
            await serving.swapper.swap("champion", version(tmp_path, number))

    asyncio.run(scenario())
    before, after = serving.said
    assert before.startswith(
        "model shop: version 2 does not fit beside the model that serves: about 64 MB would be needed, 1 MB"
    )
    assert "requests will wait about " in before
    assert after.startswith("model shop: requests waited ")


def test_requests_wait_for_a_single_slot_swap_and_get_the_new_model(tmp_path: Path) -> None:
    serving = Serving("single-slot")

    async def ask() -> int | None:
        if not serving.gate.try_enter():
            await serving.gate.wait(10)
        try:
            await asyncio.sleep(0)
            return serving.champion
        finally:
            serving.gate.leave()

    async def scenario() -> list[int | None]:
        await serving.swapper.swap("champion", version(tmp_path, 1))
        swap = asyncio.create_task(serving.swapper.swap("champion", version(tmp_path, 2)))
        answers = []
        while not swap.done():
            answers.append(asyncio.create_task(ask()))
            await asyncio.sleep(0.001)
        await swap
        return await asyncio.gather(*answers)

    answers = asyncio.run(scenario())
    assert None not in answers
    assert answers == sorted(answers, key=lambda number: number or 0)
    assert answers[-1] == 2


@pytest.mark.parametrize("mode", ["hot", "single-slot"])
def test_a_version_that_is_refused_leaves_the_old_one_serving_and_the_gate_open(tmp_path: Path, mode: SwapMode) -> None:
    serving = Serving(mode)

    async def scenario() -> None:
        await serving.swapper.swap("champion", version(tmp_path, 1))
        with pytest.raises(ModelRejected, match=r"model shop version 2: golden row \d differs by 0.5"):
            await serving.swapper.swap("champion", version(tmp_path, 2, golden_error=0.5))

    asyncio.run(scenario())
    assert (serving.champion, serving.gate.closed, serving.slot.swapping) == (1, False, False)


def test_when_the_old_one_does_not_come_back_either_that_is_said(tmp_path: Path) -> None:
    serving = Serving("single-slot")

    async def scenario() -> None:
        first = version(tmp_path, 1)
        await serving.swapper.swap("champion", first)
        (first.folder / "golden.json").unlink()
        with pytest.raises(ModelRejected, match="and version 1 does not load again"):
            await serving.swapper.swap("champion", version(tmp_path, 2, golden_error=0.5))

    asyncio.run(scenario())
    assert (serving.champion, serving.gate.closed) == (None, False)


def test_weights_beside_the_graph_count_whole_and_once(tmp_path: Path) -> None:
    async def swap(free: int) -> str:
        serving = Serving("auto", free)
        folder = tmp_path / str(free)
        folder.mkdir()
        await serving.swapper.swap("champion", version(folder, 1))
        return (await serving.swapper.swap("champion", version(folder, 2, beside=GB))).mode

    assert asyncio.run(swap(GB - 1)) == "single-slot"
    assert asyncio.run(swap(GB + 2 * SPARE_BYTES)) == "hot"


def test_a_hot_swap_that_would_end_the_process_is_refused_in_words_and_one_of_mapped_weights_is_done(tmp_path: Path) -> None:
    serving = Serving("hot", 64 * MB)

    async def scenario() -> None:
        await serving.swapper.swap("champion", version(tmp_path, 1))
        with pytest.raises(ModelRejected, match="about 164 MB would be needed, 64 MB are free; give the server more"):
            await serving.swapper.swap("champion", version(tmp_path, 2, inside=40 * MB))
        assert serving.champion == 1
        await serving.swapper.swap("champion", version(tmp_path, 3, beside=GB))

    asyncio.run(scenario())
    assert serving.champion == 3


def test_the_pause_that_is_announced_is_that_of_models_alike(tmp_path: Path) -> None:
    serving = Serving("single-slot")

    async def scenario() -> None:
        for number, beside in ((1, 0), (2, GB), (3, GB)):
            await serving.swapper.swap("champion", version(tmp_path, number, beside=beside))

    asyncio.run(scenario())
    unknown, measured, announced, _ = serving.said
    assert "requests will wait for a time that is not known yet while it is loaded" in unknown
    assert announced.split("will wait about ")[1].split(" s")[0] == measured.split("waited ")[1].split(" s")[0]


def test_a_load_costs_what_the_last_of_its_kind_did() -> None:
    costs, small, inside, beside = Costs(), Size(MB, 0), Size(100 * MB, 0), Size(MB, 99 * MB)
    assert (costs.memory(inside), costs.memory(beside)) == (250 * MB, 100 * MB)
    costs.learn_memory(small, GB)
    costs.learn_memory(inside, 210 * MB)
    costs.learn_memory(beside, 10 * MB)  # some of it was in memory already
    assert (costs.memory(small), costs.memory(Size(200 * MB, 0)), costs.memory(beside)) == (int(2.5 * MB), 420 * MB, 100 * MB)
    costs.learn_seconds(small, 0.5)
    costs.learn_seconds(beside, 0.25)
    assert (costs.seconds(Size(2 * MB, 0)), costs.seconds(Size(MB, 199 * MB)), costs.seconds(inside)) == (0.5, 0.5, None)


def test_a_challenger_is_loaded_beside_and_becomes_champion_without_another_load(tmp_path: Path) -> None:
    serving = Serving("auto")

    async def scenario() -> None:
        await serving.swapper.swap("champion", version(tmp_path, 1))
        await serving.swapper.swap("challenger", version(tmp_path, 2))

    asyncio.run(scenario())
    challenger = serving.slot.challenger
    assert challenger is not None
    swapped = serving.swapper.promote_challenger({"who": "ada"})
    assert (swapped.mode, serving.champion, serving.slot.challenger) == ("hot", 2, None)
    assert serving.slot.model is not None
    assert serving.slot.model.scorer is challenger.scorer
    assert serving.slot.model.promotion == {"who": "ada"}


def test_a_challenger_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    serving = Serving("auto", 1 << 20)

    async def scenario() -> None:
        await serving.swapper.swap("champion", version(tmp_path, 1))
        with pytest.raises(ModelRejected, match="version 2 does not fit beside the model that serves"):
            await serving.swapper.swap("challenger", version(tmp_path, 2))

    asyncio.run(scenario())
    assert (serving.champion, serving.slot.challenger) == (1, None)
