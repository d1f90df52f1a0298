"""One screen about one thing: the same words as plain text, for a terminal, and as HTML for a notebook."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap

import numpy as np

from fimaudit.report.answer import Headline, NextStep
from fimaudit.report.drawing import LINE, MAIN, MARK, Chart, inline_svg
from fimaudit.results import Interval

__all__ = ["Screen", "bar", "histogram"]

#: Columns that a line of text takes at most, and the blocks of a histogram.
WIDEST, BLOCKS = 110, "▁▂▃▄▅▆▇█"
BAR = 31
LEFT = "style='text-align:left'"
#: Colours of the page for a notebook, whose own text colour is kept.
NOTEBOOK = f"--main:{MAIN};--mark:{MARK};--ink:currentColor;--line:{LINE}"


@dataclass(frozen=True)
class Screen:
    """What one screen shows, from the top.

    Attributes:
        title: what it is about.
        sentences: the answer.
        rows: the numbers behind it.
        notes: (kind, sentence): what is missing or doubtful.
        plot: a small plot in characters, line by line.
        chart: the same drawn, for a notebook.
        steps: what to do next.
    """

    title: str
    sentences: Sequence[str]
    rows: Sequence[Headline] = ()
    notes: Sequence[tuple[str, str]] = ()
    plot: Sequence[str] = ()
    chart: Callable[[], Chart | None] | None = None
    steps: Sequence[NextStep] = field(default=())

    def lines(self, width: int) -> Iterator[tuple[str, str]]:
        """(style, line) of a terminal that is so wide; commands are never broken."""
        width = min(width, WIDEST)
        yield from (("bold", line) for line in wrap(self.title, width))
        for sentence in self.sentences:
            yield from (("", line) for line in wrap(sentence, width))
        if self.rows:
            yield "", ""
        for row in self.rows:
            yield "bold", f"{row.title}: {row.value}"
            yield from (("dim", line) for line in _indented(row.says, width, 2))
            yield from (("", line) for line in _indented(f"{row.label}: {row.yardstick}" if row.yardstick else "", width, 2))
        if self.plot:
            yield "", ""
            yield from (("dim", line) for line in self.plot)
        if self.notes:
            yield "", ""
        for kind, sentence in self.notes:
            bad = kind == "fail" or (kind == "integrity" and sentence.startswith("contradicted"))
            style = "red" if bad else "yellow" if kind in ("warning", "undecided") else "dim"
            yield from ((style, line) for line in wrap(f"{kind}: {sentence}", width, subsequent_indent="  "))
        if self.steps:
            yield "", ""
            yield "bold", "What to do next"
        for step in self.steps:
            yield from (("dim", line) for line in _indented(f"{step.words}:", width, 2))
            yield "command", f"    {step.command}"

    def text(self, width: int | None = None) -> str:
        """For ``print``, as wide as the terminal."""
        width = shutil.get_terminal_size((WIDEST, 24)).columns if width is None else width
        return "\n".join(line for _, line in self.lines(max(40, width)))

    def html(self) -> str:
        """For a notebook; every text in it is escaped."""
        parts = [f"<p><b>{escape(self.title)}</b></p>", *(f"<p>{escape(s)}</p>" for s in self.sentences)]
        if self.rows:
            body = "".join(
                f"<tr><th {LEFT}>{escape(r.title)}</th><td {LEFT}><b>{escape(r.value)}</b></td>"
                f"<td {LEFT}>{escape(r.says)}{f'<br>{r.label}: {escape(r.yardstick)}' if r.yardstick else ''}</td></tr>"
                for r in self.rows
            )
            parts.append(f"<table>{body}</table>")
        chart = None if self.chart is None else self.chart()
        if chart is not None:
            parts.append(f"<div style='max-width:420px'>{escape(chart.title)}{inline_svg(chart)}</div>")
        parts += [f"<div><b>{escape(kind)}</b>: {escape(sentence)}</div>" for kind, sentence in self.notes]
        if self.steps:
            steps = "".join(f"<li>{escape(s.words)}: <code>{escape(s.command)}</code></li>" for s in self.steps)
            parts.append(f"<p><b>What to do next</b></p><ul>{steps}</ul>")
        return f"<div style='{NOTEBOOK}'>{''.join(parts)}</div>"


def bar(cell: Interval, low: float, high: float, mark: float | None = None) -> str:
    """An interval on a logarithmic axis from ``low`` to ``high``, with a mark where one is given.

    >>> bar(Interval(value=1.0, lower=0.5, upper=2.0), 0.1, 10.0)
    '··········├────●────┤··········'
    """

    def place(v: float) -> int:
        share = (np.log(max(v, low)) - np.log(low)) / (np.log(high) - np.log(low))
        return int(np.clip(round(share * (BAR - 1)), 0, BAR - 1))

    cells = ["·"] * BAR
    first, last = place(cell.lower or low), place(high if cell.upper is None else cell.upper)
    cells[first : last + 1] = "─" * (last + 1 - first)
    cells[first], cells[last] = "├", "┤"
    if mark:
        cells[place(mark)] = "│"
    if cell.value:
        cells[place(cell.value)] = "●"
    return "".join(cells)


def histogram(values: Sequence[float], bins: int = 32) -> str:
    """How many values lie where, between the smallest and the largest on a logarithmic axis, in blocks.

    >>> histogram([1.0, 2.0, 2.0, 4.0], 3)
    '▅█▅'
    """
    logs = np.log([v for v in values if v > 0 and np.isfinite(v)])
    if len(logs) < 2 or logs.min() == logs.max():
        return ""
    counts, _ = np.histogram(logs, bins)
    top = counts.max()
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(np.ceil(len(BLOCKS) * c / top)))] if c else " " for c in counts)


def _indented(text: str, width: int, by: int) -> list[str]:
    return wrap(text, width, initial_indent=" " * by, subsequent_indent=" " * by) if text else []
