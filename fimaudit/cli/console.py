"""What a user sees on the terminal: the progress bar and the summary table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fimaudit.auditing import Progress as OnProgress
from fimaudit.results import Interval, Report, Sensitivity

__all__ = ["interval_text", "progress_bar", "show_report"]

#: Inputs shown one by one: all of a small audit, the most sensitive of a large one.
SHOWN = 10


@contextmanager
def progress_bar() -> Iterator[OnProgress | None]:
    """A bar on stderr with rows done, rate and time left; nothing at all when stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
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


def interval_text(interval: Interval) -> str:
    """``value [lower, upper]`` to three digits, with the unknown left open."""
    value = "-" if interval.value is None else f"{interval.value:.3g}"
    low = "?" if interval.lower is None else f"{interval.lower:.3g}"
    high = "inf" if interval.upper is None else f"{interval.upper:.3g}"
    return f"{value} [{low}, {high}]"


def show_report(console: Console, report: Report) -> None:
    """The few numbers that matter, then the inputs that matter most, then the warnings."""
    unit, model, data, summary = report.domain["unit"], report.model, report.data, report.summary
    console.print(f"[bold]{escape(str(model['name']))}[/bold]", highlight=False)
    console.print(
        f"{model['classes']} classes, {report.domain['features']} features, {data['measured']} of {data['inputs']} inputs, "
        f"{report.settings['mode']}, {summary.queries:,} queries in {summary.requests:,} calls",
        highlight=False,
    )
    table = _table("norms in 1/unit², radius in unit; unit: " + unit, "", "median", "95th percentile", "maximum")
    for name, of in (("spectral norm", summary.spectral_norm), ("peak norm", summary.peak_spectral_norm)):
        table.add_row(name, *(interval_text(q) for q in (of.median, of.p95, of.max)))
    console.print(table)
    radius, of = _table(None, "", "minimum", "5th percentile", "median"), summary.margin_radius
    radius.add_row("margin radius", *(interval_text(q) for q in (of.min, of.p05, of.median)))
    console.print(radius)
    _show_inputs(console, report)
    console.print(
        f"intervals: {100 * report.settings['confidence']:g} %, over the random directions; the summary is of these inputs",
        highlight=False,
    )
    statuses = {k: v for k, v in summary.statuses.items() if k != "ok"}
    if statuses:
        console.print("not ok: " + ", ".join(f"{v} {k}" for k, v in statuses.items()), highlight=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def _table(title: str | None, *columns: str) -> Table:
    layout = {"box": box.SIMPLE_HEAD, "padding": (0, 1), "pad_edge": False, "show_edge": False}
    table = Table(title=title, title_justify="left", title_style="dim", **layout)  # type: ignore[arg-type]
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _show_inputs(console: Console, report: Report) -> None:
    ranked = sorted(report.inputs, key=_severity)[:SHOWN]
    if not ranked:
        return
    more = len(report.inputs) > SHOWN
    title = f"the {len(ranked)} inputs with the smallest margin radius" if more else None
    table = _table(title, "input", "class", "prob.", "spectral norm", "margin radius", "trades", "status")
    for s in ranked:
        table.add_row(
            str(s.index),
            "" if s.predicted_class is None else str(s.predicted_class),
            "" if s.probability is None else f"{s.probability:.4f}",
            interval_text(s.spectral_norm),
            interval_text(s.margin_radius),
            "" if s.contrast is None else f"{s.contrast.from_} → {s.contrast.to}",
            " ".join([s.status, *s.flags]),
        )
    console.print(table)


def _severity(s: Sensitivity) -> tuple[float, int]:
    radius = s.margin_radius.value
    return (float("inf") if radius is None else radius, s.index)
