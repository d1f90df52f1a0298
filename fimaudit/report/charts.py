"""The charts of runs: what each draws, in words and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fimaudit.audit_report import Report
from fimaudit.report.drawing import MAIN, MARK, Chart, category_axis, log_axis, names_width, plain_axis
from fimaudit.report.wording import interval_text, number, percent
from fimaudit.results import Interval, Sensitivity
from fimaudit.statistics.columns import IntervalArray
from fimaudit.statistics.paired import Column
from fimaudit.statistics.spread import evenly_spread
from fimaudit.statistics.subgroups import Calibration, Division
from fimaudit.statistics.summary import sorted_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "calibration_chart",
    "distribution_chart",
    "distributions",
    "division_chart",
    "interval_chart",
    "pairs_chart",
    "profile_chart",
    "scale_chart",
]

POINTS = 200
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_PAIRS = 1000


def distributions(unit: str) -> list[tuple[str, str, str, str]]:
    """(quantity, title, how to read it, unit) of the three quantities."""
    return [
        (
            "margin_radius",
            "Margin radius",
            "Estimated distance to another answer: small is fragile. The band holds the interval of every quantile.",
            unit,
        ),
        (
            "spectral_norm",
            "Spectral norm",
            "How violently the answer can change: large is sensitive. It depends on how confident the model is.",
            "1 / unit²",
        ),
        (
            "peak_spectral_norm",
            "Peak norm",
            "The same, freed from how confident the model is: the largest value over all softmax temperatures.",
            "1 / unit²",
        ),
    ]


def distribution_chart(quantity: str, cells: Sequence[Interval], unit: str) -> Chart | None:
    """Share of inputs against value: sorted values between the sorted limits, which is the interval of each quantile."""
    title, caption, label = next(words[1:] for words in distributions(unit) if words[0] == quantity)
    found, missing = IntervalArray.of(cells), np.inf if quantity == "margin_radius" else 0.0
    value = np.sort(np.where(np.isnan(found.value), missing, found.value))
    lower, upper = np.sort(found.lower), np.sort(found.upper)
    if not (np.isfinite(value) & (value > 0)).any():
        return None
    n = len(value)
    kept = evenly_spread(n, POINTS)
    known = np.concatenate([v[np.isfinite(v) & (v > 0)] for v in (value, lower, upper)])
    floor, ceiling = float(known.min()), float(known.max())

    def draw(axes: Axes) -> None:
        x = 100 * (kept + 0.5) / n
        drawn = np.isfinite(value[kept]) & (value[kept] > 0)
        low, high = (np.clip(v[kept], floor, ceiling) for v in (lower, upper))
        axes.fill_between(x, low, high, color=MAIN, alpha=0.22, lw=0)
        axes.plot(x[drawn], value[kept][drawn], color=MAIN, lw=2, marker="o" if drawn.sum() < 3 else None)
        plain_axis(axes.xaxis, "share of inputs (%)", 0, 100)
        log_axis(axes.yaxis, label, floor, ceiling)

    rows = []
    for p in SHARES:
        at = Interval(**{k: _at(v, p) for k, v in (("value", value), ("lower", lower), ("upper", upper))})
        rows.append([percent(p), number(at.value), interval_text(at)])
    middle = rows[len(rows) // 2]
    return Chart(
        f"fig-{quantity}",
        title,
        caption,
        f"{title} of {n} inputs, sorted: from {rows[0][1]} at 5% over {middle[1]} in the middle to {rows[-1][1]} at 95%.",
        draw,
        ["share of inputs below", "value", "interval"],
        rows,
    )


def profile_chart(report: Report) -> Chart | None:
    """Energy of the pilot over the ladder of displacements, with the chosen one marked."""
    rungs = [r for r in report.step.profile if r.get("energy", 0) > 0]
    if len(rungs) < 2:
        return None
    x, y = [r["displacement"] for r in rungs], [r["energy"] for r in rungs]
    chosen, unit = report.step.displacement, str(report.domain["unit"])

    def draw(axes: Axes) -> None:
        axes.plot(x, y, "o-", color=MAIN, ms=4)
        if chosen:
            axes.axvline(chosen, color=MARK, ls="--")
        log_axis(axes.xaxis, f"displacement ({unit})", min(x), max(x))
        log_axis(axes.yaxis, "energy", min(y), max(y))

    return Chart(
        "fig-profile",
        "Choice of the step",
        "Where the curve is flat, the measured sensitivity does not depend on how far inputs were displaced. "
        "The dashed line is the displacement that was taken.",
        f"Energy at {len(rungs)} displacements from {number(x[0])} to {number(x[-1])}; {number(chosen)} was chosen.",
        draw,
        ["displacement", "energy"],
        [[number(a), number(b)] for a, b in zip(x, y, strict=True)],
    )


def scale_chart(report: Report, inputs: Sequence[Sensitivity]) -> Chart | None:
    """Median radius over the rungs of the scale profile, where inputs carry one."""
    rungs: dict[float, list[float]] = {}
    flips: dict[float, list[int]] = {}
    for s in inputs:
        for rung in s.profile:
            key = float(f"{rung.displacement:.4g}")
            if rung.radius is not None:
                rungs.setdefault(key, []).append(rung.radius)
            got = flips.setdefault(key, [0, 0])
            got[0], got[1] = got[0] + rung.flips, got[1] + rung.directions
    x = sorted(k for k, v in rungs.items() if len(v) * 4 >= len(inputs))
    if len(x) < 2:
        return None
    low, y, high = np.array([np.quantile(rungs[k], (0.25, 0.5, 0.75)) for k in x]).T
    unit = str(report.domain["unit"])

    def draw(axes: Axes) -> None:
        axes.errorbar(x, y, [y - low, high - y], fmt="o-", color=MAIN, ms=4)
        log_axis(axes.xaxis, f"displacement ({unit})", x[0], x[-1])
        log_axis(axes.yaxis, f"radius ({unit})", float(low.min()), float(high.max()))

    rows = [[number(k), number(v), percent(flips[k][0] / max(1, flips[k][1]))] for k, v in zip(x, y, strict=True)]
    return Chart(
        "fig-scale",
        "Margin radius over the length of the displacement",
        "Median over inputs, bars from the first to the third quartile. Where the radius falls with longer displacements, "
        "the local value overstates the distance to another answer.",
        f"Median radius at {len(x)} displacements: {number(y[0])} at {number(x[0])}, {number(y[-1])} at {number(x[-1])}.",
        draw,
        ["displacement", "median radius", "random displacements that change the answer"],
        rows,
    )


def division_chart(id: str, division: Division, unit: str) -> Chart | None:
    """Median margin radius of each group's population, with its interval."""
    cells = [(s, s.summary.population["margin_radius"].median) for s in division.slices]
    drawn = [(f"{s.name}{' (few)' if s.small else ''}", c) for s, c in cells if c.value]
    if len(drawn) < 2:
        return None
    return interval_chart(
        id,
        f"{division.title}: median margin radius",
        f"margin radius ({unit})",
        drawn,
        ["group", "median radius", "interval"],
        caption="Dots are medians, lines their intervals for the population of each group.",
        label="Median margin radius: {}.",
    )


