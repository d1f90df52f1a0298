"""What each chart draws, as plain data for plotly; colours are names that the page resolves for light, dark and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

import numpy as np

from fimaudit.report.wording import interval_text, number, percent
from fimaudit.results import Interval, Report, Sensitivity
from fimaudit.statistics.paired import Column
from fimaudit.statistics.subgroups import Calibration, Division

__all__ = ["Figure", "calibration_figure", "distribution_figure", "division_figure", "pairs_figure", "profile_figure"]

POINTS = 200
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_PAIRS = 2000
#: Characters in a line of an axis title, so that it fits a phone, and lines.
FOLD, LINES = 26, 3


@dataclass(frozen=True)
class Figure:
    """A chart with its words and its numbers as a table, for those who cannot see it.

    Attributes:
        id: of the element.
        title, caption: what it shows and how to read it.
        label: the chart in one sentence.
        traces, layout: for plotly.
        head, rows: the table beside it.
    """

    id: str
    title: str
    caption: str
    label: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    head: list[str]
    rows: list[list[str]]
    height: int = field(default=300)


def distribution_figure(
    id: str, title: str, caption: str, cells: Sequence[Interval], unit: str, *, large_is_missing: bool
) -> Figure | None:
    """Share of inputs against value: sorted values between the sorted limits, which is the interval of each quantile."""
    missing = np.inf if large_is_missing else 0.0
    value = np.sort([missing if c.value is None else c.value for c in cells])
    lower = np.sort([0.0 if c.lower is None else c.lower for c in cells])
    upper = np.sort([np.inf if c.upper is None else c.upper for c in cells])
    if not (np.isfinite(value) & (value > 0)).any():
        return None
    n = len(value)
    share = (np.arange(n) + 0.5) / n
    kept = np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))
    known = np.concatenate([v[np.isfinite(v) & (v > 0)] for v in (value, lower, upper)])
    floor, ceiling = float(known.min()), float(known.max())
    x = (100 * share[kept]).round(3).tolist()
    band = [np.clip(v[kept], floor, ceiling) for v in (lower, upper)]
    line = [None if not np.isfinite(v) or v <= 0 else _round(v) for v in value[kept]]
    traces = [
        {"x": x, "y": [_round(v) for v in band[0]], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"},
        {
            "x": x,
            "y": [_round(v) for v in band[1]],
            "mode": "lines",
            "line": {"width": 0},
            "fill": "tonexty",
            "fillcolor": "@band",
            "hoverinfo": "skip",
        },
        {
            "x": x,
            "y": line,
            "mode": "lines",
            "line": {"color": "@main", "width": 2},
            "hovertemplate": "%{x:.0f}%: %{y:.3~g}",
        },
    ]
    rows = []
    for p in SHARES:
        at = Interval(**{k: _at(v, p) for k, v in (("value", value), ("lower", lower), ("upper", upper))})
        rows.append([percent(p), number(at.value), interval_text(at)])
    middle = rows[len(rows) // 2]
    return Figure(
        id,
        title,
        caption,
        f"{title} of {n} inputs, sorted: from {rows[0][1]} at 5% over {middle[1]} in the middle to {rows[-1][1]} at 95%.",
        traces,
        {"xaxis": {"title": "share of inputs (%)", "range": [0, 100]}, "yaxis": {"title": _folded(unit), "type": "log"}},
        ["share of inputs below", "value", "interval"],
        rows,
    )


def profile_figure(report: Report) -> Figure | None:
    """Energy of the pilot over the ladder of displacements, with the chosen one marked."""
    rungs = [r for r in report.step.profile if r.get("energy", 0) > 0]
    if len(rungs) < 2:
        return None
    x, y = [_round(r["displacement"]) for r in rungs], [_round(r["energy"]) for r in rungs]
    traces: list[dict[str, Any]] = [{"x": x, "y": y, "mode": "lines+markers", "line": {"color": "@main"}}]
    chosen = report.step.displacement
    if chosen:
        ends = [_round(min(y)), _round(max(y))]
        traces.append({"x": [_round(chosen)] * 2, "y": ends, "mode": "lines", "line": {"color": "@mark", "dash": "dash"}})
    unit = str(report.domain["unit"])
    return Figure(
        "fig-profile",
        "Choice of the step",
        "Where the curve is flat, the measured sensitivity does not depend on how far inputs were displaced. "
        "The dashed line is the displacement that was taken.",
        f"Energy at {len(rungs)} displacements from {number(x[0])} to {number(x[-1])}; {number(chosen)} was chosen.",
        traces,
        {
            "xaxis": {"title": _folded(f"displacement ({unit})"), "type": "log"},
            "yaxis": {"title": "energy", "type": "log"},
        },
        ["displacement", "energy"],
        [[number(a), number(b)] for a, b in zip(x, y, strict=True)],
    )


def scale_figure(report: Report, inputs: Sequence[Sensitivity]) -> Figure | None:
    """Median radius over the rungs of the scale profile, where inputs carry one."""
    rungs: dict[float, list[float]] = {}
    flips: dict[float, list[int]] = {}
    for s in inputs:
        for rung in s.profile:
            key = _round(rung.displacement)
            if rung.radius is not None:
                rungs.setdefault(key, []).append(rung.radius)
            got = flips.setdefault(key, [0, 0])
            got[0], got[1] = got[0] + rung.flips, got[1] + rung.directions
    x = sorted(k for k, v in rungs.items() if len(v) * 4 >= len(inputs))
    if len(x) < 2:
        return None
    parts = [np.quantile(rungs[k], (0.25, 0.5, 0.75)) for k in x]
    y = [_round(p[1]) for p in parts]
    bars = {"array": [_round(p[2] - p[1]) for p in parts], "arrayminus": [_round(p[1] - p[0]) for p in parts]}
    error = {"type": "data", "symmetric": False, "color": "@main", **bars}
    rows = [[number(k), number(v), percent(flips[k][0] / max(1, flips[k][1]))] for k, v in zip(x, y, strict=True)]
    unit = str(report.domain["unit"])
    return Figure(
        "fig-scale",
        "Margin radius over the length of the displacement",
        "Median over inputs, bars from the first to the third quartile. Where the radius falls with longer displacements, "
        "the local value overstates the distance to another answer.",
        f"Median radius at {len(x)} displacements: {number(y[0])} at {number(x[0])}, {number(y[-1])} at {number(x[-1])}.",
        [{"x": x, "y": y, "mode": "lines+markers", "line": {"color": "@main"}, "error_y": error}],
        {
            "xaxis": {"title": _folded(f"displacement ({unit})"), "type": "log"},
            "yaxis": {"title": _folded(f"radius ({unit})"), "type": "log"},
        },
        ["displacement", "median radius", "random displacements that change the answer"],
        rows,
    )


def division_figure(id: str, division: Division, unit: str) -> Figure | None:
    """Median margin radius of each group's population, with its interval."""
    cells = [(s, s.summary.population["margin_radius"].median) for s in division.slices]
    drawn = [(s, c) for s, c in cells if c.value]
    if len(drawn) < 2:
        return None
    names = [f"{s.name}{' (few)' if s.small else ''}" for s, _ in drawn]
    y = [c.value or 0.0 for _, c in drawn]
    top = max(max(c.upper or 0, c.value or 0) for _, c in drawn)
    low = min(c.lower or c.value or 0 for _, c in drawn)
    bars = {
        "array": [_round((top if c.upper is None else c.upper) - v) for (_, c), v in zip(drawn, y, strict=True)],
        "arrayminus": [_round(v - (c.lower or low)) for (_, c), v in zip(drawn, y, strict=True)],
    }
    error = {"type": "data", "symmetric": False, "color": "@main", **bars}
    traces = [
        {
            "x": [_round(v) for v in y],
            "y": names,
            "mode": "markers",
            "marker": {"color": "@main", "size": 9},
            "error_x": error,
        }
    ]
    listed = "; ".join(f"{name} {number(v)}" for name, v in zip(names, y, strict=True))
    return Figure(
        id,
        f"{division.title}: median margin radius",
        "Dots are medians, lines their intervals for the population of each group.",
        f"Median margin radius: {listed}.",
        traces,
        {
            "xaxis": {"title": _folded(f"margin radius ({unit})"), "type": "log"},
            "yaxis": {"type": "category", "autorange": "reversed"},
            "margin": {"l": 140},
        },
        ["group", "median radius", "interval"],
        [[name, number(c.value), interval_text(c)] for name, (_, c) in zip(names, drawn, strict=True)],
        height=120 + 32 * len(drawn),
    )


