"""``fimaudit compare``: models on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from fimaudit.cli import options as o
from fimaudit.errors import RunFolderError, UsageError

__all__ = ["compare"]

METRICS = ("margin_radius", "peak_spectral_norm", "spectral_norm")


def compare(
    targets: Annotated[list[str], typer.Argument(help="Run folders, or models with --data. The first is the reference.")],
    data: Annotated[Path | None, typer.Option("--data", help="Inputs for models that are not audited yet.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for comparison.json and comparison.html.")] = None,
    metric: Annotated[str, typer.Option(help="Three models and more are ranked by: " + ", ".join(METRICS) + ".")] = METRICS[
        0
    ],
    queries: Annotated[int, typer.Option(help="Rows an input, for models that are not audited yet.")] = 200,
    link: o.LinkName = "auto",
    lower: Annotated[str | None, typer.Option(help="Lower bound of the inputs: a number or a .npy file.")] = None,
    upper: Annotated[str | None, typer.Option(help="Upper bound of the inputs: a number or a .npy file.")] = None,
    unit: Annotated[str | None, typer.Option(help="Name of the input unit.")] = None,
    scale: Annotated[str, typer.Option(help="Scale of the metric: raw, std, range, or a .npy file.")] = "raw",
    seed: Annotated[int, typer.Option(help="Seed of the directions, the same for every model.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two models, or rank more, on the same inputs, with intervals."""
    from fimaudit.comparison import compare_runs, open_runs
    from fimaudit.ranking import rank_runs
    from fimaudit.report import render_comparison

    if len(targets) < 2:
        raise UsageError(f"expected two run folders or models, or more, got {len(targets)}")
    if metric not in METRICS:
        raise UsageError(f"expected --metric {', '.join(METRICS)}, got {metric!r}")
    audit_options: dict[str, Any] = {
        "queries": queries,
        "link": link,
        "lower": o.number_or_file(lower, "--lower"),
        "upper": o.number_or_file(upper, "--upper"),
        "unit": unit,
        "scale": scale if scale in ("raw", "std", "range") else o.number_or_file(scale, "--scale"),
        "seed": seed,
    }
    runs = open_runs(list(targets), data, out, audit_options)
    console = Console(highlight=False, soft_wrap=True)
    if len(runs) == 2:
        comparison = compare_runs(*runs)
        text, name = comparison.to_json(), "comparison.json"
        if out is not None:
            render_comparison(comparison, runs[0], runs[1], out / "comparison.html")
    else:
        ranking = rank_runs(runs, cast(Any, metric))
        text, name = ranking.to_json(), "ranking.json"
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
        except OSError as exc:
            raise RunFolderError(f"cannot write {out / name}: {exc.strerror or exc}") from exc
    if as_json:
        print(text, end="")
    elif len(runs) == 2:
        _show_comparison(console, comparison)
    else:
        _show_ranking(console, ranking)


def _show_comparison(console: Console, c: Any) -> None:
    console.print(f"{c.second['name']} against {c.first['name']}, {c.inputs} inputs", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "ratio", "these inputs", "population", "found"):
        table.add_column(name, no_wrap=True)
    for name, q in c.quantities.items():
        for which, r in q.ratios.items():
            value = "-" if r.these_inputs.value is None else f"{r.these_inputs.value:.3g}"
            found = q.verdict if which == "median" else ""
            table.add_row(f"{name.replace('_', ' ')}, {which}", value, _limits(r.these_inputs), _limits(r.population), found)
    console.print(table)
    for warning in c.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _show_ranking(console: Console, ranking: Any) -> None:
    console.print(
        f"{len(ranking.models)} models on {ranking.inputs} inputs by {ranking.metric.replace('_', ' ')}", markup=False
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("rank", "between", "model", "median", "ratio to first"):
        table.add_column(name, no_wrap=True)
    for m in ranking.models:
        value = "-" if m.median.value is None else f"{m.median.value:.3g}"
        ratio = "-" if m.ratio_to_first.value is None else f"{m.ratio_to_first.value:.3g} {_limits(m.ratio_to_first)}"
        table.add_row(str(m.rank), f"{m.best} and {m.worst}", _plain(m.name), value, _plain(ratio))
    console.print(table)
    for warning in ranking.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _limits(interval: Any) -> str:
    low = "0" if interval.lower is None else f"{interval.lower:.3g}"
    high = "inf" if interval.upper is None else f"{interval.upper:.3g}"
    return f"{low} to {high}"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
