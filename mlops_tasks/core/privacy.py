"""Rows with private columns to rows that may be stored."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from mlops_tasks.specs import Source

HASH_KEY = "MLOPS_HASH_KEY"
SHORTEST_KEY = 16
"""Characters; a shorter secret could be guessed from known pairs of value and hash."""


def require_hash_key(source: Source, name: str, key: str | None) -> None:
    """Refuse to collect without the secret that a source's hashed columns need. Raises: SpecError."""
    hashed = [column for column, spec in source.columns.items() if spec.privacy == "hash"]
    if not hashed:
        return
    if not key:
        where = f"collect.sources.{name}.columns.{hashed[0]}"
        msg = f"{where} has privacy hash, but {HASH_KEY} is not set; set it to a long random secret"
        raise SpecError(msg)
    if len(key) < SHORTEST_KEY:
        msg = f"{HASH_KEY} must have at least {SHORTEST_KEY} characters, got {len(key)}; set it to a long random secret"
        raise SpecError(msg)


def key_identity(source: Source, key: str | None) -> str:
    """Return what changes when the secret of a source's hashed columns does, but does not tell it; empty without any."""
    if not any(spec.privacy == "hash" for spec in source.columns.values()):
        return ""
    return hmac.new((key or "").encode(), b"identity of the key", hashlib.sha256).hexdigest()


def apply_privacy(table: pa.Table, source: Source, key: str | None) -> pa.Table:
    """Remove columns with privacy `drop`, and hash those with `hash`; equal values keep equal hashes in all sources."""
    for column, spec in source.columns.items():
        if spec.privacy == "drop" and column in table.column_names:
            table = table.drop_columns([column])
        if spec.privacy == "hash":
            index = table.column_names.index(column)
            table = table.set_column(index, column, hash_values(table[column], (key or "").encode()))
    return table


def hash_values(values: pa.ChunkedArray, key: bytes) -> pa.ChunkedArray:
    """Replace each value by the hex of HMAC-SHA256 (RFC 2104) of its text in UTF-8; null stays null."""
    encoded = pc.dictionary_encode(values.cast(pa.string()).combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    hashed = [hmac.new(key, text.encode(), hashlib.sha256).hexdigest() for text in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(hashed, pa.string()).take(encoded.indices)])
