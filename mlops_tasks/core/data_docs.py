"""Great Expectations' results to one page of its Data Docs that opens without the internet.

The page that Great Expectations renders takes its styles, scripts and logo from a dozen other sites: it is
bare without them, and tells them who looks at it. Its content is kept, the rest is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

RANDOM_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
REMOTE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<nav class=\"navbar navbar-expand-md.*?</nav>\s*</div>\s*</nav>|<footer\b.*?</footer>|url\('?https?://[^)]*\)",
    re.DOTALL,
)
STYLE = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #157a4a; --bad: #c3262f; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 2rem; }
nav, .card, .ge-walkthrough-modal, .modal, .fixed-bottom, #show-walkthrough, .sticky, p.lead { display: none; }
h4 { font-size: 1.6rem; margin: 0 0 1rem; }
h5 { font-size: 1.15rem; margin: 1.6rem 0 .4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h6 { font-size: 1rem; margin: 1rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; background: var(--soft); } ul, ol { padding-left: 1.2rem; } a { color: inherit; }
.badge { background: var(--soft); border-radius: .3rem; padding: 0 .35rem; font-family: ui-monospace, monospace; }
i[class*=check-circle]::before, i[class*=fa-check]::before {
  content: "\\2713"; color: var(--good); font-style: normal; font-weight: 700; }
i[class*=times]::before, i[class*=xmark]::before { content: "\\2717"; color: var(--bad); font-style: normal; font-weight: 700; }
i[class*=exclamation]::before { content: "!"; color: var(--bad); font-style: normal; font-weight: 700; }
.collapse:not(.show) { display: none; } a[data-toggle=collapse], button[data-toggle=collapse] { display: none; }
</style>
"""


def render_docs(results: Sequence[Any], title: str) -> str:
    """Render results as one self-contained page."""
    from great_expectations.core import ExpectationSuiteValidationResult  # noqa: PLC0415 - seconds to import
    from great_expectations.render.renderer import ValidationResultsPageRenderer  # noqa: PLC0415 - likewise
    from great_expectations.render.view import DefaultJinjaPageView  # noqa: PLC0415 - likewise

    met = sum(bool(result.success) for result in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": met,
        "unsuccessful_expectations": len(results) - met,
        "success_percent": 100.0 * met / len(results) if results else 100.0,
    }
    whole = ExpectationSuiteValidationResult(
        success=met == len(results), results=list(results), suite_name=title, statistics=statistics, meta={}
    )
    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(whole))
    return _number_ids(REMOTE.sub("", page)).replace("</head>", f"{STYLE}</head>", 1)


def _number_ids(page: str) -> str:
    """Replace the random ids of the page's elements by numbers, so that the same results give the same page."""
    numbers: dict[str, str] = {}
    return RANDOM_ID.sub(lambda found: numbers.setdefault(found[0], str(len(numbers) + 1)), page)
