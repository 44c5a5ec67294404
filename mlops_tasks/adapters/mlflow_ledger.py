"""Promotions of a model to numbered entries that can't be changed: the compare-and-swap of its aliases.

MLflow moves an alias without comparing, and its tags are overwritten in silence. What it does refuse is
to change a run's param. So each model has one run whose params are its ledger: entry 7 is the param
`000007`, and of two writers of entry 7 one is refused, on SQLite and through a server alike, without a
lock that a kill could leave behind. The run's id is given with the creation of the registered model,
which is unique by name. The ledger is what people see in MLflow, and never shorter than the truth:
an entry is written before the alias moves, and whoever comes next finishes a move that was cut off.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mlops_tasks.adapters.mlflow_client import is_failure
from mlops_tasks.adapters.mlflow_writing import CHANGED_PARAM

if TYPE_CHECKING:
    from collections.abc import Mapping

LEDGER_TAG = "mlops.ledger"
SETTLED_TAG = "mlops.settled"
"""Tag of the ledger's run: the number of the last entry whose alias was moved."""
MAX_TEXT = 1000


@dataclass(frozen=True)
class Entry:
    """One promotion."""

    number: int
    fields: dict[str, str]

    @property
    def alias(self) -> str:
        """The alias that moved."""
        return self.fields["alias"]

    @property
    def to(self) -> int | None:
        """The version that it names since; None: it was taken away."""
        return int(self.fields["to"] or 0) or None


def entries(params: Mapping[str, str]) -> list[Entry]:
    """Read a ledger run's params, oldest first."""
    return [Entry(int(key), json.loads(value)) for key, value in sorted(params.items()) if key.isdigit()]


def head(ledger: list[Entry], alias: str) -> Entry | None:
    """Return the latest entry of an alias."""
    return next((entry for entry in reversed(ledger) if entry.alias == alias), None)


def is_settled(entry: Entry, tags: Mapping[str, str]) -> bool:
    """Tell whether the entry's alias was moved, not only written down."""
    return entry.number <= int(tags.get(f"{SETTLED_TAG}.{entry.alias}", "0"))


def append(
    client: Any, run_id: str, after: int, *, alias: str, moved: tuple[int | None, int | None], reason: str, who: str
) -> int | None:
    """Write the entry that follows `after`; return its number, None if another process wrote it first."""
    source, target = moved
    fields = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "alias": alias,
        "from": "" if source is None else str(source),
        "to": "" if target is None else str(target),
        "reason": reason[:MAX_TEXT],
        "who": who[:MAX_TEXT],
        # Two writers of the same move at the same moment must differ, or MLflow takes both.
        "id": uuid4().hex,
    }
    try:
        client.log_param(run_id, f"{after + 1:06d}", json.dumps(fields, ensure_ascii=False))
    except Exception as error:
        if is_failure(error) and CHANGED_PARAM in str(error):
            return None
        raise
    return after + 1


def settle(client: Any, run_id: str, entry: Entry) -> None:
    """Record that the entry's alias was moved."""
    client.set_tag(run_id, f"{SETTLED_TAG}.{entry.alias}", str(entry.number))
