"""An InferenceService on stdin against KServe's own types, which its SDK has from its API; prints each mistake.

Unknown fields are mistakes, too: a cluster drops them in silence.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve
from kubernetes.client import models

PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "object": (dict,),
    "ResourceQuantity": (str, int),
    "IntstrIntOrString": (str, int),
}


def mistakes(value: Any, kind: str, where: str) -> Iterator[str]:
    """Yield what is wrong with a value of a type, which is named as the SDK does."""
    if listed := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        yield from _below(value, list, listed[1], where)
    elif mapped := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind):
        yield from _below(value, dict, mapped[1], where)
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
            yield f"{where}: must be {kind}, got {value!r}"
    else:
        yield from _of_model(value, getattr(kserve, kind, None) or getattr(models, kind), where)


def _below(value: Any, holder: type[Any], kind: str, where: str) -> Iterator[str]:
    if not isinstance(value, holder):
        yield f"{where}: must be a {holder.__name__}, got {value!r}"
        return
    items: Any = value.items() if holder is dict else enumerate(value)
    for at, item in items:
        yield from mistakes(item, kind, f"{where}.{at}")


def _of_model(value: Any, model: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be {model.__name__}, got {value!r}"
        return
    fields = {key: name for name, key in model.attribute_map.items()}
    for key, item in value.items():
        kind = model.openapi_types.get(fields.get(key))
        # For `port: http` or `port: 80` Kubernetes' own client says `object`.
        kind = "IntstrIntOrString" if kind == "object" and key.lower().endswith("port") else kind
        yield from mistakes(item, kind, f"{where}.{key}") if kind else [f"{where}: {model.__name__} has no field {key!r}"]
    yield from (f"{where}: {what}" for what in _missing(model, {fields[key]: value[key] for key in value if key in fields}))


def _missing(model: Any, given: dict[str, Any]) -> Iterator[str]:
    """Yield which required fields are not there: Kubernetes' types tell, KServe's refuse to be made."""
    if hasattr(model, "model_fields"):
        yield from (
            f"{name} is missing" for name, field in model.model_fields.items() if field.is_required() and name not in given
        )
        return
    try:
        model(**given)
    except ValueError as error:
        yield str(error)


if __name__ == "__main__":
    print("\n".join(mistakes(json.load(sys.stdin), "V1beta1InferenceService", "InferenceService")))  # noqa: T201 - the result
