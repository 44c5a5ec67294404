"""The command line's grammar: commands, options, help with examples."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlops_tasks.cli.backtest.grammar import add_backtest
from mlops_tasks.cli.erase_grammar import add_erase, add_retain
from mlops_tasks.cli.grammar import add_command, add_name, add_overrides, add_range
from mlops_tasks.cli.plan_grammar import add_explain, add_plan
from mlops_tasks.cli.serve_grammar import add_serve

if TYPE_CHECKING:
    from mlops_tasks.cli.grammar import Commands

STAGES = ("collect", "validate_raw", "preprocess", "validate", "snapshot", "train", "evaluate", "deploy", "monitor")
INTENTS = ("scheduled", "manual", "backfill", "drift", "reproduce")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `mlops`; each command sets `module`, the module that runs it."""
    parser = argparse.ArgumentParser(
        prog="mlops",
        description="The whole machine-learning lifecycle of the pipelines in dags/pipelines, without Airflow or inside it.",
        epilog="Exit codes: 0 done, 1 bug, 2 wrong spec or argument, 3 data rejected, 4 model rejected, 5 store or source "
        "unavailable, 6 registry unavailable, 7 superseded by another try, 8 a worker was lost, 9 judged against a former "
        "champion, 99 nothing to do.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_run(commands)
    _add_stage(commands)
    _add_perform(commands)
    _add_status(commands)
    add_serve(commands)
    _add_ship(commands)
    add_erase(commands)
    add_retain(commands)
    _add_render(commands)
    _add_models(commands)
    _add_rollback(commands)
    _add_rollout(commands)
    _add_retrain(commands)
    _add_spark(commands)
    _add_acknowledge(commands)
    add_backtest(commands)
    add_plan(commands)
    add_explain(commands)
    return parser


def _add_check(commands: Commands) -> None:
    command = add_command(commands, "check", "Read pipelines and name every mistake.", "mlops check", "mlops check nyc_flights")
    command.add_argument("name", nargs="?", metavar="NAME", help="one pipeline; without it, all")


def _add_run(commands: Commands) -> None:
    command = add_command(
        commands,
        "run",
        "Run the whole loop over a range of windows: collect to deploy.",
        "mlops run nyc_flights --start 2013-01-01 --end 2013-07-01",
        "mlops run nyc_flights --start 2013-01-01 --end 2013-07-01 --set train.model=mlp --promote never",
        "mlops run nyc_flights --start 2013-01-01 --end 2013-07-01 --recompute train",
    )
    add_name(command)
    add_range(command)
    command.add_argument(
        "--promote", choices=("auto", "ask", "never"), help="whether a model that passes its gate serves at once"
    )
    command.add_argument("--trials", type=int, metavar="N", help="hyperparameter trials")
    command.add_argument(
        "--recompute", choices=STAGES[:-1], metavar="STAGE", help="make this stage's results and all after it anew"
    )
    add_overrides(command)


def _add_stage(commands: Commands) -> None:
    command = add_command(
        commands,
        "stage",
        "Run one stage of one run.",
        "mlops stage collect nyc_flights --run-id r1 --start 2013-01-01 --end 2013-01-02 --json",
        "mlops stage validate_raw nyc_flights --run-id r1 --start 2013-01-01 --end 2013-01-02 --input raw=KEY@DIGEST",
    )
    command.add_argument("stage", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    add_name(command)
    add_range(command)
    command.add_argument("--run-id", required=True, help="the run that it belongs to")
    command.add_argument("--intent", choices=INTENTS, default="manual", help="why the run exists: a backfill never promotes")
    command.add_argument(
        "--input", action="append", default=[], metavar="NAME=KEY@DIGEST", dest="inputs", help="an upstream stage's handle"
    )
    command.add_argument("--recompute", action="store_true", help="make the result anew although it exists")
    command.add_argument("--output", metavar="FILE", help="write the outcome there too, atomically")
    add_overrides(command)


def _add_perform(commands: Commands) -> None:
    command = add_command(
        commands,
        "perform",
        "Perform one assigned try of a stage: what a container starts. The answer is written beside the assignment.",
        "mlops perform nyc_flights/tries/train-manual__1/collect/0001/assignment.json",
    )
    command.add_argument("key", metavar="KEY", help="the assignment's key in the store")


def _add_status(commands: Commands) -> None:
    command = add_command(commands, "status", "Show windows, model, drift and latest runs.", "mlops status nyc_flights")
    add_name(command)


def _add_ship(commands: Commands) -> None:
    command = add_command(
        commands,
        "ship",
        "Take the request log to the store; `mlops serve` has such a process of its own.",
        "mlops ship nyc_flights",
        "mlops ship nyc_flights --once",
    )
    add_name(command)
    command.add_argument("--once", action="store_true", help="ship what is finished now, then end")
    command.add_argument("--attached", action="store_true", help="end when standard input does, with all shipped")
    command.add_argument("--log-format", choices=("text", "json"), default="text", help="of the lines that it says")


def _add_render(commands: Commands) -> None:
    command = add_command(
        commands,
        "render",
        "Write the manifests that run a pipeline's server elsewhere; secrets are referred to, never written.",
        "mlops render kubernetes nyc_flights --registry-uri http://mlflow:5000 --store s3://bucket/mlops > server.yaml",
        "mlops render kubernetes nyc_flights --namespace models --replicas 3 --cpu 2 --memory 4Gi --output manifests/",
        "mlops render kubernetes nyc_flights --kserve --version 7 --canary-percent 10",
    )
    command.add_argument("target", choices=("kubernetes",), metavar="kubernetes", help="for what")
    add_name(command)
    texts = {
        "--image": ("IMAGE", "default MLOPS_IMAGE_SERVE, else mlops-tasks/serve:latest"),
        "--registry-uri": ("URL", "MLflow as pods reach it (default MLFLOW_TRACKING_URI)"),
        "--store": ("URI", "s3://bucket/prefix, for the request log (default MLOPS_STORE)"),
        "--store-endpoint": ("URL", "of an S3 that is not Amazon's (default AWS_ENDPOINT_URL)"),
        "--otlp-endpoint": ("URL", "of an OpenTelemetry collector (default OTEL_EXPORTER_OTLP_ENDPOINT)"),
        "--cpu": ("CORES", "requested by a pod, e.g. 500m (default resources.deploy.cpus, else 1)"),
        "--memory": ("SIZE", "requested and limit, e.g. 2Gi (default resources.deploy.memory, else 1Gi)"),
        "--log-claim": ("NAME", "a PersistentVolumeClaim for the request log; default a folder that goes with the pod"),
        "--output": ("PATH", "a file, or a folder for NAME.yaml; default standard output"),
    }
    for option, (value, what) in texts.items():
        command.add_argument(option, default="", metavar=value, help=what)
    command.add_argument("--namespace", default="default", help="default `default`")
    command.add_argument("--copies", default="4Gi", metavar="SIZE", help="disk for copies of versions (default 4Gi)")
    command.add_argument("--replicas", type=int, default=2, metavar="N", help="fewest pods (default 2)")
    command.add_argument("--max-replicas", type=int, metavar="N", help="most pods (default three times --replicas)")
    command.add_argument("--no-tokens", action="store_true", help="let everybody ask who reaches the port")
    command.add_argument("--version", type=int, metavar="N", help="serve this version and follow no alias")
    command.add_argument("--kserve", action="store_true", help="an InferenceService of --version, else of the champion of now")
    command.add_argument("--canary-percent", type=int, metavar="N", help="KServe's share of the traffic for this version")


def _add_models(commands: Commands) -> None:
    command = add_command(commands, "models", "List versions, aliases and promotions.", "mlops models nyc_flights")
    add_name(command)


def _add_rollback(commands: Commands) -> None:
    command = add_command(
        commands,
        "rollback",
        "Put an earlier version back into service, after it repeated its golden rows.",
        "mlops rollback nyc_flights --reason 'complaints since noon'",
        "mlops rollback nyc_flights --to 3 --reason 'version 4 is too slow'",
    )
    add_name(command)
    command.add_argument("--to", type=int, metavar="VERSION", help="default: the champion before the present one")
    command.add_argument("--reason", required=True, help="why, for the ledger")


def _add_rollout(commands: Commands) -> None:
    command = add_command(
        commands,
        "rollout",
        "Judge the challenger on trial by what it answered: promote, withdraw or wait.",
        "mlops rollout nyc_flights",
        "mlops rollout nyc_flights --settle",
    )
    add_name(command)
    command.add_argument("--settle", action="store_true", help="do what the rule says; without it, only say so")


def _add_retrain(commands: Commands) -> None:
    command = add_command(
        commands,
        "retrain",
        "Say whether the model is to be trained again, and why: drift, a worse error, age, new data, and what holds it back.",
        "mlops retrain nyc_flights",
        "mlops retrain nyc_flights --run",
        "mlops retrain nyc_flights --resume --reason 'the source was mended'",
    )
    add_name(command)
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--run", action="store_true", help="train now if it is time, here and without Airflow (which has the DAG `.retrain`)"
    )
    what.add_argument(
        "--resume", action="store_true", help="let trainings be started again after too many candidates were refused in a row"
    )
    command.add_argument("--reason", default="", help="why, with --resume")


def _add_acknowledge(commands: Commands) -> None:
    command = add_command(
        commands,
        "acknowledge",
        "Call alarmed windows in order: later windows that are like them alarm no more.",
        "mlops acknowledge nyc_flights --window 2013-07-04 --reason 'a holiday'",
        "mlops acknowledge nyc_flights --window 2013-11-27 --through 2013-12-01 --reason Thanksgiving",
    )
    add_name(command)
    command.add_argument("--window", required=True, metavar="DATE", help="the window's start, UTC")
    command.add_argument("--through", metavar="DATE", help="start of the last window (default: the one of --window)")
    command.add_argument("--reason", required=True, help="why its data are in order; kept")


def _add_spark(commands: Commands) -> None:
    command = add_command(
        commands,
        "spark",
        "Run a warm Spark Connect server until stopped; point MLOPS_SPARK at it.",
        "SPARK_CONNECT_AUTHENTICATE_TOKEN=... mlops spark --port 15002",
        "SPARK_CONNECT_AUTHENTICATE_TOKEN=... mlops spark --host 0.0.0.0 --master spark://master:7077",
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); any other needs a token"
    )
    command.add_argument("--port", type=int, default=15002, help="port (default 15002)")
    command.add_argument(
        "--master", default="local[*]", help="where the work runs: local[*], spark://host:port (default local[*])"
    )
    command.add_argument("--memory", default="2g", help="heap of the server (default 2g)")