def interval_chart(
    id: str,
    title: str,
    axis: str,
    cells: Sequence[tuple[str, Interval]],
    head: list[str],
    *,
    caption: str = "",
    label: str = "{}",
    mark: float | None = None,
) -> Chart | None:
    """One dot with its interval a line, on a logarithmic axis; a missing limit reaches to the end of the axis.

    Cells without a value are left out; ``None`` where none is left. In ``label``, ``{}`` stands for the names and values. A
    dashed line stands at ``mark``.
    """
    cells = [(name, c) for name, c in cells if c.value]
    if not cells:
        return None
    values = [c.value or 0.0 for _, c in cells]
    known = [v for _, c in cells for v in (c.value, c.lower, c.upper, mark) if v]
    low, high = min(known), max(known)

    def draw(axes: Axes) -> None:
        for row, (_, c) in enumerate(cells):
            axes.plot([c.lower or low, high if c.upper is None else c.upper], [row, row], color=MAIN, lw=1.5)
        axes.plot(values, range(len(values)), "o", color=MAIN, ms=6)
        if mark:
            axes.axvline(mark, color=MARK, ls="--")
        category_axis(axes, [name for name, _ in cells])
        log_axis(axes.xaxis, axis, low, high)

    rows = [[name, number(c.value), interval_text(c)] for name, c in cells]
    label = label.format("; ".join(f"{name} {value}" for name, value, _ in rows))
    return Chart(
        id, title, caption, label, draw, head, rows, height=0.85 + 0.3 * len(cells), left=names_width([n for n, _ in cells])
    )


def calibration_chart(found: Calibration) -> Chart:
    """Share of right answers against stated confidence, in bins of equally many inputs."""
    x = np.array([100 * b[0] for b in found.bins])
    y, low, high = (
        np.array([100 * (end if v is None else v) for v in values])
        for values, end in (
            ([b[1].value for b in found.bins], 0.0),
            ([b[1].lower for b in found.bins], 0.0),
            ([b[1].upper for b in found.bins], 1.0),
        )
    )
    least = min(50.0, float(x.min()))

    def draw(axes: Axes) -> None:
        axes.plot([least, 100], [least, 100], "--", color=MARK)
        axes.errorbar(x, y, [y - low, high - y], fmt="o", color=MAIN, ms=6)
        plain_axis(axes.xaxis, "confidence (%)", least - 2, 102)
        plain_axis(axes.yaxis, "right answers (%)", 0, 103)

    rows = [[percent(c), percent(a.value), f"{percent(a.lower)} to {percent(a.upper)}", str(n)] for c, a, n in found.bins]
    return Chart(
        "fig-calibration",
        "Confidence and right answers",
        "On the dashed line, answers given with 80% confidence are right in 80% of cases; below it the model is too sure.",
        f"Mean confidence {percent(found.confidence)}, right answers {percent(found.accuracy.value)}.",
        draw,
        ["confidence", "right", "interval", "inputs"],
        rows,
    )


def pairs_chart(id: str, title: str, first: Column, second: Column, names: tuple[str, str], unit: str) -> Chart | None:
    """Each input's value in both models, with the line of equal values."""
    known = np.flatnonzero((first.low == first.high) & (second.low == second.high))
    if known.size < 2:
        return None
    kept = known[evenly_spread(known.size, MOST_PAIRS)]
    x, y = np.exp(first.low[kept]), np.exp(second.low[kept])
    ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    above = float((second.low[known] > first.low[known]).mean())

    def draw(axes: Axes) -> None:
        axes.plot(ends, ends, "--", color=MARK)
        axes.scatter(x, y, s=14, color=MAIN, alpha=0.7, lw=0)
        log_axis(axes.xaxis, f"{names[0]} ({unit})", *ends)
        log_axis(axes.yaxis, f"{names[1]} ({unit})", *ends)

    return Chart(
        id,
        title,
        "One dot an input; on the dashed line both models are equal.",
        f"{known.size} inputs; {percent(above)} have a larger value in the second model.",
        draw,
        ["", "first", "second"],
        [[percent(p), *(number(float(np.exp(np.quantile(c.low[known], p)))) for c in (first, second))] for p in SHARES],
        height=3.8,
    )


def _at(ordered: Any, p: float) -> float | None:
    v = sorted_quantile(ordered, p)
    return v if np.isfinite(v) else None
