"""One run's tasks: what is reused, what is made anew and why, and what is refused. Stages are stand-ins; the rest is real."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.artifacts import (
    Candidate,
    Dataset,
    Deployment,
    Features,
    Judgement,
    RawData,
    SplitRef,
    ValidFeatures,
    ValidRaw,
    Verdict,
    Window,
)
from mlops_tasks.cli.run import _Loop
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.windows import span
from mlops_tasks.errors import (
    ChampionMoved,
    DataRejected,
    ModelRejected,
    NothingToDo,
    PipelineError,
    SpecError,
    StoreUnavailable,
)
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.pipeline import Stage
from mlops_tasks.runner import Handle, Invocation, Runner
from mlops_tasks.runner.history import Failed, read_history
from mlops_tasks.runner.past import make_models
from mlops_tasks.runner.planning.runs import Run
from mlops_tasks.wiring import Adapters
from tests.fakes import FakeProgress, FakeRegistry, FakeTracker
from tests.raw_windows import make_raw, orders

if TYPE_CHECKING:
    from mlops_tasks.ports import Ports

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2013, 2, 1, tzinfo=UTC)
NOW = datetime(2014, 1, 1, tzinfo=UTC)


class FakeSources:
    """Sources whose content is a text."""

    def __init__(self) -> None:
        self.content = "first delivery"

    def fingerprint(self, source: object, window: Window | None) -> str:
        del source, window
        return self.content


class World:
    """A pipeline, its adapters, and stand-ins of its stages that remember how they were called."""

    def __init__(self, folder: Path) -> None:
        self.adapters = Adapters({"MLOPS_STORE": str(folder / "store")})
        self.sources = FakeSources()
        self.registry = FakeRegistry()
        vars(self.adapters).update(sources=self.sources, registry=self.registry, tracker=FakeTracker(), progress=FakeProgress())
        self.pipeline = load_pipeline("nyc_flights", ROOT / "dags/pipelines")
        self.calls: list[tuple[str, Any]] = []
        self.fails: dict[str, PipelineError] = {}
        self._times = itertools.count()

    def function(self, stage: Stage) -> Callable[..., Any]:
        def run(spec: Any, *args: Any, ports: Ports, **inputs: Any) -> Any:
            del spec
            assert not args
            if stage.name in self.fails:
                raise self.fails[stage.name]
            made = getattr(self, f"_{stage.name}")(ports=ports, **inputs)
            self.calls.append((stage.name, [m.window.label for m in made] if isinstance(made, list) else inputs))
            return made

        return run

    def run(self, days: int = 2, *, recompute: Sequence[str] = (), **overrides: Any) -> dict[str, tuple[int, int, str]]:
        """Run all stages; return what each made, reused and said."""
        self.calls.clear()
        changed = {key.replace("__", "."): value for key, value in overrides.items()}
        runner = Runner(apply_overrides(self.pipeline, changed), self.adapters)
        loop = _Loop(runner, self.invocation("collect", days), frozenset(recompute))
        for name in ("collect", "validate_raw", "preprocess", "validate", "snapshot", "train", "evaluate", "deploy"):
            loop.step(name)
        stages = loop.summary()["stages"]
        return {name: (s["computed"], s["cached"], s["note"]) for name, s in stages.items()}

    def invocation(self, stage: str, days: int = 2, **changes: Any) -> Invocation:
        given = {
            "stage": stage,
            "pipeline": "nyc_flights",
            "run_id": f"run-{next(self._times)}",
            "intent": "manual",
            "now": NOW,
        }
        return Invocation(**{**given, "start": START, "end": START.replace(day=1 + days), **changes})

    def invoke(self, stage: str, days: int = 2, **changes: Any) -> Any:
        return Runner(self.pipeline, self.adapters).invoke(self.invocation(stage, days, **changes))

    def _collect(self, windows: Sequence[Window], *, ports: Ports) -> list[RawData]:
        return [make_raw(ports.store, w, {"flights": orders((w.start, 1, 2.0, self.sources.content))}) for w in windows]

    def _validate_raw(self, raw: Sequence[RawData], *, ports: Ports) -> list[ValidRaw]:
        del ports
        return [ValidRaw(digest=r.digest, files=(), raw=r) for r in raw]

    def _preprocess(self, raw: Sequence[ValidRaw], windows: Sequence[Window], *, ports: Ports) -> list[Features]:
        made = []
        for window in windows:
            with ports.store.staging() as folder:
                (folder / "features.parquet").write_text(f"{window} {[r.raw.digest for r in raw if r.window == window]}")
                digest, files = publish_files(ports.store, "f", {"features.parquet": folder / "features.parquet"})
            made.append(
                Features(
                    digest=digest, files=files, window=window, feature_schema=self.pipeline.features, rows=1, rejected={"r": 2}
                )
            )
        return made

    def _validate(self, features: Sequence[Features], *, ports: Ports) -> list[ValidFeatures]:
        del ports
        return [ValidFeatures(digest=f.digest, files=(), features=f) for f in features]

    def _snapshot(self, features: Sequence[ValidFeatures], *, ports: Ports) -> Dataset:
        del ports
        whole = span([f.window for f in features])
        return Dataset(
            digest="".join(f.digest[:8] for f in features),
            files=(),
            as_of=whole.end,
            feature_schema=self.pipeline.features,
            splits={"train": SplitRef(window=whole, files=())},
            rows=len(features),
        )

    def _train(self, dataset: Dataset, *, ports: Ports) -> Candidate:
        return Candidate(
            digest="c",
            files=(),
            fingerprint=ports.run.fingerprint,
            dataset_version=dataset.version,
            training=dataset.splits["train"].window,
            task="binary",
            mlflow_run_id="r",
        )

    def _evaluate(self, candidate: Candidate, dataset: Dataset, champion: Deployment | None, *, ports: Ports) -> Verdict:
        del dataset, ports
        return Verdict(
            digest=f"v{candidate.fingerprint}{champion.version if champion else 0}",
            files=(),
            candidate=candidate,
            passed=True,
            judgements=(Judgement(rule="x", passed=True, reason="x"),),
            metrics={"roc_auc": 0.7},
            champion_version=champion.version if champion else None,
        )

    def _deploy(self, verdict: Verdict, *, ports: Ports) -> Deployment:
        name, candidate = ports.run.pipeline, verdict.candidate
        version = ports.registry.register(name, candidate, verdict, {}, {})
        before = ports.registry.alias(name, "champion")
        if before not in {None, version, verdict.champion_version}:
            msg = "judged against another"
            raise ChampionMoved(msg)
        alias: Any = "none" if ports.run.intent == "backfill" else "champion"
        deployment = Deployment(
            digest="d",
            files=(),
            model=name,
            version=version,
            alias=alias,
            fingerprint=candidate.fingerprint,
            dataset_version=candidate.dataset_version,
            training=candidate.training,
            feature_schema=self.pipeline.features,
            mlflow_run_id="r",
        )
        ports.registry.record(deployment)
        if alias == "champion":
            ports.registry.promote(name, "champion", version, expected=before, reason="", who="")
        return deployment


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(Stage, "function", lambda self: made.function(self))  # noqa: PLW0108 - a bound method would not get the stage
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")
    return made


def made_by(result: dict[str, tuple[int, int, str]]) -> dict[str, int]:
    return {name: computed for name, (computed, _, _) in result.items() if computed}


def test_the_first_run_makes_all_and_the_second_nothing(world: World) -> None:
    first = world.run()
    assert first["collect"] == (3, 0, "3 made: not made before (3)"), "the window before is looked back to"
    assert first["preprocess"] == (2, 0, "2 made: not made before (2)")
    assert first["deploy"] == (1, 0, "1 made: not made before")
    second = world.run()
    assert world.calls == []
    assert second["collect"] == (0, 3, "3 cached: same inputs, spec and code")
    assert {note for _, _, note in list(second.values())[4:]} == {"cached: same inputs, spec and code"}


def test_missing_windows_are_made_in_one_call_beside_those_that_are_there(world: World) -> None:
    world.run(2)
    result = world.run(5)
    assert result["preprocess"] == (3, 2, "3 made: not made before (3); 2 cached")
    assert dict(world.calls)["collect"] == ["2013-02-03", "2013-02-04", "2013-02-05"]
    assert [name for name, _ in world.calls].count("preprocess") == 1


def test_a_change_reaches_only_what_depends_on_it(world: World) -> None:
    world.run()
    assert made_by(world.run(evaluate__bootstrap=7)) == {"evaluate": 1}, "the verdict says the same, so nothing is deployed"
    again = world.run(preprocess__lookback="6h")
    assert again["preprocess"] == (2, 0, "2 made: spec changed (lookback) (2)")
    assert made_by(again) == {"preprocess": 2}, "the features came out the same"
    assert made_by(world.run(train__seed=1)) == {"train": 1, "evaluate": 1, "deploy": 1}
    assert world.run(train__seed=2)["train"][2] == "1 made: spec changed (seed)"


def test_a_new_delivery_changes_what_is_made_of_it(world: World) -> None:
    world.run()
    world.sources.content = "second delivery"
    result = world.run()
    assert result["collect"][2] == "3 made: input changed (flights, planes, weather) (3)"
    assert made_by(result).keys() == set(result)


def test_recompute_is_obeyed_and_says_so(world: World) -> None:
    world.run()
    result = world.run(recompute=("train", "evaluate", "deploy"))
    assert made_by(result) == {"train": 1, "evaluate": 1, "deploy": 1}
    assert result["train"][2] == "1 made: asked for"


def test_a_damaged_result_is_made_again(world: World) -> None:
    world.run()
    key = next(key for key in world.adapters.store.list("f/"))
    world.adapters.store.write(key, b"damaged")
    result = world.run()
    assert made_by(result) == {"preprocess": 1}
    assert result["preprocess"][2] == f"1 made: missing or damaged: {key}; 1 cached"


def test_a_champion_is_not_judged_against_itself(world: World) -> None:
    world.run()
    world.run(recompute=("evaluate",))
    ((_, inputs),) = [call for call in world.calls if call[0] == "evaluate"]
    assert inputs["champion"] is None


def test_nothing_is_judged_anew_after_another_champion_or_a_rollback(world: World) -> None:
    world.run()
    world.run(train__seed=1)
    assert world.registry.alias("nyc_flights", "champion") == 2
    assert made_by(world.run(train__seed=1)) == {}
    assert json.loads(_judged(world, 2))["champion_version"] == 1
    world.registry.promote("nyc_flights", "champion", 1, expected=2, reason="rollback", who="")
    assert made_by(world.run()) == {}, "version 1 was judged against nothing, as it was the first"
    result = world.run(train__seed=1)
    assert made_by(result) == {"deploy": 1}, "version 2 was judged against version 1 already, but serves no more"
    assert result["deploy"][2] == "1 made: aliases were moved since"


def test_a_backfill_of_a_champions_range_leaves_what_it_was_judged_against(world: World) -> None:
    world.run()
    world.run(train__seed=1)
    before = _judged(world, 2)
    make_models(
        Runner(apply_overrides(world.pipeline, {"train.seed": 1}), world.adapters),
        [Run(NOW, Window(start=START, end=START.replace(day=3)))],
        overrides={"train.seed": 1},
        tell=lambda _: None,
    )
    assert _judged(world, 2) == before
    assert made_by(world.run(train__seed=1)) == {}


def _judged(world: World, version: int) -> bytes:
    fingerprint = world.registry.deployment("nyc_flights", version).fingerprint
    return world.adapters.store.read(f"nyc_flights/judged/{fingerprint[:32]}.json")


def test_a_backfilled_model_holds_no_alias_and_is_deployed_once(world: World) -> None:
    inputs: dict[str, Handle] = {}
    for stage, takes, gives in (
        ("collect", (), "raw"),
        ("validate_raw", ("raw",), "raw"),
        ("preprocess", ("raw",), "features"),
        ("validate", ("features",), "features"),
        ("snapshot", ("features",), "dataset"),
        ("train", ("dataset",), "candidate"),
        ("evaluate", ("candidate", "dataset"), "verdict"),
    ):
        inputs[gives] = world.invoke(stage, inputs={name: inputs[name] for name in takes}).handle
    outcomes = [world.invoke("deploy", intent="backfill", inputs={"verdict": inputs["verdict"]}) for _ in range(2)]
    assert [(o.computed, o.cached, o.facts["alias"]) for o in outcomes] == [(1, 0, "none"), (0, 1, "none")]
    assert world.registry.alias("nyc_flights", "champion") is None
    promoted = world.invoke("deploy", inputs={"verdict": inputs["verdict"]})
    assert (promoted.computed, promoted.facts) == (1, {"model": "nyc_flights", "version": 1, "alias": "champion"})


def test_a_backfilled_model_is_judged_against_the_one_of_its_time(world: World) -> None:
    world.run(2)
    world.run(6)
    assert world.registry.alias("nyc_flights", "champion") == 2, "it was trained on more days than the backfilled one"
    world.calls.clear()
    for name, champion in (("manual", 2), ("backfill", 1)):
        inputs: dict[str, Handle] = {}
        for stage, takes, gives in (
            ("collect", (), "raw"),
            ("validate_raw", ("raw",), "raw"),
            ("preprocess", ("raw",), "features"),
            ("validate", ("features",), "features"),
            ("snapshot", ("features",), "dataset"),
            ("train", ("dataset",), "candidate"),
            ("evaluate", ("candidate", "dataset"), "verdict"),
        ):
            asked = {key: inputs[key] for key in takes}
            inputs[gives] = world.invoke(stage, 4, intent=name, inputs=asked).handle
        judged = [given for stage, given in world.calls if stage == "evaluate"][-1]
        assert judged["champion"].version == champion, name


def rival(world: World) -> int:
    """Let another model become champion."""
    version = world.registry.alias("nyc_flights", "champion")
    assert version is not None
    made = world.registry.deployment("nyc_flights", version).model_copy(update={"version": version + 100, "fingerprint": "r"})
    world.registry.record(made)
    world.registry.named["nyc_flights", "champion"] = made.version
    return made.version


def judged_then_overtaken(world: World) -> tuple[dict[str, Any], int]:
    """Judge a second model; before it is deployed a rival becomes champion. Return the deployment's arguments."""
    world.run()
    world.pipeline = apply_overrides(world.pipeline, {"train.seed": 5})
    handles: dict[str, Handle] = {}
    for stage, needs in CHAIN.items():
        inputs = {name: handles[producer] for name, producer in needs.items()}
        made = world.invoke(stage, run_id="overtaken", inputs=inputs)
        handles[stage] = made.handle
    world.calls.clear()
    return {"run_id": "overtaken", "inputs": {"verdict": handles["evaluate"]}}, rival(world)


