"""What serves to a page for people."""

from __future__ import annotations

import json
import shlex
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_tasks.serving.slot import LoadedModel, Slot

METRIC_TAG = "mlops.metric."
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1.5rem; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.1rem; }
p.lead { margin: .2rem 0 0; opacity: .75; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .3rem 1.5rem .3rem 0; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; font-size: .85rem;
      white-space: pre-wrap; overflow-wrap: anywhere; }
.problem { padding: .7rem 1rem; border-left: 4px solid #d97706; background: color-mix(in srgb, #d97706 12%, transparent); }
.ok { color: #15803d; } ul { padding-left: 1.2rem; } code { font-size: .9em; }
"""


def index_page(slot: Slot, address: str) -> str:
    """Return the page: what serves, since when and why, its metrics, and requests to copy."""
    model = slot.model
    problem = f'<p class="problem">{escape(slot.problem)}</p>' if slot.problem else ""
    body = _model_part(model, address) if model else "<p>No model serves yet. This page shows it as soon as one does.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(slot.name)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(slot.name)}</h1>{problem}{body}</body></html>"
    )


def _model_part(model: LoadedModel, address: str) -> str:
    facts = {
        "promoted": model.promotion.get("at", ""),
        "by": model.promotion.get("who", ""),
        "because": model.promotion.get("reason", ""),
        "trained on": model.tags.get("mlops.training", ""),
        "dataset version": model.tags.get("mlops.dataset_version", "")[:12],
        "code version": model.tags.get("mlops.code_version", ""),
    }
    metrics = {key.removeprefix(METRIC_TAG): value for key, value in model.tags.items() if key.startswith(METRIC_TAG)}
    signature = model.signature
    return (
        f'<p class="lead"><span class="ok">●</span> version {model.version} serves, {escape(signature.task)}, '
        f"predicts <code>{escape(signature.target)}</code></p>"
        f"<h2>Where it comes from</h2>{_table({k: v for k, v in facts.items() if v})}"
        f"<h2>On held-out rows</h2>{_table(metrics, number=True) if metrics else '<p>not recorded</p>'}"
        f"<h2>Ask it</h2>{_requests(model, address)}"
        f"<h2>Inputs</h2>{_table(dict.fromkeys(signature.numeric, 'number') | dict.fromkeys(signature.categorical, 'text'))}"
        f"<h2>Addresses</h2>{_links(model)}"
    )


def _table(rows: dict[str, str], *, number: bool = False) -> str:
    cell = '<td class="n">' if number else "<td>"
    return "<table>" + "".join(f"<tr><th>{escape(k)}</th>{cell}{escape(v)}</td></tr>" for k, v in rows.items()) + "</table>"


def _requests(model: LoadedModel, address: str) -> str:
    """Return requests with a real row, and the score that it should get."""
    signature, row = model.signature, model.golden.rows[0]
    cells = {name: row.get(name) for name in [*signature.numeric, *signature.categorical]}
    tensors = [
        {"name": name, "shape": [1], "datatype": "FP32" if name in signature.numeric else "BYTES", "data": [value]}
        for name, value in cells.items()
    ]
    calls = (
        (f"{address}/invocations", {"dataframe_records": [cells]}),
        (f"{address}/v2/models/{model.name}/infer", {"inputs": tensors}),
    )
    header = shlex.quote("Content-Type: application/json")
    lines = [f"curl -s {url} -H {header} -d {shlex.quote(json.dumps(body))}" for url, body in calls]
    shown = "".join(f"<pre>{escape(line)}</pre>" for line in lines)
    return f"{shown}<p>Both should answer with the score {escape(str(model.golden.scores[0]))}.</p>"


def _links(model: LoadedModel) -> str:
    paths = ("/openapi.json", f"/v2/models/{model.name}", "/v2/health/ready", "/v2/health/live", "/v2")
    return "<ul>" + "".join(f'<li><a href="{escape(path)}">{escape(path)}</a></li>' for path in paths) + "</ul>"
