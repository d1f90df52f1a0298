"""Charts by matplotlib: as a figure, or as SVG in a page, which has its own colours for light, dark and print."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fimaudit.report.wording import abbreviated, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "LINE",
    "MAIN",
    "MARK",
    "METADATA",
    "Chart",
    "category_axis",
    "drawn",
    "inline_svg",
    "log_axis",
    "names_width",
    "plain_axis",
    "styled",
]

MAIN, MARK, INK, LINE = "#1f5fa8", "#b3401b", "#1b2430", "#d5dbe3"
#: The page's CSS variable for each colour of a figure on paper.
VARIABLES = {MAIN: "var(--main)", MARK: "var(--mark)", INK: "var(--ink)", LINE: "var(--line)"}
#: Inches; a chart in the page is drawn at 72 units an inch, and scales with its column.
WIDTH, HEIGHT = 5.2, 3.1
#: Inches that the axes leave free for what stands beside them.
LEFT, RIGHT, BOTTOM, TOP = 0.8, 0.14, 0.6, 0.1
#: Characters in a line of an axis title, and lines.
FOLD, LINES = 44, 2
MOST_TICKS = 5
#: Characters of a name beside an axis, and inches of one.
NAME, LETTER = 28, 0.087
#: Without the date, so that the same run gives the same bytes, and without the program's address.
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
STYLE: Any = {
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # names from outside may hold a $
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "fimaudit",
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Chart:
    """A chart with its words and its numbers as a table, for those who cannot see it.

    Attributes:
        id: of the element.
        title, caption: what it shows and how to read it.
        label: the chart in one sentence.
        draw: draws it into matplotlib axes.
        head, rows: the table beside it.
        height, left: inches of the chart, and left of its axes.
    """

    id: str
    title: str
    caption: str
    label: str
    draw: Callable[[Axes], None]
    head: list[str]
    rows: list[list[str]]
    height: float = HEIGHT
    left: float = LEFT


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib in the style of every figure here; it is loaded by this, and says nothing while it looks for fonts."""
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            yield
    finally:
        log.setLevel(before)


def drawn(charts: Sequence[Chart]) -> Figure:
    """One figure of some charts side by side, within ``styled``."""
    from fimaudit.report.notebook_figure import NotebookFigure

    height = max(chart.height for chart in charts)
    width = WIDTH * len(charts)
    figure = NotebookFigure(figsize=(width, height))
    for place, chart in enumerate(charts):
        left, across = place * WIDTH + chart.left, WIDTH - chart.left - RIGHT
        axes = figure.add_axes(
            (left / width, BOTTOM / height, across / width, (height - BOTTOM - TOP - 0.25 * (len(charts) > 1)) / height)
        )
        chart.draw(axes)
        if len(charts) > 1:
            axes.set_title(chart.title, fontsize=10)
    return figure


def inline_svg(chart: Chart) -> str:
    """The chart as an SVG element: text as text, colours by CSS variables, with a title and a description."""
    with styled():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        figure = drawn([chart])
        figure.patch.set_visible(False)
        out = StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(out, metadata=METADATA)  # savefig would draw it twice
    body = out.getvalue().partition("</defs>")[2].rpartition("</svg>")[0]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'(<(?:path|clipPath|image|marker) id=")', rf"\g<1>{chart.id}-", body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{chart.id}-', body).replace("url(#", f"url(#{chart.id}-")
    body = re.sub(r"font: (?:[a-z]+ )*([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)  # the page's own
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', _shortened, body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    name, size = chart.id, f"{72 * WIDTH:g} {72 * chart.height:g}"
    return (
        f'<svg class="plot" viewBox="0 0 {size}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(chart.title)}</title><desc id="{name}-desc">{escape(chart.label)}</desc>'
        f"{body}</svg>"
    )


def _shortened(attribute: re.Match[str]) -> str:
    """Coordinates to a tenth of a unit."""
    return re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), attribute[0])


def log_axis(axis: Any, title: str, low: float, high: float) -> None:
    """A logarithmic axis over [low, high] with few, plainly written ticks."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    _bare(axis)
    if high < low * 1.2:
        low, high = low / 1.2, high * 1.2
    pad = (high / low) ** 0.04
    ends = low / pad, high * pad
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(*ends)
    ticks = _log_ticks(*ends)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([number(t).removeprefix("1.00 × ") for t in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(_folded(title))


def plain_axis(axis: Any, title: str, low: float, high: float) -> None:
    """A linear axis over [low, high]."""
    from matplotlib.ticker import MaxNLocator

    _bare(axis)
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low, high)
    axis.set_major_locator(MaxNLocator(MOST_TICKS))
    axis.set_label_text(_folded(title))


def category_axis(axes: Axes, names: Sequence[str]) -> None:
    """Names from the top down along the left side."""
    _bare(axes.yaxis)
    axes.set_yticks(range(len(names)), [abbreviated(name, NAME) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def names_width(names: Sequence[str]) -> float:
    """Inches that the names of a category axis take."""
    return 0.2 + LETTER * max(len(abbreviated(name, NAME)) for name in names)


def _bare(axis: Any) -> None:
    axis.set_tick_params(length=0)


def _log_ticks(low: float, high: float) -> list[float]:
    """At 1, 2 and 5 of each power of ten where few fit, else at every power or every few of them."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**k for k in range(first, last + 1) for s in steps if low <= s * 10.0**k <= high]
        if len(ticks) <= MOST_TICKS:
            break
    ticks = ticks[:: max(1, -(-len(ticks) // MOST_TICKS))]
    return ticks if len(ticks) > 1 else [float(f"{v:.2g}") for v in np.geomspace(low, high, 4)[1:-1]]


def _folded(text: str) -> str:
    return "\n".join(wrap(text, FOLD)[:LINES])