CHAIN: dict[str, dict[str, str]] = {
    "collect": {},
    "validate_raw": {"raw": "collect"},
    "preprocess": {"raw": "validate_raw"},
    "validate": {"features": "preprocess"},
    "snapshot": {"features": "validate"},
    "train": {"dataset": "snapshot"},
    "evaluate": {"candidate": "train", "dataset": "snapshot"},
}


def test_who_would_replace_another_champion_than_the_judged_one_is_judged_again(world: World) -> None:
    deployment, overtaker = judged_then_overtaken(world)

    made = world.invoke("deploy", **deployment)

    assert [name for name, _ in world.calls] == ["evaluate", "deploy"]
    assert world.calls[0][1]["champion"].version == overtaker
    assert made.note == f"1 made: judged again, since version {overtaker} became champion meanwhile"


def test_who_loses_against_the_new_champion_does_not_replace_it(world: World) -> None:
    deployment, overtaker = judged_then_overtaken(world)
    world.fails["evaluate"] = ModelRejected("it is worse")
    with pytest.raises(ModelRejected, match="it is worse"):
        world.invoke("deploy", **deployment)
    assert world.registry.alias("nyc_flights", "champion") == overtaker


def test_without_its_dataset_a_model_can_not_be_judged_again(world: World) -> None:
    deployment, overtaker = judged_then_overtaken(world)
    world.adapters.store.delete("nyc_flights/runs/overtaken/snapshot.json")
    with pytest.raises(ModelRejected, match=r"overtaken/snapshot\.json is gone; run evaluate again"):
        world.invoke("deploy", **deployment)
    assert world.registry.alias("nyc_flights", "champion") == overtaker