def calibration_figure(found: Calibration) -> Figure:
    """Share of right answers against stated confidence, in bins of equally many inputs."""
    x = [_round(100 * b[0]) for b in found.bins]
    y = [_round(100 * (b[1].value or 0)) for b in found.bins]
    bars = {
        "array": [_round(100 * ((b[1].upper or 1) - (b[1].value or 0))) for b in found.bins],
        "arrayminus": [_round(100 * ((b[1].value or 0) - (b[1].lower or 0))) for b in found.bins],
    }
    error = {"type": "data", "symmetric": False, "color": "@main", **bars}
    low = min(50.0, *x)
    line = {
        "x": [low, 100],
        "y": [low, 100],
        "mode": "lines",
        "line": {"color": "@mark", "dash": "dash"},
        "hoverinfo": "skip",
    }
    dots = {"x": x, "y": y, "mode": "markers", "marker": {"color": "@main", "size": 9}, "error_y": error}
    rows = [[percent(c), percent(a.value), f"{percent(a.lower)} to {percent(a.upper)}", str(n)] for c, a, n in found.bins]
    return Figure(
        "fig-calibration",
        "Confidence and right answers",
        "On the dashed line, answers given with 80% confidence are right in 80% of cases; below it the model is too sure.",
        f"Mean confidence {percent(found.confidence)}, right answers {percent(found.accuracy.value)}.",
        [line, dots],
        {"xaxis": {"title": "confidence (%)"}, "yaxis": {"title": "right answers (%)", "range": [0, 103]}},
        ["confidence", "right", "interval", "inputs"],
        rows,
    )


