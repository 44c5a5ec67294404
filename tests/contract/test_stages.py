"""The stage table against the stages: signatures, specs, and a chain in which each type has one producer."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from mlops_tasks import artifacts, specs
from mlops_tasks.artifacts import Artifact, Window
from mlops_tasks.cli.parser import INTENTS
from mlops_tasks.cli.parser import STAGES as OFFERED
from mlops_tasks.pipeline import BY_NAME, INGEST, STAGES, TRAIN, Stage
from mlops_tasks.ports import Ports
from mlops_tasks.runner import RESOLVED, Invocation
from mlops_tasks.specs import PipelineSpec

each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


@each_stage
def test_run_has_the_signature_of_its_row(stage: Stage) -> None:
    module = importlib.import_module(f"mlops_tasks.stages.{stage.name}")
    # Stages import some types for checkers only, so that they stay light.
    hints = get_type_hints(module.run, localns={**vars(artifacts), **vars(specs), "Ports": Ports, "Sequence": Sequence})
    assert hints == {"spec": stage.spec, **stage.consumes, "ports": Ports, "return": stage.produces}


@each_stage
def test_ports_alone_are_given_by_keyword(stage: Stage) -> None:
    parameters = inspect.signature(stage.function()).parameters.values()
    by_keyword = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert by_keyword == ["ports"]
    assert [p.name for p in parameters][:-1] == ["spec", *stage.consumes]


@each_stage
def test_the_spec_is_a_section_of_the_pipeline(stage: Stage) -> None:
    field = PipelineSpec.model_fields[stage.section]
    assert field.annotation is stage.spec
    assert (field.alias or stage.section) == stage.name, "the section in pipeline.yaml has the stage's name"


@each_stage
def test_every_input_has_exactly_one_producer(stage: Stage) -> None:
    for name, kind in stage.consumes.items():
        wanted = _artifact(kind)
        producers = [s.name for s in STAGES if _artifact(s.produces) is wanted]
        assert producers == ([] if wanted is Window else [_producer_of(wanted)]), name


def test_each_type_has_one_producer() -> None:
    produced = [_artifact(stage.produces) for stage in STAGES]
    assert len(set(produced)) == len(STAGES)
    assert all(issubclass(kind, Artifact) for kind in produced)


def test_the_flow_runs_one_way() -> None:
    place = {stage.name: i for i, stage in enumerate(STAGES)}
    back = [
        (stage.name, name)
        for stage in STAGES
        for name, kind in stage.consumes.items()
        if name not in RESOLVED and place[_producer_of(_artifact(kind))] >= place[stage.name]
    ]
    assert back == []


def test_the_chains_are_the_table() -> None:
    assert [*INGEST, *TRAIN, "monitor"] == [stage.name for stage in STAGES]
    assert [stage.name for stage in STAGES if stage.per_window] == [*INGEST, "monitor"]
    assert list(BY_NAME) == [stage.name for stage in STAGES]


def test_the_command_line_offers_the_table() -> None:
    assert list(OFFERED) == list(BY_NAME)
    assert get_args(Invocation.model_fields["intent"].annotation) == INTENTS


def _artifact(kind: Any) -> type:
    """Return the artifact's type of `list[T]`, `Sequence[T]`, `T | None` or `T`."""
    if get_origin(kind) in {list, Sequence}:
        return _artifact(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return _artifact(next(item for item in get_args(kind) if item is not type(None)))
    assert isinstance(kind, type)
    return kind


def _producer_of(kind: type) -> str:
    return next(stage.name for stage in STAGES if _artifact(stage.produces) is kind)