def test_the_monitor_waits_for_a_model(world: World) -> None:
    features = world.invoke("collect").handle
    for stage, name in (("validate_raw", "raw"), ("preprocess", "raw"), ("validate", "features")):
        features = world.invoke(stage, inputs={name: features}).handle
    with pytest.raises(NothingToDo) as caught:
        world.invoke("monitor", inputs={"features": features})
    assert str(caught.value) == "nyc_flights: no model serves yet, so there is nothing to monitor; train one first"


def test_a_pipeline_that_watches_anothers_model_waits_for_that_one(world: World) -> None:
    world.pipeline = world.pipeline.model_copy(
        update={"monitor": world.pipeline.monitor.model_copy(update={"model": "nyc_trains"})}
    )
    features = world.invoke("collect").handle
    for stage, name in (("validate_raw", "raw"), ("preprocess", "raw"), ("validate", "features")):
        features = world.invoke(stage, inputs={name: features}).handle
    with pytest.raises(NothingToDo, match="nyc_trains: no model serves yet"):
        world.invoke("monitor", inputs={"features": features})


def test_a_failed_stage_records_nothing(world: World) -> None:
    world.fails["validate_raw"] = DataRejected("bad")
    with pytest.raises(DataRejected, match="bad"):
        world.run()
    assert [key.rsplit("/", 1)[-1] for key in world.adapters.store.list("nyc_flights/runs/")] == ["collect.json"]
    assert list(world.adapters.store.list("nyc_flights/cache/validate_raw/")) == []


