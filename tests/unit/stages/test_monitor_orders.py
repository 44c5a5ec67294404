"""Windows that come late, twice, out of order, empty, or to two monitors at once leave the same records."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.artifacts import Deployment, ValidFeatures
from mlops_tasks.core.drift import WindowRecord
from mlops_tasks.errors import NothingToDo
from mlops_tasks.runner.acknowledging import acknowledge
from mlops_tasks.stages import monitor
from tests.drifting import label, make_day, window
from tests.fakes import make_ports
from tests.unit.stages.test_monitor import SPEC, Shop

if TYPE_CHECKING:
    from mlops_tasks.ports import ArtifactStore

ROOT = Path(__file__).resolve().parents[3]
DAYS = range(50, 58)
SHIFTED = {52, 54, 55}


def records(store: ArtifactStore, version: int = 3) -> dict[str, WindowRecord]:
    keys = store.list(f"shop/monitor/{version}/")
    return {key.rsplit("/", 1)[-1]: WindowRecord.model_validate_json(store.read(key)) for key in keys}


def publish(shop: Shop) -> dict[int, ValidFeatures]:
    made = {day: shop.publish(day, shift=day in SHIFTED) for day in DAYS}
    return made | {53: shop.publish(53, make_day(53).iloc[:0])}


def in_order(folder: Path) -> dict[str, WindowRecord]:
    folder.mkdir()
    shop = Shop(folder)
    for item in publish(shop).values():
        monitor.run(SPEC, [item], shop.deployment, ports=shop.ports)
    return records(shop.ports.store)


@pytest.mark.parametrize("order", [reversed(DAYS), (57, 50, 50, 53, 54, 52, 51, 55, 56, 53), (51, 53, 55, 57, 50, 52, 54, 56)])
def test_late_and_repeated_windows_leave_the_records_of_those_in_order(tmp_path: Path, order: Any) -> None:
    expected = in_order(tmp_path / "other")
    shop = Shop(tmp_path)
    features = publish(shop)
    for day in order:
        monitor.run(SPEC, [features[day]], shop.deployment, ports=shop.ports)

    assert records(shop.ports.store) == expected
    assert [r.status for r in expected.values()] == ["ok", "ok", "alarm", "ok", "alarm", "alarm", "ok", "ok"]


ONE_MONITOR = """
import json, sys
from pathlib import Path
from mlops_tasks.artifacts import Deployment, ValidFeatures
from mlops_tasks.stages import monitor
from tests.fakes import make_ports, make_run
from tests.unit.stages.test_monitor import SPEC
given = json.loads(sys.stdin.read())
ports = make_ports(Path(given["folder"]), run=make_run(intent="scheduled"))
deployment = Deployment.model_validate(given["deployment"])
print("ready", flush=True)
for item in given["features"]:
    monitor.run(SPEC, [ValidFeatures.model_validate(item)], deployment, ports=ports)
"""


def test_two_monitors_at_once_leave_the_records_of_one(tmp_path: Path) -> None:
    expected = in_order(tmp_path / "other")
    shop = Shop(tmp_path)
    features = publish(shop)
    processes = []
    for days in ((57, 55, 53, 51, 52), (50, 52, 54, 56, 55)):
        process = subprocess.Popen(
            [sys.executable, "-c", ONE_MONITOR], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        processes.append(process)
        assert process.stdin is not None
        given = {
            "folder": str(tmp_path),
            "deployment": shop.deployment.model_dump(mode="json"),
            "features": [features[day].model_dump(mode="json") for day in days],
        }
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
    told = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], told
    assert records(shop.ports.store) == expected


def test_a_killed_monitor_s_unfinished_work_is_done_by_the_next(shop: Shop) -> None:
    """What was written before the kill: a window's new record, but not those that follow from it."""
    features = publish(shop)
    days = [50, 52, 54, 55, 56]
    monitor.run(SPEC, [features[day] for day in days], shop.deployment, ports=shop.ports)
    killed = make_ports(shop.folder, run=shop.ports.run)
    writes: list[str] = []
    write = killed.store.write

    def write_once(key: str, data: bytes) -> None:
        if writes:
            raise KeyboardInterrupt
        writes.append(key)
        write(key, data)

    killed.store.write = write_once  # type: ignore[method-assign]  # the kill
    with pytest.raises(KeyboardInterrupt):
        monitor.run(SPEC, [features[51]], shop.deployment, ports=killed)
    stale = records(shop.ports.store)
    monitor.run(SPEC, [features[57]], shop.deployment, ports=shop.ports)
    done = records(shop.ports.store)
    for day in (*days, 51, 57):
        monitor.run(SPEC, [features[day]], shop.deployment, ports=shop.ports)

    assert f"{label(51)}.json" in stale
    assert done[f"{label(52)}.json"].basis != stale[f"{label(52)}.json"].basis
    assert records(shop.ports.store) == done


