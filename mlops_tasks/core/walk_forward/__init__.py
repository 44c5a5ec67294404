"""Models of different times, each scored on all later time, to what retraining is worth and how quickly a model ages."""

from __future__ import annotations

from mlops_tasks.core.walk_forward.matrix import Age, Cell, Known, Matrix, Path, Summary, cut_periods, summarise
from mlops_tasks.core.walk_forward.page import render_walk_forward

__all__ = ["Age", "Cell", "Known", "Matrix", "Path", "Summary", "cut_periods", "render_walk_forward", "summarise"]
