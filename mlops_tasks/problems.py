"""pydantic's validation errors to lines that name the key, what was got and what to do."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LONGEST_INPUT = 60

_WANTED = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}
_WANTED_BY_KIND = {
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "bool": "must be true or false",
    "string": "must be a text",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a mapping of keys to values",
    "model": "must be a mapping of keys to values",
    "datetime": "must be a time such as 2013-01-31 or 2013-01-31T06:00Z",
}


def describe_problems(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> list[str]:
    """Return one line per error of validating `model`, in the order of the model's fields."""
    return [_describe(error, model) for error in errors]


def _describe(error: ErrorDetails, model: type[BaseModel]) -> str:
    where, kind = format_location(error["loc"]), error["type"]
    context = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in (error.get("ctx") or {}).items()}
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is not a known key; {_suggestion(error['loc'], model)}"
    if kind == "too_short":
        return f"{where} must have at least {context['min_length']} entry, got {context['actual_length']}"
    if kind == "value_error":
        return _own_words(where, str(context["error"]), error["input"])
    wanted = _WANTED[kind].format(**context) if kind in _WANTED else _WANTED_BY_KIND.get(kind.split("_")[0])
    if wanted is None:
        return f"{where}: {error['msg']}, got {_shown(error['input'])}"
    return f"{where} {wanted}, got {_shown(error['input'])}"


def _own_words(where: str, message: str, value: object) -> str:
    """Word a ValueError of the specs' own validators: about a value (`must ...`) or about a whole section."""
    if message.startswith("must "):
        return f"{where} {message}, got {_shown(value)}"
    return f"{where}: {message}" if where else message


def format_location(location: Sequence[int | str]) -> str:
    """Write a place in a document as people do, e.g. `features.columns[2].kind`."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def _shown(value: object) -> str:
    text = {True: "true", False: "false", None: "nothing"}.get(value) if isinstance(value, bool | None) else repr(value)
    text = str(text)
    return text if len(text) <= LONGEST_INPUT else f"{text[:LONGEST_INPUT]}..."


def _suggestion(location: Sequence[int | str], model: type[BaseModel]) -> str:
    known = sorted({key for found in _models_at(model, location[:-1]) for key in _keys(found)})
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _models_at(annotation: Any, location: Sequence[int | str]) -> Iterator[type[BaseModel]]:
    """Walk a type along a location; yield the models that stand there."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models_at(get_args(annotation)[0], location)
    elif origin in {Union, types.UnionType}:
        for option in get_args(annotation):
            yield from _models_at(option, location)
    elif origin in {tuple, list, dict} and location:
        yield from _models_at(get_args(annotation)[-1 if origin is dict else 0], location[1:])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            yield annotation
        for name, field in annotation.model_fields.items():
            if location and (field.alias or name) == location[0]:
                yield from _models_at(field.annotation, location[1:])
