"""The specs' fields to docs/reference/pipeline.md: every key of pipeline.yaml with type, limits and default."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlops_tasks.durations import format_duration
from mlops_tasks.specs import PipelineSpec

INTRO = """# pipeline.yaml

A pipeline is a folder under `dags/pipelines/` with a `pipeline.yaml` and a `features.sql` or `features.py`.
These are all of its keys; one that is not here is refused. `mlops check NAME` tells what is wrong with a
file before anything runs.

A **duration** is a whole number with a unit: `30s`, `15m`, `2h`, `7d`, `1w`. A **time** is ISO 8601, UTC unless it
carries a zone. "Required" means that there is no default.
"""
FILLED = "filled "
"""A description that starts so belongs to a field that the program fills, not its user."""
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value", type(None): "null"}
_LIMITS = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "min_length": "at least {} of them",
}


def specs_page() -> str:
    """Return the page."""
    return INTRO + "\n" + "\n\n".join(_section(path, model) for path, model in _sections("", PipelineSpec, set())) + "\n"


def described(model: type[BaseModel] = PipelineSpec) -> Iterator[tuple[str, FieldInfo]]:
    """Yield `path, field` of every field that a user may write."""
    for path, section in _sections("", model, set()):
        for name, field in _written(section):
            yield f"{path}.{name}".lstrip("."), field


def summary_of(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring."""
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


def meaning_of(field: FieldInfo) -> str:
    """Return a field's description; that of its model where the field is a whole section."""
    return field.description or " ".join(summary_of(model) for model, _ in _models(field.annotation))


def _sections(path: str, model: type[BaseModel], seen: set[type]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the model and every model within it, each once, in the order of the file."""
    if model in seen:
        return
    seen.add(model)
    yield path, model
    for name, field in _written(model):
        for inner, suffix in _models(field.annotation):
            yield from _sections(f"{path}.{name}{suffix}".lstrip("."), inner, seen)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the models inside a type, each with what stands between its field's name and its own keys."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    step = {tuple: "[]", list: "[]", dict: ".NAME"}.get(origin, "") if origin is not None else ""
    for part in inner:
        yield from _models(part, suffix + step)


def _written(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if not (field.description or "").startswith(FILLED):
            yield field.alias or name, field


def _section(path: str, model: type[BaseModel]) -> str:
    title = f"## `{path}`" if path else "## Top level"
    rows = [_row(name, field) for name, field in _written(model)]
    return "\n".join([title, "", summary_of(model), "", "| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _row(name: str, field: FieldInfo) -> str:
    kind = _type(field.annotation, field.metadata)
    limits = ", ".join(_limits(field.metadata))
    text = f"{kind}, {limits}" if limits else kind
    return "| " + " | ".join(_cell(part) for part in (f"`{name}`", text, _default(field), meaning_of(field))) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(annotation: Any, metadata: list[Any]) -> str:
    """Describe a type in a user's words."""
    if annotation is timedelta:
        return "duration"
    if annotation is datetime:
        return "time"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return _compound(get_origin(annotation), get_args(annotation), metadata)


def _compound(origin: Any, inner: tuple[Any, ...], metadata: list[Any]) -> str:
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return _type(inner[0], metadata)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part, metadata) for part in inner if part is not type(None))
    if origin in (tuple, list):
        return f"list of {_plural(_type(inner[0], metadata))}"
    if origin in (dict, Mapping):
        return f"name: {_type(inner[1], metadata)}, for each"
    msg = f"docs/specs_page.py has no words for the type {origin}[{inner}]: add them"
    raise TypeError(msg)


def _plural(kind: str) -> str:
    return {"text": "texts", "section": "sections", "number": "numbers", "whole number": "whole numbers"}.get(kind, kind)


def _limits(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        for name, words in _LIMITS.items():
            if (limit := getattr(item, name, None)) is not None:
                limit = format_duration(limit) if isinstance(limit, timedelta) else limit
                yield words.format(f"{limit:,}" if isinstance(limit, int) else limit)
        if (pattern := getattr(item, "pattern", None)) is not None:
            yield f"matches `{pattern}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its own defaults"
    if value is None:
        return "none"
    if value in ("", (), {}):
        return "empty"
    return f"`{_written_as(value)}`"


def _written_as(value: Any) -> str:
    """Write a value as it would stand in YAML."""
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
