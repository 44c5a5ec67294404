"""Durations as specs write them (`30s`, `15m`, `2h`, `7d`, `1w`) to timedeltas, and back."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_duration(value: object) -> object:
    """Read `30s`, `15m`, `2h`, `7d` or `1w`; pass anything else on for pydantic to refuse."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        msg = "must be a duration such as 30s, 15m, 2h, 7d or 1w"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into its own report
    match = re.fullmatch(r"(\d+)([smhdw])", value)
    if match is None:
        msg = "must be a duration such as 30s, 15m, 2h, 7d or 1w"
        raise ValueError(msg)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """Write a duration in its largest exact unit, e.g. `7d`."""
    seconds = int(value.total_seconds())
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        if unit != "w" and seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
