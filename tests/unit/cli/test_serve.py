"""The flags of `mlops serve`: what they set, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.cli import main, serve
from mlops_tasks.cli.parser import build_parser
from mlops_tasks.cli.serve_grammar import BASICS, BOUNDS, require_bounds
from mlops_tasks.serving.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path


def settings_of(*flags: str) -> ServeSettings:
    args = build_parser().parse_args(["serve", "shop", *flags])
    require_bounds(args)
    return serve._settings(args)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLOPS_SERVE_TOKENS", "MLOPS_SERVE_ADMIN_TOKEN", "MLOPS_MODEL_COPIES"):
        monkeypatch.delenv(name, raising=False)


def test_without_flags_the_settings_are_the_servers_own() -> None:
    assert settings_of() == ServeSettings()


CHANGES: dict[str, dict[str, Any]] = {
    "--port": {"port": 3},
    "--poll": {"poll_s": 3.0},
    "--threads": {"threads": 3},
    "--swap-deadline": {"waiting": {"deadline_s": 3.0}},
    "--max-waiting": {"waiting": {"requests": 3}},
    "--max-waiting-size": {"waiting": {"size": 3 << 20}},
    "--max-body": {"max_body_bytes": 3 << 20},
    "--max-bodies": {"max_bodies_bytes": 99 << 20},
    "--max-requests": {"max_requests": 3},
    "--max-connections": {"max_connections": 3},
    "--header-timeout": {"header_s": 3.0},
    "--body-timeout": {"body_s": 3.0},
    "--answer-timeout": {"write_s": 3.0},
    "--keep-alive": {"keep_alive_s": 3.0},
    "--drain-delay": {"drain_delay_s": 3.0},
    "--drain": {"drain_s": 3.0},
}


def test_each_flag_sets_one_thing() -> None:
    assert CHANGES.keys() == {bound.option for bound in (*BASICS, *BOUNDS)}
    before = asdict(ServeSettings())
    for option, change in CHANGES.items():
        after = asdict(settings_of(option, "99" if option == "--max-bodies" else "3"))
        waiting = before["waiting"] | change.pop("waiting", {})
        assert after == before | {"waiting": waiting} | change, option


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--header-timeout", "0"], "serve: --header-timeout must be 0.1 to 3600, got 0"),
        (["--keep-alive", "nan"], "serve: --keep-alive must be 0.1 to 3600, got nan"),
        (["--body-timeout", "inf"], "serve: --body-timeout must be 0.1 to 3600, got inf"),
        (["--max-connections", "0"], "serve: --max-connections must be 1 to 1e+06, got 0"),
        (["--port", "70000"], "serve: --port must be 0 to 65535, got 70000"),
        (["--poll", "-1"], "serve: --poll must be 0.05 to 3600, got -1"),
        (["--version", "0"], "serve: --version must be at least 1, got 0"),
        (["--max-body", "64", "--max-bodies", "32"], "serve: --max-bodies 32 must be at least --max-body 64"),
        (["--tls-cert", "tls.crt"], "serve: --tls-cert and --tls-key go together"),
    ],
)
def test_what_no_server_can_keep_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "shop", *flags]) == 2
    assert message in capsys.readouterr().err
    assert main(["serve", "shop", *flags, "--log-format", "json"]) == 2
    line = json.loads(capsys.readouterr().err)
    assert line["message"].startswith(f"SpecError: {message}")
    assert (line["level"], line["logger"]) == ("error", "mlops.serve")
