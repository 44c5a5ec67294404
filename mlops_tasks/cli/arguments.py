"""Texts of the command line to typed values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_time(text: str, option: str) -> datetime:
    """Read a date or time as UTC. Raises: SpecError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"{option}: must be a date such as 2013-01-01 or 2013-01-01T06:00, got {text!r}"
        raise SpecError(msg) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def read_pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Read `KEY=VALUE` texts. Raises: SpecError."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            msg = f"{option}: must be KEY=VALUE, got {text!r}"
            raise SpecError(msg)
        pairs[key] = value
    return pairs


def read_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Read `--set` texts; values are YAML, so `3`, `true` and `[a, b]` have their types. Raises: SpecError."""
    try:
        return {key: yaml.safe_load(value) for key, value in read_pairs(texts, "--set").items()}
    except yaml.YAMLError as error:
        msg = f"--set: {error}"
        raise SpecError(msg) from error