def test_each_stage_leaves_how_long_it_took_over_what_and_why_it_ran(world: World) -> None:
    world.run()
    world.run(train__seed=1)
    history = read_history(world.adapters.store, "nyc_flights")
    first, second = ({r.stage: r for r in history[at : at + 8]} for at in (0, 8))
    assert (first["collect"].computed, first["collect"].rows) == (3, 3)
    assert first["collect"].reasons == {"not made before": 3}
    assert (second["collect"].computed, second["collect"].cached, second["collect"].reasons) == (0, 3, {})
    assert second["train"].reasons == {"spec changed (seed)": 1}
    assert (second["train"].rows, second["train"].settings["model"]) == (2, world.pipeline.train.model)
    assert all(record.seconds >= 0 and record.failure is None for record in history)


def test_a_failed_stage_leaves_why_until_a_retry_succeeds(world: World) -> None:
    world.fails["collect"] = DataRejected("the delivery is damaged")
    with pytest.raises(DataRejected):
        world.invoke("collect", run_id="r/1")
    (record,) = read_history(world.adapters.store, "nyc_flights", "r_1")
    assert record.failure == Failed(error="DataRejected", message="the delivery is damaged")
    world.fails.clear()
    world.invoke("collect", run_id="r/1")
    (record,) = read_history(world.adapters.store, "nyc_flights", "r_1")
    assert (record.failure, record.computed) == (None, 3)


