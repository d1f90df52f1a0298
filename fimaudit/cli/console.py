"""What a user sees on the terminal: the progress bar, the summary table, and how to go on after an interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fimaudit.audit_report import Report
from fimaudit.cli.output import print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.report.answer import flag_sentences
from fimaudit.report.wording import focus_sentence
from fimaudit.results import Interval, Presented, Sensitivity
from fimaudit.runs.auditing import Progress as OnProgress
from fimaudit.storage.run_folder import run_of

__all__ = ["limit_texts", "limits_text", "number_text", "plain_table", "progress_bar", "show_report", "show_screen"]

#: Inputs shown one by one: all of a small audit, the most sensitive of a large one.
SHOWN = 5
#: Differences of answers up to here are rounding, which a reader need not know of.
ROUNDING = 1e-9
#: Columns of a terminal from which every detail of an input fits beside its status.
WIDE = 96
#: Longest name of a class in a table.
NAME_WIDTH = 16
COVERED = {
    "black-box": "intervals cover the random choice of directions",
    "white-box": "measured by derivatives: intervals cover numerical error",
}
TRADES = "trades: between which classes a change in the worst direction moves probability"
QUANTILE_NAMES = {"median": "median", "p95": "95th percentile", "max": "maximum", "p05": "5th percentile", "min": "minimum"}


@contextmanager
def progress_bar(*, shown: bool = True) -> Iterator[OnProgress | None]:
    """A bar on stderr with rows done, rate and time left; nothing where stderr is no terminal, or without ``shown``."""
    console = Terminal(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]} rows, {task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=1.0, rows="0", rate="-")

        def update(rows: int, expected: int, done: int, inputs: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{rows / elapsed:,.0f}" if elapsed > 0.2 else "-"
            share = max(done / inputs, min(rows / max(expected, 1), 0.99 if done < inputs else 1.0))
            text = f"input {done}/{inputs}"
            bar.update(task, completed=share, rows=f"{rows:,}", rate=rate, description=text)

        yield update


def number_text(value: float | None) -> str:
    """Three digits, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.3g}"


def limits_text(interval: Interval) -> str:
    """``[lower, upper]`` to three digits, with the unknown left open."""
    if interval.lower is None and interval.upper is None:
        return ""
    low, high = limit_texts(interval)
    return f"[{low}, {high}]"


def limit_texts(interval: Interval) -> tuple[str, str]:
    """Both limits to three digits, 0 and inf where they are unknown."""
    low, high = interval.lower, interval.upper
    return "0" if low is None else f"{low:.3g}", "inf" if high is None else f"{high:.3g}"


def show_screen(console: Console, found: Presented) -> None:
    """The answer first, as ``print`` shows it in Python."""
    for style, line in found._screen().lines(console.width):
        wide = style == "command"  # which is pasted, so it is never broken
        console.print(line, style="cyan" if wide else style, highlight=False, markup=False, soft_wrap=wide)


def show_report(console: Console, report: Report) -> None:
    """The answer first, then the numbers behind it, then the inputs that matter most and what their flags mean."""
    show_screen(console, report)
    summary = report.summary
    percent = f"{100 * report.settings['confidence']:g} % interval"
    table = plain_table(None, "these inputs", "", "value", percent)
    rows = (
        ("margin radius", summary.margin_radius, ("median", "p05", "min")),
        ("spectral norm", summary.spectral_norm, ("median", "p95", "max")),
        ("peak norm", summary.peak_spectral_norm, ("median", "p95", "max")),
    )
    for name, quantiles, shown in rows:
        for place, which in enumerate(shown):
            cell: Interval = getattr(quantiles, which)
            table.add_row(name if place == 0 else "", QUANTILE_NAMES[which], number_text(cell.value), limits_text(cell))
    console.print()
    console.print(table)
    batch = (report.model.get("preflight") or {}).get("batch_difference")
    if batch and batch > ROUNDING:
        console.print(f"an answer alone and in a batch differs by up to {batch:.2g}", style="dim", highlight=False)
    unit = escape(report.domain["unit"])
    console.print(f"norms in 1/unit², radius in unit; unit: {unit}", style="dim", highlight=False)
    console.print(
        COVERED[report.settings["mode"]] + "; they are of these inputs, not of a population",
        style="dim",
        highlight=False,
    )
    _show_inputs(console, report)
    focus = focus_sentence(report)
    if focus is not None:
        console.print(focus, highlight=False, markup=False)


def plain_table(title: str | None, *columns: str) -> Table:
    """A table without lines, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="dim", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 or name == "" else "right", no_wrap=True)
    return table


def _show_inputs(console: Console, report: Report) -> None:
    inputs = report.inputs or run_of(report, whole=False).ranked
    ranked = sorted(inputs, key=_severity)[:SHOWN]
    if not ranked:
        return
    more = len(inputs) > SHOWN
    console.print()
    if more:
        console.print(f"the {len(ranked)} inputs with the smallest margin radius", style="dim")
    all_ok = all(s.status == "ok" and not s.flags and s.kind == "local" for s in ranked)
    details = all_ok or console.width >= WIDE  # a status in a column of four letters says less than these two
    names = ["spectral\nnorm", "", "margin\nradius", ""]
    table = plain_table(None, "input", *(["prob.", *names, "trades"] if details else names))
    if not all_ok:
        table.add_column("status", overflow="fold")
    for s in ranked:
        norm, radius = s.spectral_norm, s.margin_radius
        row = [number_text(norm.value), limits_text(norm), number_text(radius.value), limits_text(radius)]
        if details:
            trades = "" if s.contrast is None else f"{_named(report, s.contrast.from_)} → {_named(report, s.contrast.to)}"
            row = ["" if s.probability is None else f"{s.probability:.3f}", *row, trades]
        if not all_ok:
            row.append(_status(s))
        table.add_row(str(s.index), *row)
    console.print(table)
    if details and any(s.contrast is not None for s in ranked):
        print_line(console, TRADES, "dim")
    flags = Counter(flag for s in inputs for flag in s.flags).most_common()
    for flag, words in flag_sentences(report, flags):
        print_line(console, f"{flag}: {words}", "dim")


def _named(report: Report, position: int) -> str:
    """The class's name where it is known, cut to a width that a table has room for, else its position."""
    names = report.model.get("class_names")
    name = str(names[position]) if names and position < len(names) else str(position)
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _status(s: Sensitivity) -> str:
    """In one word where it says all, so that the table fits a terminal; the kind where it is not local."""
    kind = [] if s.kind == "local" or s.status == "failed" else [s.kind]
    if s.status == "ok" and (kind or s.flags):
        return " ".join([*kind, *s.flags])
    return " ".join([s.status, *kind, *s.flags])


def _severity(s: Sensitivity) -> tuple[float, int]:
    radius = s.margin_radius.value
    return (float("inf") if radius is None else radius, s.index)
