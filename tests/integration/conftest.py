"""What integration tests share: killable processes and a prepared pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.spark import ConnectSpark
from tests.integration.crashing import Mortals
from tests.integration.tiny_pipeline import CONSUMES, Home, write_pipeline
from tests.mlflow_database import fresh_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.crashing import Ended

pytest.register_assert_rewrite("tests.integration.wholeness")


@pytest.fixture(scope="session")
def spark(spark_url: str) -> ConnectSpark:
    return ConnectSpark(spark_url, "1g")


@pytest.fixture(scope="session")
def mortals() -> Iterator[Mortals]:
    parent = Mortals()
    yield parent
    parent.close()


class Undisturbed:
    """The small pipeline's loop, run once stage by stage without a fault, with a copy from before each stage."""

    def __init__(self, home: Home, mortals: Mortals) -> None:
        self._home, self._mortals = home, mortals
        self._before: dict[str, Home] = {}
        self.ended: dict[str, Ended] = {}

    def before(self, stage: str) -> Home:
        """Return the state that a stage starts from; never to be changed."""
        stages = list(CONSUMES)
        for name in stages[len(self._before) : stages.index(stage) + 1]:
            if self._before:
                self._run(stages[stages.index(name) - 1])
            self._before[name] = self._keep(name)
        return self._before[stage]

    def after(self, stage: str) -> Home:
        """Return the state that a stage leaves; never to be changed."""
        following = [*CONSUMES, "end"][list(CONSUMES).index(stage) + 1]
        if following != "end":
            return self.before(following)
        self.before(stage)
        if stage not in self.ended:
            self._run(stage)
        return self._home

    def _run(self, stage: str) -> None:
        self.ended[stage] = self._mortals.run(self._home.command(stage), self._home.environ)
        assert self.ended[stage].code == 0, self.ended[stage].err

    def _keep(self, name: str) -> Home:
        folder = self._home.store_folder.parent.parent / f"before-{name}"
        return self._home.copy(folder / "store", folder / "mlflow")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, mortals: Mortals, spark_url: str) -> Undisturbed:
    folder = tmp_path_factory.mktemp("tiny")
    write_pipeline(folder)
    home = Home(folder, spark_url, folder / "home" / "store", folder / "home" / "mlflow")
    home.store_folder.mkdir(parents=True)
    fresh_uri(home.mlflow_folder)
    return Undisturbed(home, mortals)
