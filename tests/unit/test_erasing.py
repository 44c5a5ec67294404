"""`mlops erase` and `mlops retain`: who is meant, what is gone, and what may still hold it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.cli import main
from mlops_tasks.core.privacy import HASH_KEY
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.errors import NothingToDo, RegistryUnavailable, SpecError
from mlops_tasks.runner.erasing import Subject, erase, retain
from mlops_tasks.serving.decoding import Layout
from mlops_tasks.serving.endpoints import _entity
from mlops_tasks.serving.private import entity_text
from mlops_tasks.serving.recording.shipper import Shipper
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from mlops_tasks.wiring import Adapters
from tests.fakes import FakeRegistry, make_ports, make_run
from tests.judged_models import make_verdict
from tests.served_pipeline import PIPELINE
from tests.unit.serving.recorded import HOUR_NS, KEY, NOON_NS, answer, make_log, stored

NAME = "nyc_flights"
ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2030, 2, 1, tzinfo=UTC)
READER = """
name: lived
cadence: day
schedule: {start: 2030-01-01}
features: {event_time: at, entity_key: [prediction_id], task: binary, label: late, columns: [{name: distance, kind: numeric}]}
collect:
  primary: answers
  entity_key: [prediction_id]
  sources:
    answers:
      path: requests://nyc_flights
      event_time: prediction_time
      columns: {prediction_time: timestamp, prediction_id: string, distance: float}