def test_a_run_that_finds_its_own_work_keeps_what_it_took(world: World) -> None:
    world.invoke("collect", run_id="r1")
    again = world.invoke("collect", run_id="r1")
    (record,) = read_history(world.adapters.store, "nyc_flights", "r1")
    assert (again.computed, record.computed, record.reasons) == (0, 3, {"not made before": 3})


def test_of_many_runs_the_latest_of_each_kind_are_read(world: World) -> None:
    for run_id in (
        "ingest-backfill__2013-02-01",
        "ingest-backfill__2013-02-02",
        "ingest-backfill__2013-02-03",
        "train-manual__1",
    ):
        world.invoke("collect", run_id=run_id)
    found = read_history(world.adapters.store, "nyc_flights", most=2)
    assert [record.run_id for record in found] == [
        "ingest-backfill__2013-02-02",
        "ingest-backfill__2013-02-03",
        "train-manual__1",
    ]


def test_records_of_another_version_are_passed_over(world: World) -> None:
    world.invoke("collect", run_id="r1")
    world.adapters.store.write("nyc_flights/outcomes/r0/collect.json", b'{"stage": "collect"}')
    assert [record.run_id for record in read_history(world.adapters.store, "nyc_flights")] == ["r1"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "fit",
        {},
        (
            "stage: must be one of collect, validate_raw, preprocess, validate, snapshot, train, "
            "evaluate, deploy, monitor, got 'fit'"
        ),
    ),
    ("validate_raw", {}, "validate_raw: input 'raw' is missing; give the handle that its producer returned"),
    ("validate_raw", {"inputs": {"row": "RAW"}}, "validate_raw: has no input 'row'; it takes raw"),
    ("collect", {"inputs": {"raw": "RAW"}}, "collect: has no input 'raw'; it takes none"),
    ("evaluate", {"inputs": {"champion": "RAW"}}, "evaluate: has no input 'champion'; it takes candidate, dataset"),
    (
        "validate",
        {"inputs": {"features": "RAW"}},
        "store: RAW is no result of preprocess; give the handle that preprocess returned",
    ),
    (
        "preprocess",
        {"inputs": {"raw": "VALID"}, "days": 4},
        "preprocess: raw data of window [2013-02-03T00:00, 2013-02-04T00:00) is missing; collect it first",
    ),
    (
        "collect",
        {"start": datetime(2013, 2, 1, 3, tzinfo=UTC)},
        (
            "start: 2013-02-01T03:00 is not aligned to the cadence 'day', whose windows start at midnight UTC; "
            "use 2013-02-01 or 2013-02-02"
        ),
    ),
    ("collect", {"start": NOW}, "end: must be after start 2014-01-01, got 2013-02-03; the end itself is not part of the range"),
]


