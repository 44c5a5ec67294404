"""`mlops explain`: why a run was as it was, as a tree with figures and links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

from mlops_tasks.runner.explaining import explain
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.console import Console

MOST_ALARMS = 5
MARKS = {"ran": "[green]ran[/]", "cached": "[dim]cached[/]", "failed": "[red]failed[/]", "done": "done"}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Explain a run or a model. Raises: SpecError: there is none; RegistryUnavailable; StoreUnavailable."""
    return explain(args.run, args.pipeline, Adapters())


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print the explanation as a tree."""
    span = f", {found['start']:%Y-%m-%d} to {found['end']:%Y-%m-%d}" if found["start"] else ""
    tree = Tree(f"[bold]{escape(found['pipeline'])}[/] run {escape(found['run_id'])}{span}")
    _show_why(tree, found)
    _show_stages(tree, found["stages"])
    if found["verdict"]:
        _show_verdict(tree, found["verdict"])
    if found["model"]:
        _show_model(tree, found["model"])
    _show_downstream(tree, found["downstream"])
    console.print(tree, highlight=False)


def _show_why(tree: Tree, found: Mapping[str, Any]) -> None:
    by = f" by {found['who']}" if found["who"] else ""
    reason = f": {found['reason']}" if found["reason"] else ""
    branch = tree.add(f"why it was run: {escape(str(found['intent'] or 'not recorded'))}{escape(by)}{escape(reason)}")
    asked = found["asked_for_by"]
    if asked is None:
        return
    request, decision = asked["request"], asked["decision"]
    told = branch.add(f"training {request['number']} was asked for as of {request['as_of'][:16]}: {escape(request['reason'])}")
    for cause in request.get("causes", ()):
        told.add(f"{cause['kind']} since {cause['since'][:10]}: {escape(cause['why'])}")
    if decision:
        told.add(f"decision: {decision['action']}, against version {decision['model_version']}")


def _show_stages(tree: Tree, stages: list[dict[str, Any]]) -> None:
    branch = tree.add("stages")
    for item in stages:
        if item["state"] == "done":
            branch.add(f"{item['stage']:<13} done: {item['why']}")
            continue
        counts = f"{item['made']} made, {item['cached']} cached, {item['rows']:,} rows, {item['seconds']:.1f} s"
        told = branch.add(f"{item['stage']:<13} {MARKS[item['state']]} ({counts}): {escape(item['why'])}")
        for name, link in item["links"].items():
            told.add(f"{escape(name)}: {escape(link)}")


def _show_verdict(tree: Tree, verdict: Mapping[str, Any]) -> None:
    champion = verdict["champion_version"]
    against = f"against version {champion}" if champion is not None else "no champion to beat"
    branch = tree.add(f"verdict: {'[green]passed[/]' if verdict['passed'] else '[red]refused[/]'}, {against}")
    for item in verdict["judgements"]:
        mark = "[green]holds[/]" if item["passed"] else "[red]fails[/]"
        branch.add(f"{escape(item['rule'])} {mark}: {escape(item['reason'])}")
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in verdict["metrics"].items())
    branch.add(f"metrics: {metrics}")
    if verdict["report"]:
        branch.add(f"report: {escape(verdict['report'])}")


def _show_model(tree: Tree, model: Mapping[str, Any]) -> None:
    aliases = ", ".join(model["aliases_now"]) or "no alias"
    branch = tree.add(f"model: {model['model']} version {model['version']}, now {aliases}")
    if model["trained_to"]:
        span = f"{model['trained_from']:%Y-%m-%d} to {model['trained_to']:%Y-%m-%d}"
        branch.add(f"trained on {span}, dataset {model['dataset']}")
        branch.add(f"when deployed: {model['alias_when_deployed']}; MLflow run {escape(model['mlflow_run'])}")
    branch.add(f"registered by run {escape(model['made_by_run'] or 'unknown')}")
    for entry in model["ledger"]:
        move = f"{entry['alias']} {entry['from'] or 'none'} -> {entry['to'] or 'none'}"
        branch.add(f"{entry['at'][:19]} {move} by {escape(entry['who'])}: {escape(entry['reason'])}")
    if not model["ledger"]:
        branch.add("no alias ever named it")


def _show_downstream(tree: Tree, downstream: Mapping[str, Any]) -> None:
    branch = tree.add("what came of it")
    for outcome in downstream["outcomes"]:
        branch.add(f"training {outcome['number']}: {outcome['state']}: {escape(outcome['reason'])}")
    for kind in ("monitored", "performance"):
        seen = downstream[kind]
        if seen is None:
            continue
        counts = ", ".join(f"{count} {status}" for status, count in seen["statuses"].items())
        told = branch.add(f"{kind}: {seen['windows']} windows, {counts}; the latest, {seen['latest']['window']}: "
                          f"{escape(seen['latest']['reason'])}")  # fmt: skip
        for alarm in seen["alarms"][-MOST_ALARMS:]:
            told.add(f"alarm {alarm['window']}: {escape(alarm['reason'])}")
    for request in downstream["asked_for"]:
        branch.add(f"training {request['number']} was asked for to replace it: {escape(request['reason'])}")
    if not branch.children:
        branch.add("nothing is recorded yet")
