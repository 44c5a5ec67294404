"""An answered request to the payload of a frame and back."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from mlops_tasks.core.request_log import PREFIX
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import LoadedModel

SCHEMA, RECORD = 1, 2
"""First byte of a payload."""
ENTITY_BYTES = 32
_START = struct.Struct(f"<BHqdBIH{ENTITY_BYTES}s")
_CHALLENGER, _SHADOW = 1, 2


@dataclass(frozen=True)
class Schema:
    """How the records of one model are laid out; stated in each segment before the first of them."""

    number: int
    """By which records of the segment name it."""
    version: int
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    null_token: str
    classes: tuple[str, ...] = ()
    kept_numeric: tuple[int, ...] | None = None
    """Positions of the logged columns in the request's array; None: all."""
    kept_categorical: tuple[int, ...] | None = None

    @classmethod
    def of(cls, number: int, model: LoadedModel, layout_of: LoadedModel, omit: frozenset[str]) -> Schema:
        """Lay out what is logged of a model's answers to requests that have a (maybe other) model's columns.

        Raises:
            SpecError: a feature's name is one that the log keeps for itself.

        """
        layout = layout_of.layout
        kept = [[at for at, name in enumerate(names) if name not in omit] for names in (layout.numeric, layout.categorical)]
        numeric, categorical = tuple(layout.numeric[at] for at in kept[0]), tuple(layout.categorical[at] for at in kept[1])
        taken = [name for name in (*numeric, *categorical) if name.startswith(PREFIX)]
        if taken:
            msg = f"feature {taken[0]!r} can't be logged: names with {PREFIX!r} are the log's own; omit it (serve.log.omit)"
            raise SpecError(msg)
        return cls(
            number,
            model.version,
            numeric,
            categorical,
            layout.null_token,
            tuple(model.signature.classes) if model.signature.task == "multiclass" else (),
            None if len(numeric) == len(layout.numeric) else tuple(kept[0]),
            None if len(categorical) == len(layout.categorical) else tuple(kept[1]),
        )

    def payload(self) -> bytes:
        """Write it as a frame's payload."""
        about = {
            "number": self.number,
            "version": self.version,
            "numeric": self.numeric,
            "categorical": self.categorical,
            "null_token": self.null_token,
            "classes": self.classes,
        }
        return bytes([SCHEMA]) + orjson.dumps(about)

    @classmethod
    def read(cls, payload: bytes) -> Schema:
        """Read it back."""
        about = orjson.loads(payload[1:])
        tuples = {name: tuple(about[name]) for name in ("numeric", "categorical", "classes")}
        return cls(number=about["number"], version=about["version"], null_token=about["null_token"], **tuples)


@dataclass(frozen=True)
class Record:
    """One logged answer."""

    schema: int
    id: str
    at_ns: int
    latency_s: float
    """NaN where other requests were scored by the same call."""
    role: str
    shadow: bool
    fallback: str
    entity: bytes
    rows: int
    scores: npt.NDArray[np.float32]
    """[N] or [N, C]."""
    numeric: npt.NDArray[np.float32]
    """[N, Fn]."""
    categorical: list[str]
    """N rows of Fc texts, one after another."""


def encode(prediction: Prediction, schema: Schema, entity: bytes) -> bytes:
    """Return a record's payload: fixed fields, float32 scores and numbers as they are, texts as JSON."""
    numeric, categorical = prediction.query.arrays
    scores = prediction.scores
    width = scores.shape[1] if scores.ndim > 1 else 0
    flags = (_CHALLENGER if prediction.role == "challenger" else 0) | (_SHADOW if prediction.shadow else 0)
    texts = [prediction.query.id, prediction.fallback]
    if categorical is not None:
        texts += (categorical if schema.kept_categorical is None else categorical[:, schema.kept_categorical]).ravel().tolist()
    numbers = b""
    if numeric is not None:
        numbers = (numeric if schema.kept_numeric is None else numeric[:, schema.kept_numeric]).tobytes()
    latency_s = math.nan if prediction.together else prediction.latency_s
    start = _START.pack(RECORD, schema.number, prediction.at_ns, latency_s, flags, len(scores), width, entity)
    return start + scores.astype(np.float32, copy=False).tobytes() + numbers + orjson.dumps(texts)


def decode(payload: bytes, schemas: dict[int, Schema]) -> Record:
    """Read a record back. Raises: KeyError, where its schema was not stated."""
    _, number, at_ns, latency_s, flags, rows, width, entity = _START.unpack_from(payload)
    schema, at = schemas[number], _START.size
    scores = np.frombuffer(payload, "<f4", rows * (width or 1), at)
    at += scores.nbytes
    numeric = np.frombuffer(payload, "<f4", rows * len(schema.numeric), at)
    texts = orjson.loads(payload[at + numeric.nbytes :])
    return Record(
        schema=number,
        id=texts[0],
        at_ns=at_ns,
        latency_s=latency_s,
        role="challenger" if flags & _CHALLENGER else "champion",
        shadow=bool(flags & _SHADOW),
        fallback=texts[1],
        entity=entity,
        rows=rows,
        scores=scores.reshape(rows, width) if width else scores,
        numeric=numeric.reshape(rows, len(schema.numeric)),
        categorical=texts[2:],
    )