@pytest.mark.parametrize(("stage", "changes", "message"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_what_is_refused(world: World, stage: str, changes: dict[str, Any], message: str) -> None:
    raw = world.invoke("collect").handle
    valid = world.invoke("validate_raw", inputs={"raw": raw}).handle
    named = {"RAW": raw, "VALID": valid}
    given = {name: named[handle] for name, handle in changes.get("inputs", {}).items()}
    with pytest.raises(SpecError) as caught:
        world.invoke(stage, **{**changes, "inputs": given})
    assert str(caught.value).replace(raw.uri, "RAW") == message


def test_a_record_that_changed_or_is_gone_is_not_used(world: World) -> None:
    handle = world.invoke("collect", run_id="r1").handle
    assert handle.uri == "nyc_flights/runs/r1/collect.json"
    world.adapters.store.write(handle.uri, world.adapters.store.read(handle.uri) + b" ")
    with pytest.raises(StoreUnavailable) as caught:
        world.invoke("validate_raw", inputs={"raw": handle})
    assert str(caught.value) == (
        "store: nyc_flights/runs/r1/collect.json, the result of collect, was changed since it was handed on; run collect again"
    )
    world.adapters.store.delete(handle.uri)
    with pytest.raises(StoreUnavailable) as caught:
        world.invoke("validate_raw", inputs={"raw": handle})
    assert str(caught.value) == "store: nyc_flights/runs/r1/collect.json, the result of collect, is gone; run collect again"


@pytest.mark.parametrize(
    ("run_id", "segment"),
    [
        ("manual__2013-01-01T00:00:00+00:00", "manual__2013-01-01T00_00_00_00_00"),
        ("..", "_."),
        (".hidden", "_hidden"),
        ("a/../b", "a_.._b"),
        ("läuft", "l_uft"),
    ],
)
def test_run_ids_fit_keys(world: World, run_id: str, segment: str) -> None:
    assert world.invoke("collect", run_id=run_id).handle.uri == f"nyc_flights/runs/{segment}/collect.json"
