from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from mlops_tasks.errors import SpecError
from mlops_tasks.loading import apply_overrides, load_pipeline, pipeline_names

MINIMAL = """\
name: shop
schedule: {start: 2024-01-01}
features:
  event_time: at
  entity_key: [user]
  task: binary
  label: bought
  columns: [{name: price, kind: numeric}]
collect:
  primary: visits
  entity_key: [user]
  sources:
    visits: {path: visits.csv, event_time: at, columns: {at: timestamp, user: string, price: float, bought: bool}}
    users: {path: users.csv, columns: {user: string}}
preprocess: {}
"""
EXPECTED = [{"expect_column_values_to_not_be_null": {"column": "price"}}]
WHERE = "pipelines/shop/pipeline.yaml"


def write(root: Path, text: str = MINIMAL, name: str = "shop", code: str | None = "SELECT * FROM visits") -> Path:
    folder = root / "pipelines" / name
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(text)
    if code is not None:
        (folder / "features.sql").write_text(code)
    return root / "pipelines"


def problem(tmp_path: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_pipeline("shop", write(tmp_path, text))
    return str(caught.value)


def test_preprocess_is_filled_from_the_folder_and_the_other_sections(tmp_path: Path) -> None:
    spec = load_pipeline("shop", write(tmp_path))
    assert spec.preprocess.code == "SELECT * FROM visits"
    assert spec.preprocess.feature_schema == spec.features
    assert spec.preprocess.primary == "visits"
    assert spec.preprocess.primary_time == "at"
    assert spec.preprocess.static == ("users",)


def test_names_are_the_folders_with_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)
    (root / "notes").mkdir()
    monkeypatch.setenv("MLOPS_PIPELINES", str(root))
    assert pipeline_names() == ["shop"]
    assert load_pipeline("shop").name == "shop"


def test_no_folder_of_pipelines(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such folder of pipelines; set MLOPS_PIPELINES to it"):
        pipeline_names(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("shpo", "did you mean 'shop'?"),
        ("zzz", "there are: shop"),
        ("../shop", "did you mean 'shop'?"),
        ("", "there are: shop"),
    ],
)
def test_unknown_pipeline(tmp_path: Path, name: str, hint: str) -> None:
    root = write(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_pipeline(name, root)
    assert str(caught.value) == f"{root}: there is no pipeline {name!r}; {hint}"


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("train: {max_epochs: 0}", "train.max_epochs must be at least 1, got 0"),
        ("train: {epoch: 3}", "train.epoch is not a known key; did you mean 'max_epochs'?"),
        (
            "evaluate: {slices: [{column: price, zzz: 3}]}",
            "evaluate.slices[0].zzz is not a known key; known are column, floor, metric, min_rows",
        ),
        ("tarin: {}", "tarin is not a known key; did you mean 'train'?"),
        ("train: {seed: many}", "train.seed must be a whole number, got 'many'"),
        ("train: {dropout: 1}", "train.dropout must be less than 1, got 1"),
        ("train: {dropout: high}", "train.dropout must be a number, got 'high'"),
        ("train: {refit: maybe}", "train.refit must be true or false, got 'maybe'"),
        ("train: [1]", "train must be a mapping of keys to values, got [1]"),
        ("cadence: daily", "cadence must be 'hour', 'day', 'week' or 'month', got 'daily'"),
        ("tags: red", "tags must be a list, got 'red'"),
        ("description: 5", "description must be a text, got 5"),
        ("snapshot: {test: 30}", "snapshot.test must be a duration such as 30s, 15m, 2h, 7d or 1w, got 30"),
        ("evaluate: {gates: [{metric: f1, mni: 1}]}", "evaluate.gates[0].mni is not a known key; did you mean 'min'?"),
        ("evaluate: {gates: [{metric: f1}]}", "evaluate.gates[0]: needs min, max or against"),
        (
            "validate_raw: {expectations: {sales: []}}",
            "validate_raw.expectations names source 'sales', which collect.sources does not have",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(tmp_path: Path, added: str, line: str) -> None:
    assert problem(tmp_path, f"{MINIMAL}{added}\n") == f"{WHERE}: {line}"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "start: 2024-01-01",
            "start: soon",
            "schedule.start must be a time such as 2013-01-31 or 2013-01-31T06:00Z, got 'soon'",
        ),
        ("  primary: visits\n", "", "collect.primary is missing"),
        ("  label: bought\n", "", "features.label is missing"),
        ("primary: visits", "primary: [visits]", "collect.primary must be a text, got ['visits']"),
        ("name: shop\n", "name: shopp\n", "name must be 'shop', the folder's name, got 'shopp'"),
        ("name: shop\n", "name: shop\nname: shop\n", "line 2, column 1: key 'name' stands here twice"),
        ("name: shop\n", "name: [shop\n", "line 2, column 9: did not find expected ',' or ']'"),
        (
            "user: string, price",
            "user: strnig, price",
            (
                "collect.sources.visits.columns.user.type must be 'int', 'float', "
                "'string', 'bool', 'timestamp' or 'date', got 'strnig'"
            ),
        ),
        ("path: visits.csv, ", "", "collect.sources.visits: needs either path or url"),
        (
            "price: float",
            "price: {type: float, privacy: private}",
            ("features.columns.price is private in source 'visits': set its privacy to hash, or leave it out"),
        ),
        ("preprocess: {}", "preprocess: {code: x}", "preprocess.code is filled when the pipeline is read; remove it"),
        (
            "preprocess: {}",
            "preprocess: {}\nmonitor: {label_delay: 2d}",
            "monitor.label_delay is filled when the pipeline is read; remove it",
        ),
        (
            "preprocess: {}",
            "preprocess: {}\nsnapshot: {label_delay: 2}",
            "snapshot.label_delay must be a duration such as 30s, 15m, 2h, 7d or 1w, got 2",
        ),
        (
            "preprocess: {}",
            "preprocess: {features: ../x.sql}",
            ("preprocess.features must be a .sql or .py file in the pipeline's own folder, got '../x.sql'"),
        ),
        (
            "preprocess: {}",
            "preprocess: {features: more.sql}",
            ("preprocess.features names 'more.sql', which is not in the folder; write it, or name another file"),
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_to_do(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert problem(tmp_path, MINIMAL.replace(old, new)) == f"{WHERE}: {line}"


def test_the_preprocess_section_may_be_left_out(tmp_path: Path) -> None:
    spec = load_pipeline("shop", write(tmp_path, MINIMAL.replace("preprocess: {}\n", "")))
    assert spec.preprocess.primary == "visits"


def test_all_problems_are_listed_once_each(tmp_path: Path) -> None:
    text = MINIMAL.replace("task: binary", "task: binry").replace("primary: visits", "primary: 3") + "train: {epoch: 1}\n"
    assert problem(tmp_path, text).splitlines() == [
        f"{WHERE}: features.task must be 'binary', 'multiclass' or 'regression', got 'binry'",
        f"{WHERE}: collect.primary must be a text, got 3",
        f"{WHERE}: train.epoch is not a known key; did you mean 'max_epochs'?",
    ]


def test_an_empty_file(tmp_path: Path) -> None:
    assert problem(tmp_path, "") == f"{WHERE}: must be a mapping of keys to values, got nothing"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "shop" / "pipeline.yaml").write_bytes(b"name: sh\xf6p\n")
    with pytest.raises(SpecError) as caught:
        load_pipeline("shop", root)
    assert str(caught.value) == f"{WHERE}: is not UTF-8 at byte 8; save it as UTF-8"


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    spec = load_pipeline("shop", write(tmp_path))
    changed = apply_overrides(
        spec, {"train.trials": 3, "snapshot.test": "7d", "collect.duplicates": "reject", "validate.expectations": EXPECTED}
    )
    assert changed.train.trials == 3
    assert changed.snapshot.test.days == 7
    assert changed.validate_features.expectations[0].kwargs == {"column": "price"}
    assert changed.preprocess == spec.preprocess
    assert apply_overrides(spec, {}) == spec


def test_the_monitor_knows_how_late_labels_are(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "snapshot: {label_delay: 2d}\n")
    spec = load_pipeline("shop", tmp_path / "pipelines")

    assert spec.monitor.label_delay.days == 2
    assert apply_overrides(spec, {"monitor.consecutive": 3}).monitor.label_delay.days == 2
    assert apply_overrides(spec, {"snapshot.label_delay": "5d"}).monitor.label_delay.days == 5


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("train.trials", 0, "train.trials must be at least 1, got 0"),
        ("train.trails", 3, "train.trails is not a known key; did you mean 'trials'?"),
        ("trian.trials", 3, "trian.trials is not a known key; did you mean 'train'?"),
        ("preprocess.code", "x", "preprocess.code is filled when the pipeline is read; remove it"),
        ("name", "x", "name can't be overridden; change it in the pipeline's folder"),
    ],
)
def test_a_wrong_override(tmp_path: Path, key: str, value: object, line: str) -> None:
    spec = load_pipeline("shop", write(tmp_path))
    with pytest.raises(SpecError) as caught:
        apply_overrides(spec, {key: value})
    assert str(caught.value) == f"shop overrides: {line}"