def pairs_figure(id: str, title: str, first: Column, second: Column, names: tuple[str, str], unit: str) -> Figure | None:
    """Each input's value in both models, with the line of equal values."""
    known = np.flatnonzero((first.low == first.high) & (second.low == second.high))
    if known.size < 2:
        return None
    kept = known[np.unique(np.linspace(0, known.size - 1, min(known.size, MOST_PAIRS)).round().astype(int))]
    x, y = np.exp(first.low[kept]), np.exp(second.low[kept])
    ends = [_round(min(x.min(), y.min())), _round(max(x.max(), y.max()))]
    above = float((second.low[known] > first.low[known]).mean())
    return Figure(
        id,
        title,
        "One dot an input; on the dashed line both models are equal.",
        f"{known.size} inputs; {percent(above)} have a larger value in the second model.",
        [
            {"x": ends, "y": ends, "mode": "lines", "line": {"color": "@mark", "dash": "dash"}, "hoverinfo": "skip"},
            {
                "x": [_round(v) for v in x],
                "y": [_round(v) for v in y],
                "mode": "markers",
                "marker": {"color": "@main", "size": 6, "opacity": 0.7},
            },
        ],
        {
            "xaxis": {"title": _folded(f"{names[0]} ({unit})"), "type": "log"},
            "yaxis": {"title": _folded(f"{names[1]} ({unit})"), "type": "log"},
        },
        ["", "first", "second"],
        [[percent(p), *(number(float(np.exp(np.quantile(c.low[known], p)))) for c in (first, second))] for p in SHARES],
        height=380,
    )


def _folded(text: str) -> str:
    """An axis title in short lines, which the page breaks after it has escaped them."""
    return "\n".join(wrap(text, FOLD)[:LINES])


def _at(ordered: Any, p: float) -> float | None:
    v = float(ordered[round(p * (len(ordered) - 1))])
    return v if np.isfinite(v) else None


def _round(v: float) -> float:
    return float(f"{float(v):.4g}")
