"""Pages for people, rendered from a run folder alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fimaudit.report.page import render, render_comparison
    from fimaudit.report.shown import keep_shown

__all__ = ["keep_shown", "render", "render_comparison"]

#: Where each name lies: the page's templates are loaded on first use.
_MODULES = {"keep_shown": "shown", "render": "page", "render_comparison": "page"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'fimaudit.report' has no attribute {name!r}")
        return getattr(import_module(f"fimaudit.report.{_MODULES[name]}"), name)
