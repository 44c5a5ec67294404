"""A pipeline's folder to its `PipelineSpec`; every mistake in it to one line that says how to mend it.

DAG files import this module, so it needs nothing but pydantic and PyYAML.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mlops_tasks.errors import SpecError
from mlops_tasks.problems import describe_problems
from mlops_tasks.specs import PipelineSpec

SPEC_FILE = "pipeline.yaml"
FILLED = {"preprocess": ("code", "feature_schema", "primary", "primary_time", "static"), "monitor": ("label_delay", "trial")}
"""Section -> its fields that come from the folder and the other sections, never from a user."""
FIXED = ("name", "preprocess.features")
"""What an override can't change: it belongs to the folder."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # the C loader is absent from some builds
    """YAML without duplicate keys: the last one silently wins in plain YAML."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT002 - PyYAML's signature
        seen: set[object] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} stands here twice", key_node.start_mark
                )
            seen.add(getattr(key_node, "value", None) if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def pipelines_root(root: Path | None = None) -> Path:
    """Return the folder of pipelines: `root`, else MLOPS_PIPELINES, else `dags/pipelines`."""
    return root if root is not None else Path(os.environ.get("MLOPS_PIPELINES") or "dags/pipelines")


def pipeline_names(root: Path | None = None) -> list[str]:
    """Return the names of the folders that hold a pipeline.yaml, sorted.

    Raises:
        SpecError: there is no such folder of pipelines.

    """
    folder = pipelines_root(root)
    if not folder.is_dir():
        msg = f"{folder}: there is no such folder of pipelines; set MLOPS_PIPELINES to it"
        raise SpecError(msg)
    return sorted(path.parent.name for path in folder.glob(f"*/{SPEC_FILE}"))


def load_pipeline(name: str, root: Path | None = None) -> PipelineSpec:
    """Read and check one pipeline's folder.

    Raises:
        SpecError: all that is wrong with it, one problem a line.

    """
    folder = pipelines_root(root)
    if not re.fullmatch(r"\w+", name) or not (folder / name / SPEC_FILE).is_file():
        raise SpecError(_unknown_pipeline(name, folder))
    where = f"{folder.resolve().name}/{name}/{SPEC_FILE}"
    raw = _read_yaml(folder / name / SPEC_FILE, where)
    _refuse_filled(raw, where)
    code = _read_code(raw, folder / name, where)
    spec = _validated(_filled(raw, code), where)
    if spec.name != name:
        msg = f"{where}: name must be {name!r}, the folder's name, got {spec.name!r}"
        raise SpecError(msg)
    return spec


def apply_overrides(spec: PipelineSpec, overrides: Mapping[str, Any]) -> PipelineSpec:
    """Return the spec with dotted keys replaced, e.g. `{"train.trials": 3}`, checked like the file itself.

    Raises:
        SpecError: an unknown key or a wrong value.

    """
    where = f"{spec.name} overrides"
    raw: dict[str, Any] = spec.model_dump(by_alias=True)
    for section, fields in FILLED.items():
        for field in fields:
            raw[section].pop(field)
    for key, value in overrides.items():
        if key in FIXED:
            msg = f"{where}: {key} can't be overridden; change it in the pipeline's folder"
            raise SpecError(msg)
        _set(raw, key, value, where)
    _refuse_filled(raw, where)
    return _validated(_filled(raw, spec.preprocess.code), where)


def _unknown_pipeline(name: str, folder: Path) -> str:
    known = pipeline_names(folder)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
    return f"{folder}: there is no pipeline {name!r}; {hint}"


def _read_yaml(path: Path, where: str) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except UnicodeDecodeError as error:
        msg = f"{where}: is not UTF-8 at byte {error.start}; save it as UTF-8"
        raise SpecError(msg) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        msg = f"{where}: {place}{error.problem or error.context}"
        raise SpecError(msg) from error
    except yaml.YAMLError as error:
        msg = f"{where}: is not valid YAML: {error}"
        raise SpecError(msg) from error
    if not isinstance(raw, dict):
        msg = f"{where}: must be a mapping of keys to values, got {'nothing' if raw is None else repr(raw)[:60]}"
        raise SpecError(msg)
    return raw


def _refuse_filled(raw: Mapping[str, Any], where: str) -> None:
    given = [f"{name}.{f}" for name, fields in FILLED.items() for f in fields if f in _section(raw, name)]
    if given:
        msg = "\n".join(f"{where}: {key} is filled when the pipeline is read; remove it" for key in given)
        raise SpecError(msg)


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section; empty where there is none, or something else that the spec's own check will tell of."""
    section = raw.get(name)
    return section if isinstance(section, dict) else {}


