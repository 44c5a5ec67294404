"""An evaluation to one self-contained HTML file that a person shows to a colleague."""

from mlops_tasks.core.report.details import Details
from mlops_tasks.core.report.html import layout_digest, render_report

__all__ = ["Details", "layout_digest", "render_report"]
