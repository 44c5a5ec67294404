"""Private columns of requests to what collection makes of them, before the model or the log sees them."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.core.privacy import HASH_KEY, require_hash_key
from mlops_tasks.errors import SpecError
from mlops_tasks.serving.recording.entities import is_hash

SEPARATOR = "\x1f"
"""Between the columns of an entity key."""

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_tasks.serving.decoding import Arrays, Layout
    from mlops_tasks.specs import PipelineSpec


def hashed_columns(spec: PipelineSpec) -> frozenset[str]:
    """Return the features that have the name of a source's column with privacy `hash`."""
    features = {column.name for column in spec.features.columns if column.kind == "categorical"}
    sources = spec.collect.sources.values()
    return frozenset(c for source in sources for c, column in source.columns.items() if column.privacy == "hash") & features


def hasher(spec: PipelineSpec, environ: Mapping[str, str]) -> Callable[[Arrays, Layout], Arrays] | None:
    """Return what hashes a pipeline's private features as collection does; None if it has none.

    A value that is 64 lower-case hexadecimal digits is taken for a hash already; null stays null.

    Raises:
        SpecError: MLOPS_HASH_KEY is missing or too short.

    """
    private = hashed_columns(spec)
    if not private:
        return None
    key = environ.get(HASH_KEY)
    for name, source in spec.collect.sources.items():
        require_hash_key(source, name, key)
    secret = (key or "").encode()

    def prepare(arrays: Arrays, layout: Layout) -> Arrays:
        numeric, categorical = arrays
        columns = [at for at, name in enumerate(layout.categorical) if name in private]
        if categorical is None or not columns:
            return arrays
        categorical = categorical.copy()
        for at in columns:
            categorical[:, at] = [v if v == layout.null_token else _hashed(v, secret) for v in categorical[:, at]]
        return numeric, categorical

    return prepare


def entity_text(spec: PipelineSpec, key: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return what a server makes of the columns of an entity key: numbers as float32, private columns hashed.

    Raises:
        SpecError: MLOPS_HASH_KEY is missing or too short, or a value is no number where one is needed.

    """
    numeric, private = set(spec.features.numeric), hashed_columns(spec)
    if private & set(key):
        hasher(spec, environ)  # says what is wrong with the secret
    cells = []
    for name in spec.features.entity_key:
        text = key[name]
        if name in private:
            text = _hashed(text, environ[HASH_KEY].encode())
        elif name in numeric:
            text = _number_text(name, text)
        cells.append(text)
    return SEPARATOR.join(cells)


def _number_text(name: str, text: str) -> str:
    try:
        return str(np.float32(text))
    except ValueError as error:
        msg = f"{name}: must be a number, got a text; requests give numbers there"
        raise SpecError(msg) from error


def _hashed(value: str, key: bytes) -> str:
    """Return the hex of HMAC-SHA256 (RFC 2104) of a text, as `core/privacy.py` does for a whole column."""
    return value if is_hash(value) else hmac.new(key, value.encode(), hashlib.sha256).hexdigest()