preprocess: {features: features.sql, lookback: 1d}
"""


class Later(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Later:
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.fixture
def adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adapters:
    pipelines, environ = tmp_path / "pipelines", {"MLOPS_STORE": str(tmp_path / "store"), HASH_KEY: KEY.decode()}
    environ |= {"MLOPS_REQUEST_LOG": str(tmp_path / "requests"), "MLOPS_PIPELINES": str(pipelines)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(ROOT / "dags" / "pipelines" / NAME, pipelines / NAME)
    (pipelines / "lived").mkdir()
    (pipelines / "lived" / "pipeline.yaml").write_text(READER)
    (pipelines / "lived" / "features.sql").write_text("SELECT * FROM answers")
    made = Adapters(environ)
    made.__dict__["registry"] = FakeRegistry()
    log = make_log(tmp_path / "requests" / NAME)
    for given in (
        answer("a1", entity="ann"),
        answer("b1", entity="bob"),
        answer("a2", entity="ann", at_ns=NOON_NS + 48 * HOUR_NS),
    ):
        log.record(given)
    log.close()
    Shipper(tmp_path / "requests" / NAME, NAME, made.store).ship()
    return made


def by_ann(adapters: Adapters, **more: Any) -> dict[str, Any]:
    return erase(NAME, Subject(entities=("ann",)), who="eve", reason="asked", now=NOW, adapters=adapters, **more)


def ids(adapters: Adapters) -> list[str]:
    return sorted(row["prediction_id"] for row in stored(adapters.store, NAME))


def test_what_is_gone_is_counted_and_a_rehearsal_changes_nothing(adapters: Adapters) -> None:
    tried = by_ann(adapters, dry_run=True)
    assert (tried["rows"], tried["files"], tried["days"], ids(adapters)) == (
        2,
        2,
        ["2030-01-01", "2030-01-03"],
        ["a1", "a2", "b1"],
    )
    done = by_ann(adapters)
    assert (done["rows"], done["days"], ids(adapters)) == (2, tried["days"], ["b1"])
    assert (by_ann(adapters)["rows"], by_ann(adapters)["days"]) == (0, tried["days"])


def make_results(adapters: Adapters) -> None:
    """Put what the pipeline `lived` made into the store, and deploy its model."""
    store = adapters.store
    for label, at in (("2030-01-01", "2030-01-02"), ("2030-01-02", "2030-01-03"), ("2030-01-03", "2031-01-01")):
        store.write(f"lived/raw/{label}/r{label}/manifest.json", json.dumps({"collected_at": f"{at}T00:00:00+00:00"}).encode())
    store.write("lived/raw/static/outcomes/x/outcomes.parquet", b"")
    for label in ("2029-12-31", "2030-01-01", "2030-01-02", "2030-01-06"):
        store.write(f"lived/features/{label}/f{label}/features.parquet", b"")
    for version, label in (("0123456789ab0000", "2030-01-02"), ("fedcba9876540000", "2030-01-06")):
        windows = {"windows": [{"key": f"lived/features/{label}/f{label}/features.parquet"}]}
        store.write(f"lived/datasets/{version}/manifest.json", json.dumps(windows).encode())
    ports = make_ports(
        Path(adapters.environ["MLOPS_STORE"]), run=make_run(pipeline="lived"), store=store, registry=adapters.registry
    )
    verdict = make_verdict(store)
    candidate = verdict.candidate.model_copy(update={"dataset_version": "0123456789ab"})
    deploy.run(DeploySpec(), verdict.model_copy(update={"candidate": candidate}), ports=ports)


def test_what_was_made_of_it_is_listed(adapters: Adapters) -> None:
    make_results(adapters)
    listed = {item["kind"]: item["what"] for item in by_ann(adapters)["may_still_hold"]}
    assert listed == {
        "collected window": ["lived/raw/2030-01-01/r2030-01-01"],
        "features": ["lived/features/2030-01-01/f2030-01-01", "lived/features/2030-01-02/f2030-01-02"],
        "dataset": ["lived/datasets/0123456789ab0000"],
        "model, with its golden rows": ["lived version 1"],
    }, "not what was collected after it, nor what does not look at those days"
    adapters.store.delete("lived/raw/2030-01-01/r2030-01-01/manifest.json")
    shutil.rmtree(Path(adapters.environ["MLOPS_STORE"]) / "lived/raw/2030-01-01/r2030-01-01")
    assert "collected window" not in {item["kind"] for item in by_ann(adapters)["may_still_hold"]}


SUMS = (
    "lived/cache/monitor/2030-01-01/c1.json",
    "lived/sketches/3/2030-01-01/s1/sketch.json",
    "lived/sketches/4/2030-01-02/s2/sketch.json",
    "lived/drift/3/2030-01-01/d1/drift.json",
    "lived/monitor/3/2030-01-01.json",
    "lived/performance/3/2030-01-01.json",
    "lived/backtests/policy/sketches/1/2030-01-03/s3/sketch.json",
)


def test_sums_and_acknowledgements_are_listed_with_what_they_hold_and_what_to_do(adapters: Adapters) -> None:
    for key in (*SUMS, "lived/monitor/acknowledged/2030-01-01.json"):
        adapters.store.write(key, b"{}")
        adapters.store.write(key.replace("/2030-01-0", "/2031-01-0"), b"{}")
    sums, acknowledgement = by_ann(adapters)["may_still_hold"]
    assert sums["kind"] == "sums over a window"
    assert sums["what"] == [
        "lived/cache/monitor/2030-01-01",
        "lived/sketches/3/2030-01-01/s1",
        "lived/sketches/4/2030-01-02/s2",
        "lived/drift/3/2030-01-01/d1",
        "lived/monitor/3/2030-01-01.json",
        "lived/performance/3/2030-01-01.json",
        "lived/backtests/policy/sketches/1/2030-01-03/s3",
    ]
    assert "no row and nobody's key" in sums["about"]
    assert "run the monitor over the window" in sums["about"]
    assert acknowledgement["kind"] == "acknowledgement"
    assert acknowledgement["what"] == ["lived/monitor/acknowledged/2030-01-01.json"]
    assert "nothing of its rows" in acknowledgement["about"]


def test_a_registry_that_is_away_hides_no_count(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    make_results(adapters)

    def away(*_: object) -> None:
        msg = "MLflow does not answer"
        raise RegistryUnavailable(msg)

    monkeypatch.setattr(adapters.registry, "versions", away)
    done = by_ann(adapters)
    assert done["rows"] == 2
    assert done["may_still_hold"][-1]["what"] == ["not known: MLflow does not answer"]


def test_a_pipeline_that_can_t_be_read_is_named(adapters: Adapters) -> None:
    (Path(adapters.environ["MLOPS_PIPELINES"]) / "lived" / "pipeline.yaml").write_text("name: 7")
    (item,) = by_ann(adapters)["may_still_hold"]
    assert (item["pipeline"], item["kind"]) == ("lived", "unknown")


def test_by_the_columns_of_the_key_and_by_an_id(adapters: Adapters) -> None:
    key = {"carrier": "UA", "flight": "1545", "origin": "EWR"}
    with pytest.raises(SpecError, match="--key must be given for each of carrier, flight, origin, got carrier"):
        erase(NAME, Subject(key={"carrier": "UA"}), who="", reason="", now=NOW, adapters=adapters)
    assert erase(NAME, Subject(key=key), who="", reason="", now=NOW, adapters=adapters)["rows"] == 0
    assert erase(NAME, Subject(ids=("b1",)), who="", reason="", now=NOW, adapters=adapters)["rows"] == 1
    assert ids(adapters) == ["a1", "a2"]


def test_nobody_and_an_unknown_secret_are_refused(adapters: Adapters) -> None:
    with pytest.raises(SpecError, match="nobody is named; give --entity, --key or --id"):
        erase(NAME, Subject(), who="", reason="", now=NOW, adapters=adapters)
    adapters.environ = {name: value for name, value in adapters.environ.items() if name != HASH_KEY}
    with pytest.raises(SpecError, match="set MLOPS_HASH_KEY as it is for the server"):
        by_ann(adapters)
    hashed = next(row["prediction_entity"] for row in stored(adapters.store, NAME) if row["prediction_id"] == "a1")
    assert erase(NAME, Subject(entities=(hashed,)), who="", reason="", now=NOW, adapters=adapters)["rows"] == 2


def test_the_secret_that_a_server_made_itself_is_found_beside_its_log(adapters: Adapters, tmp_path: Path) -> None:
    adapters.environ = {name: value for name, value in adapters.environ.items() if name != HASH_KEY}
    (tmp_path / "requests" / NAME / "entity.key").write_bytes(KEY)
    assert by_ann(adapters)["rows"] == 2


def test_the_text_of_a_key_is_the_server_s() -> None:
    features = PIPELINE.features.model_copy(update={"entity_key": ("shop", "price")})
    pipeline = PIPELINE.model_copy(update={"features": features})
    signature = ModelSignature(task="binary", numeric=["age", "price"], categorical=["shop"], target="sold")
    for price in ("1.5", "7", "0.1", "1e20"):
        arrays = np.array([[0.0, float(price)]], np.float32), np.array([["north"]], object)
        said = _entity(("shop", "price"), Layout.of(signature), arrays)
        assert entity_text(pipeline, {"shop": "north", "price": price}, {}) == said
    with pytest.raises(SpecError, match="price: must be a number"):
        entity_text(pipeline, {"shop": "north", "price": "much"}, {})


def test_days_that_are_older_than_they_may_be_go(adapters: Adapters) -> None:
    with pytest.raises(NothingToDo, match=r"kept for ever; set serve\.log\.retain"):
        retain(NAME, now=NOW, adapters=adapters)
    path = Path(adapters.environ["MLOPS_PIPELINES"]) / NAME / "pipeline.yaml"
    path.write_text(path.read_text() + "\nserve: {log: {retain: 30d}}\n")
    with pytest.raises(NothingToDo, match="no day of its request log ended before 2029-12-03 00:00 UTC"):
        retain(NAME, now=NOW - timedelta(days=30), adapters=adapters)
    assert retain(NAME, now=NOW, adapters=adapters) == {"pipeline": NAME, "files": 1, "days": ["2030-01-01"]}
    assert ids(adapters) == ["a2"]


def test_days_are_removed_where_there_is_neither_pyarrow_nor_a_model_s_runtime(adapters: Adapters) -> None:
    path = Path(adapters.environ["MLOPS_PIPELINES"]) / NAME / "pipeline.yaml"
    path.write_text(path.read_text() + "\nserve: {log: {retain: 30d}}\n")
    code = (
        "import sys; from datetime import UTC, datetime; from mlops_tasks.runner.erasing import retain; "
        f"retain({NAME!r}, now=datetime(2030, 2, 1, tzinfo=UTC)); "
        "print(*{'pyarrow', 'numpy', 'onnxruntime', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    assert ids(adapters) == ["a2"]


def test_a_retention_of_less_than_a_day_is_refused(adapters: Adapters) -> None:
    path = Path(adapters.environ["MLOPS_PIPELINES"]) / NAME / "pipeline.yaml"
    path.write_text(path.read_text() + "\nserve: {log: {retain: 12h}}\n")
    with pytest.raises(SpecError, match=r"serve\.log\.retain"):
        retain(NAME, now=NOW, adapters=adapters)


def test_the_command_says_it_for_people_and_for_programs(
    adapters: Adapters, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(adapters)
    monkeypatch.setattr(Adapters, "registry", adapters.registry)
    monkeypatch.setattr("mlops_tasks.cli.erase.datetime", Later)
    assert main(["erase", NAME, "--entity", "ann", "--reason", "asked"]) == 0
    said = capsys.readouterr().out
    assert "2 rows erased from 2 files of the request log of nyc_flights" in said
    assert "May still hold them: dataset of lived (names the features that it is made of: train again" in said
    assert "Not reached from here: segments that wait on servers' disks" in said
    assert main(["erase", NAME, "--id", "b1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    assert ids(adapters) == []
    assert isinstance(adapters.store, LocalStore)
