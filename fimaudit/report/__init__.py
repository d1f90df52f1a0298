"""Pages for people, rendered from a run folder alone."""

from fimaudit.report.page import render, render_comparison
from fimaudit.report.shown import keep_shown

__all__ = ["keep_shown", "render", "render_comparison"]