def _read_code(raw: Mapping[str, Any], folder: Path, where: str) -> str:
    """Return the text of the features file; a wrongly typed name is left for the spec's own check."""
    section = raw.get("preprocess")
    name = section.get("features", "features.sql") if isinstance(section, dict) else "features.sql"
    if not isinstance(name, str):
        return ""
    if Path(name).name != name or Path(name).suffix not in {".sql", ".py"}:
        msg = f"{where}: preprocess.features must be a .sql or .py file in the pipeline's own folder, got {name!r}"
        raise SpecError(msg)
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        msg = f"{where}: preprocess.features names {name!r}, which is not in the folder; write it, or name another file"
        raise SpecError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{where}: {name} is not UTF-8 at byte {error.start}; save it as UTF-8"
        raise SpecError(msg) from error


def _filled(raw: Mapping[str, Any], code: str) -> dict[str, Any]:
    section = raw.get("preprocess") or {}
    collect = raw.get("collect")
    if not isinstance(section, dict) or not isinstance(collect, dict):
        return dict(raw)
    sources = collect.get("sources")
    static = (
        [n for n, s in sources.items() if isinstance(s, dict) and s.get("event_time") is None]
        if isinstance(sources, dict)
        else []
    )
    named = collect.get("primary")
    primary = sources.get(named) if isinstance(sources, dict) and isinstance(named, str) else None
    filled = {
        "code": code,
        "feature_schema": raw.get("features"),
        "primary": named,
        "primary_time": primary.get("event_time") if isinstance(primary, dict) else None,
        "static": static,
    }
    return {**raw, "preprocess": {**section, **filled}, **_with_monitor(raw)}


def _with_monitor(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the monitor's section with the delay of labels and how challengers are tried, which are stated once."""
    section, filled = raw.get("monitor") or {}, dict[str, Any]()
    if not isinstance(section, dict):
        return {}
    delay, challenger = _section(raw, "snapshot").get("label_delay"), _section(raw, "serve").get("challenger")
    if delay is not None:
        filled["label_delay"] = delay
    if isinstance(challenger, dict):
        labels, sources = challenger.get("labels"), _section(_section(raw, "collect"), "sources")
        filled["trial"] = {"challenger": challenger, "labels": sources.get(labels) if isinstance(labels, str) else None}
    return {"monitor": {**section, **filled}} if filled else {}


def _validated(raw: Mapping[str, Any], where: str) -> PipelineSpec:
    try:
        return PipelineSpec.model_validate(raw)
    except ValidationError as error:
        # What was filled in is reported where the user wrote it.
        own = [e for e in error.errors() if not (e["loc"][1:] and e["loc"][1] in FILLED.get(str(e["loc"][0]), ()))]
        raise SpecError("\n".join(f"{where}: {line}" for line in describe_problems(own, PipelineSpec))) from error


def _set(raw: dict[str, Any], key: str, value: object, where: str) -> None:
    *path, last = key.split(".")
    target: Any = raw
    for part in path:
        target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            close = difflib.get_close_matches(part, raw, n=1)
            msg = f"{where}: {key} is not a known key" + (f"; did you mean {close[0]!r}?" if close else "")
            raise SpecError(msg)
    target[last] = value