def test_a_window_whose_sums_were_deleted_is_summed_up_anew(tmp_path: Path) -> None:
    """As `mlops erase` says: collected anew, all that is listed of the window deleted, monitored again."""
    (tmp_path / "other").mkdir()
    shop, other = Shop(tmp_path), Shop(tmp_path / "other")
    days = [shop.publish(day) for day in range(50, 54)]
    monitor.run(SPEC, days, shop.deployment, ports=shop.ports)
    store = shop.ports.store
    for place in ("sketches/3", "drift/3", "cache/monitor"):
        for key in list(store.list(f"shop/{place}/{label(51)}/")):
            store.delete(key)
    store.delete(f"shop/monitor/3/{label(51)}.json")
    days[1] = shop.publish(51, make_day(51).iloc[5:])

    again = monitor.run(SPEC, days, shop.deployment, ports=shop.ports)

    clean = [other.publish(day, make_day(51).iloc[5:] if day == 51 else None) for day in range(50, 54)]
    assert again == monitor.run(SPEC, clean, other.deployment, ports=other.ports)
    assert records(store) == records(other.ports.store)


def test_another_version_knows_the_season_a_year_before(shop: Shop) -> None:
    """Version 3 saw this day a year ago; version 4 takes it over, on its own layouts, and compares with it."""
    ago = shop.publish(10)
    item = ago.features.model_copy(update={"window": window(50 - 366)})
    monitor.run(SPEC, [ValidFeatures(digest=ago.digest, files=(), features=item)], shop.deployment, ports=shop.ports)
    newer = shop.deployed(shop.deployment.files, version=4)

    monitor.run(SPEC, [shop.publish(50)], newer, ports=shop.ports)

    taken = records(shop.ports.store, 4)[f"{label(50 - 366)}.json"]
    assert (taken.seen_by, taken.status, taken.model_version) == (3, "ok", 4)


class Owner:
    """What acknowledging needs of the world: the shop's store, and who serves."""

    def __init__(self, shop: Shop) -> None:
        self.store = shop.ports.store
        self.registry = self
        self._deployment = shop.deployment

    def alias(self, *_: str) -> int:
        return self._deployment.version

    def deployment(self, *_: object) -> Deployment:
        return self._deployment


def acknowledge_days(shop: Shop, first: int, last: int) -> dict[str, Any]:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    start, through = window(first).start, window(last).start
    owner: Any = Owner(shop)
    return acknowledge("shop", start=start, through=through, reason="new prices", who="ada", now=now, adapters=owner)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    text = (ROOT / "dags/pipelines/nyc_flights/pipeline.yaml").read_text().replace("name: nyc_flights", "name: shop")
    (tmp_path / "pipelines" / "shop").mkdir(parents=True)
    (tmp_path / "pipelines" / "shop" / "pipeline.yaml").write_text(text[: text.index("\nmonitor:")])
    (tmp_path / "pipelines" / "shop" / "features.sql").write_text("SELECT 1")
    monkeypatch.setenv("MLOPS_PIPELINES", str(tmp_path / "pipelines"))
    return Shop(tmp_path)


def test_what_was_acknowledged_is_ordinary_from_then_on(shop: Shop) -> None:
    features = [shop.publish(day, shift=day >= 51) for day in range(50, 55)]
    monitor.run(SPEC, features, shop.deployment, ports=shop.ports)

    done = acknowledge_days(shop, 51, 52)

    assert [item["window"] for item in done["acknowledged"]] == [label(51), label(52)]
    assert done["changed"] == [{"window": label(day), "before": "alarm", "after": "ok"} for day in (52, 53, 54)]
    (report,) = monitor.run(SPEC, [shop.publish(55, shift=True)], shop.deployment, ports=shop.ports)
    assert report.status == "ok"


@pytest.mark.parametrize("days", [(50, 50), (40, 49)])
def test_only_alarms_are_acknowledged(shop: Shop, days: tuple[int, int]) -> None:
    monitor.run(SPEC, [shop.publish(50)], shop.deployment, ports=shop.ports)

    with pytest.raises(NothingToDo, match=r"shop: no window .* waits to be acknowledged under version 3"):
        acknowledge_days(shop, *days)


def test_an_acknowledgement_is_given_once(shop: Shop) -> None:
    monitor.run(SPEC, [shop.publish(50, shift=True)], shop.deployment, ports=shop.ports)
    acknowledge_days(shop, 50, 50)

    with pytest.raises(NothingToDo):
        acknowledge_days(shop, 50, 50)
