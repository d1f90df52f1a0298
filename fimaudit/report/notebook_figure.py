"""A matplotlib figure that a notebook shows without pyplot."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["NotebookFigure"]


class NotebookFigure(Figure):
    """See ``matplotlib.figure.Figure``; ``savefig`` writes it, and ``axes`` can be changed further."""

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        self.savefig(out, format="png", dpi=110, facecolor="white")
        return out.getvalue()