def test_the_example_loads() -> None:
    root = Path(__file__).parents[2] / "dags" / "pipelines"
    assert "nyc_flights" in pipeline_names(root)
    assert load_pipeline("nyc_flights", root).preprocess.static == ("planes",)


def test_fifty_pipelines_load_within_a_second(tmp_path: Path) -> None:
    for number in range(50):
        document = yaml.safe_load(MINIMAL) | {"name": f"shop_{number}"}
        root = write(tmp_path, yaml.safe_dump(document), f"shop_{number}")
    start = time.perf_counter()
    assert len([load_pipeline(name, root) for name in pipeline_names(root)]) == 50
    assert time.perf_counter() - start < 1


def test_importing_it_brings_nothing_heavy() -> None:
    code = textwrap.dedent("""
        import sys, mlops_tasks.loading
        heavy = {"pandas", "pyarrow", "numpy", "torch", "mlflow", "pyspark", "boto3", "sqlalchemy", "great_expectations"}
        print(sorted(heavy & set(sys.modules)))
    """)
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "at_least", "of"), [("consecutive: 3", 3, 3), ("alarms: {at_least: 2, of: 5}", 2, 5), ("effect_size: 0.1", 2, 2)]
)
def test_a_row_of_alarms_is_some_of_many_windows(tmp_path: Path, given: str, at_least: int, of: int) -> None:
    write(tmp_path, MINIMAL + f"monitor: {{{given}}}\n")
    rule = load_pipeline("shop", tmp_path / "pipelines").monitor.alarms

    assert (rule.at_least, rule.of) == (at_least, of)


def test_more_alarms_than_windows_are_refused(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "monitor: {alarms: {at_least: 3, of: 2}}\n")

    with pytest.raises(SpecError, match=r"at_least must be at most of, got 3 of 2"):
        load_pipeline("shop", tmp_path / "pipelines")
