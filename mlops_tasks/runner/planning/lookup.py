"""Windows to what is in the store of them already: found by the very cache keys that a run would use, without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from mlops_tasks.artifacts import Features, RawData, ValidFeatures, ValidRaw, Window
from mlops_tasks.caching import Cache, Ingredients, ingredients
from mlops_tasks.core.windows import lookback_windows
from mlops_tasks.pipeline import BY_NAME, INGEST
from mlops_tasks.runner.depends import is_read_whole, on_features, on_looked_back, on_raw, on_sources
from mlops_tasks.runner.work import adapter
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters

State = Literal["cached", "make", "perhaps"]
"""`perhaps`: an upstream result is made anew; if it comes out the same, this one is there."""
WAITING_THREADS = 16


@dataclass
class WindowFound:
    """What there is of one window."""

    window: Window
    states: dict[str, State] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Stage -> why it is made anew."""
    raw: RawData | None = None
    """What was collected, though perhaps of an earlier delivery."""
    features: Features | None = None
    valid: ValidFeatures | None = None
    """Present only if no stage has to run."""

    @property
    def is_in(self) -> bool:
        """Whether nothing has to be made."""
        return all(state == "cached" for state in self.states.values())


class Lookup:
    """Looks windows of a pipeline up, each once."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters) -> None:
        """Look with `pipeline`'s present spec and code, in the store of `adapters`."""
        self._pipeline, self._adapters = pipeline, adapters
        self._cache = Cache(adapters.store, pipeline.name)
        sources = pipeline.collect.sources
        self.unread = {name for name, source in sources.items() if source.url is not None and not is_read_whole(source)}
        """Sources whose rows would have to be read to know whether they changed: they are taken to be unchanged."""

    def windows(self, windows: Sequence[Window]) -> list[WindowFound]:
        """Look up windows and, for their features' sake, those that they look back to."""
        extra = lookback_windows(list(windows), self._pipeline.preprocess.lookback, self._pipeline.cadence)
        found = {w.start: WindowFound(w) for w in sorted([*extra, *windows], key=lambda w: w.start)}
        everything, asked = list(found.values()), [found[w.start] for w in windows]
        raw = self._collected(everything)
        proven = self._proven_raw(everything, raw)
        made = self._preprocessed(asked, proven)
        self._proven_features(asked, made)
        return asked

    def _collected(self, items: list[WindowFound]) -> dict[datetime, RawData]:
        depends = self._content()
        exact: dict[datetime, RawData] = {}

        def look(item: WindowFound) -> None:
            wanted = self._wanted("collect", depends(item.window))
            result, why = self._find("collect", item, wanted, ignoring=self.unread)
            item.states["collect"] = "cached" if result is not None else "make"
            if result is not None:
                exact[item.window.start] = item.raw = result
            else:
                item.reasons["collect"] = why
                item.raw = self._earlier("collect", item)

        self._each(look, items)
        return exact

    def _content(self) -> Callable[[Window], dict[str, str]]:
        """Return what windows depend on; a query's rows are not read for it."""
        spec = self._pipeline.collect
        known = {name: source for name, source in spec.sources.items() if name not in self.unread}
        depends = on_sources(spec.model_copy(update={"sources": known}), self._adapters.sources)
        return lambda window: {**depends(window), **dict.fromkeys(self.unread, "")}

    def _proven_raw(self, items: list[WindowFound], raw: dict[datetime, RawData]) -> dict[datetime, ValidRaw]:
        exact: dict[datetime, ValidRaw] = {}

        def look(item: WindowFound) -> None:
            known = raw.get(item.window.start)
            result = self._settle("validate_raw", item, on_raw(known) if known else None)
            if result is not None:
                exact[item.window.start] = result

        self._each(look, items)
        return exact

    def _preprocessed(self, items: list[WindowFound], proven: dict[datetime, ValidRaw]) -> dict[datetime, Features]:
        exact: dict[datetime, Features] = {}

        def look(item: WindowFound) -> None:
            back = lookback_windows([item.window], self._pipeline.preprocess.lookback, self._pipeline.cadence)
            needed = [*back, item.window]
            known = all(w.start in proven for w in needed)
            result = self._settle("preprocess", item, on_looked_back(item.window, needed, proven) if known else None)
            if result is not None:
                exact[item.window.start] = item.features = result
            else:
                item.features = self._earlier("preprocess", item)

        self._each(look, items)
        return exact

    def _proven_features(self, items: list[WindowFound], made: dict[datetime, Features]) -> None:
        def look(item: WindowFound) -> None:
            known = made.get(item.window.start)
            item.valid = self._settle("validate", item, on_features(known) if known else None)

        self._each(look, items)

    def _settle(self, stage: str, item: WindowFound, depends: dict[str, str] | None) -> Any | None:
        """Note whether a stage's result is there; without `depends` its input is made anew, and it is there perhaps."""
        if depends is None:
            alike = self._wanted(stage, {})
            item.states[stage] = "perhaps" if any(_alike(r.ingredients, alike) for r in self._slot(stage, item)) else "make"
            if item.states[stage] == "make":
                item.reasons[stage] = "not made before"
            return None
        result, why = self._find(stage, item, self._wanted(stage, depends))
        item.states[stage] = "cached" if result is not None else "make"
        if result is None:
            item.reasons[stage] = why
        return result

    def _find(self, stage: str, item: WindowFound, wanted: Ingredients, *, ignoring: Iterable[str] = ()) -> tuple[Any, str]:
        ignored = set(ignoring)
        if not ignored:
            return self._cache.find(item.window.label, wanted, adapter(BY_NAME[stage]))
        for record in self._slot(stage, item):
            mine, theirs = ({k: v for k, v in i.inputs.items() if k not in ignored} for i in (wanted, record.ingredients))
            if _alike(record.ingredients, wanted) and mine == theirs:
                return self._cache.find(item.window.label, record.ingredients, adapter(BY_NAME[stage]))
        return None, self._cache.find(item.window.label, wanted, adapter(BY_NAME[stage]))[1]

    def _earlier(self, stage: str, item: WindowFound) -> Any | None:
        """Return what an earlier run made of a window, for its size."""
        records = self._slot(stage, item)
        return adapter(BY_NAME[stage]).validate_python(records[-1].result) if records else None

    def _slot(self, stage: str, item: WindowFound) -> list[Any]:
        return self._cache.earlier(stage, item.window.label)

    def _wanted(self, stage: str, depends: dict[str, str]) -> Ingredients:
        return ingredients(BY_NAME[stage], BY_NAME[stage].spec_of(self._pipeline), depends)

    def _each(self, look: Callable[[WindowFound], None], items: list[WindowFound]) -> None:
        # Looking mostly waits for the disk or the network.
        with ThreadPoolExecutor(WAITING_THREADS) as pool:
            for _ in pool.map(look, items):
                pass


def _alike(one: Ingredients, other: Ingredients) -> bool:
    """Tell whether two results were made by the same spec, code and libraries."""
    return (one.spec, one.code, one.libraries) == (other.spec, other.code, other.libraries)


def count_states(found: Iterable[WindowFound]) -> dict[str, dict[State, int]]:
    """Count windows by stage and state."""
    counted: dict[str, dict[State, int]] = {stage: {"cached": 0, "make": 0, "perhaps": 0} for stage in INGEST}
    for item in found:
        for stage, state in item.states.items():
            counted[stage][state] += 1
    return counted
