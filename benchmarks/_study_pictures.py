"""The study's pictures, as SVG. The same cells give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._study_calibration import calibration_curve, points_of
from benchmarks._study_tables import learned, name_of, on_fitted
from benchmarks._study_words import WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_pictures"]

Row = Mapping[str, Any]
COLOURS = {"plain": "#0969da", "pgd": "#1a7f37", "cw": "#8250df", "fisher": "#bc4c00"}
MARKS = {"VGG": "o", "ResNet": "s", "DenseNet": "^", "ViT": "D", "MLP": "x"}
FOUND = "smallest perturbation found"


def draw_pictures(cells: Sequence[Row], rows: Sequence[Row], summary: Mapping[str, Any], folder: Path) -> None:
    """Correlations, networks, calibration and its errors, families, stability, failures."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    folder.mkdir(parents=True, exist_ok=True)
    good = [cell for cell in cells if learned(cell)]
    with matplotlib.rc_context({"svg.hashsalt": "fimaudit", "svg.fonttype": "none", "font.size": 8}):

        def save(name: str, size: tuple[float, float], *drawings: Any) -> None:
            figure = Figure(figsize=size, layout="constrained")
            for place, drawing in enumerate(drawings):
                axes = figure.add_subplot(1, len(drawings), place + 1)
                drawing(axes)
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_minor_formatter(NullFormatter())
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})

        save("correlations", (7.0, 1.2 + 0.19 * len(cells)), lambda axes: _correlations(axes, cells, rows))
        save("networks", (7.6, 3.6), lambda axes: _inputs(axes, cells), lambda axes: _networks(axes, summary["networks"]))
        save("calibration", (7.6, 3.4), lambda axes: _curve(axes, good), lambda axes: _errors(axes, summary["calibration"]))
        save("bounds", (7.6, 3.4), lambda axes: _bound(axes, cells, "spectral_norm"), lambda axes: _bound(axes, cells, None))
        save(
            "stability",
            (7.6, 2.8),
            lambda axes: _repeats(axes, summary, "queries"),
            lambda axes: _repeats(axes, summary, "steps"),
        )
        save("costs", (6.4, 3.6), lambda axes: _costs(axes, summary))
        save("failures", (6.4, 2.8), lambda axes: _failures(axes, summary["failures"]))


def _correlations(axes: Axes, cells: Sequence[Row], rows: Sequence[Row]) -> None:
    """Rank correlation of each network with its interval over inputs, ours and CLEVER's."""
    table = {(name_of(r), r["metric"]): r for r in rows}
    names = [name_of(cell) for cell in cells]
    for shift, metric, colour in ((0.15, "margin_radius", "#0969da"), (-0.15, "clever", "#bc4c00")):
        for place, name in enumerate(names):
            row = table[name, metric]
            if row["spearman"] is not None and row["lower"] is not None:
                at = len(names) - 1 - place + shift
                axes.plot([row["lower"], row["upper"]], [at, at], color=colour, linewidth=1, alpha=0.6)
                axes.plot([row["spearman"]], [at], "o", color=colour, markersize=3.5)
        axes.plot([], [], "o", color=colour, markersize=3.5, label=WORDS[metric])
    for place, cell in enumerate(cells):
        value = on_fitted(cell, "clever")
        if value is not None:
            at = len(names) - 1 - place - 0.15
            axes.plot([value], [at], "o", color="#bc4c00", markerfacecolor="none", markersize=5)
    label = "CLEVER, where its fit succeeded"
    axes.plot([], [], "o", color="#bc4c00", markerfacecolor="none", markersize=5, label=label)
    axes.set(yticks=range(len(names)), yticklabels=names[::-1], xlabel=f"rank correlation with the {FOUND}")
    axes.set_xlim(-0.6, 1.02)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _inputs(axes: Axes, cells: Sequence[Row]) -> None:
    """Every input: what was found against the radius."""
    axes.set(xscale="log", yscale="log", xlabel="margin radius of an input, 200 queries", ylabel=FOUND)
    everything = []
    for training, colour in COLOURS.items():
        points = [
            (radius, found)
            for cell in cells
            if cell["training"] == training
            for radius, found in zip(cell["readings"]["margin_radius"], cell["attacks"]["distance"], strict=True)
            if radius and found
        ]
        if points:
            axes.plot(*np.array(points).T, "o", color=colour, markersize=1.5, alpha=0.4, label=training, rasterized=False)
            everything += points
    _diagonal(axes, everything)
    axes.legend(frameon=False, markerscale=3)


def _networks(axes: Axes, networks: Sequence[Row]) -> None:
    """Every network: the medians of the same."""
    axes.set(xscale="log", yscale="log", xlabel="median radius of a network", ylabel=f"median {FOUND}")
    points = []
    for row in networks:
        x, y = row["margin_radius_median"], row["smallest_perturbation_median"]
        if x and y:
            axes.plot([x], [y], MARKS[row["model"]], color=COLOURS[row["training"]], markersize=4, alpha=0.8)
            points.append((x, y))
    for name, mark in MARKS.items():
        axes.plot([], [], mark, color="#57606a", markersize=4, label=name)
    _diagonal(axes, points)
    axes.legend(frameon=False)


def _diagonal(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    if points:
        ends = [np.array(points).min() / 1.2, np.array(points).max() * 1.2]
        axes.plot(ends, ends, "--", color="#6e7781", linewidth=1, label="equal")


def _curve(axes: Axes, cells: Sequence[Row]) -> None:
    """Share of inputs that stay within q times the radius: every network, and all."""
    q = np.geomspace(0.3, 3.0, 120)
    points = [(cell, points_of(cell)) for cell in cells]
    for cell, one in points:
        if len(one.radius):
            share = [(one.found / one.radius > at).mean() for at in q]
            axes.plot(q, share, color=COLOURS[cell["training"]], linewidth=0.5, alpha=0.5)
    known = [one for _, one in points if len(one.radius)]
    if known:
        whole = calibration_curve(known)
        axes.plot(q, [(whole > at).mean() for at in q], color="black", linewidth=2, label="all networks")
    axes.step([0.3, 1.0, 3.0], [1.0, 0.0, 0.0], where="post", color="#6e7781", linestyle="--", label="radius at its word")
    axes.set(xscale="log", xlabel="eps / radius", ylabel="share of inputs not changed within eps")
    _ticks(axes, (0.3, 0.5, 1.0, 2.0, 3.0))
    axes.legend(frameon=False)


def _errors(axes: Axes, calibration: Row) -> None:
    """Errors in points of every network by what it is predicted from, one network held out at a time."""
    names = {
        "margin_radius": "radius",
        "radius_and_counterexample": "and counter-\nexample",
        "radius_counterexample_and_labels": "and\nlabels",
        "label_radius": "labels\nalone",
    }
    for place, name in enumerate(names):
        points = np.array([e["points"] for e in calibration[name]["schemes"].get("one network", [])])
        if not len(points):
            continue
        shift = np.linspace(-0.25, 0.25, len(points)) if len(points) > 1 else np.zeros(1)
        axes.plot(place + shift, points, "o", color="#0969da", markersize=2.5, alpha=0.6)
        axes.plot([place - 0.3, place + 0.3], [np.median(points)] * 2, color="black", linewidth=2)
    axes.axhline(5.0, color="#bc4c00", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), list(names.values()))
    axes.set(xlabel="predicted from", ylabel="error of robust accuracy, points")


def _bound(axes: Axes, cells: Sequence[Row], metric: str | None) -> None:
    """The bound of every network against a measured value, or against the perturbation."""
    for cell in cells:
        values = cell["attacks"]["distance"] if metric is None else cell["readings"][metric]
        known = [v for v in values if v]
        if cell["lipschitz"] and known:
            axes.plot(
                [cell["lipschitz"]], [np.median(known)], MARKS[cell["model"]], color=COLOURS[cell["training"]], markersize=4
            )
    for name, mark in MARKS.items():
        axes.plot([], [], mark, color="#57606a", markersize=4, label=name)
    what = f"median {FOUND}" if metric is None else f"median {WORDS[metric]}"
    axes.set(xscale="log", yscale="log", xlabel="bound L_z from the weights", ylabel=what)
    axes.legend(frameon=False)


def _repeats(axes: Axes, summary: Row, kind: str) -> None:
    """Error of the radius against the exact first-order one by queries or by step."""
    rows = [row for row in summary["stability"] if row["kind"] == kind and row["error"]]
    x = [row["value"] for row in rows]
    axes.plot(x, [100 * np.expm1(row["error"]["median"]) for row in rows], "o-", color="#0969da", markersize=3)
    low, high = ([100 * np.expm1(row["error"][end]) for row in rows] for end in ("low", "high"))
    axes.fill_between(x, low, high, color="#0969da", alpha=0.15)
    axes.set(xscale="log", xlabel="queries an input" if kind == "queries" else "displacement, multiples of the chosen one")
    axes.set(yscale="log", ylabel="median error of the radius, %")
    _ticks(axes, x)
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])


def _costs(axes: Axes, summary: Row) -> None:
    """CPU time an input against how well the inputs are ordered."""
    correlation = {m["metric"]: m["median"] for m in summary["metrics"]}
    for row in summary["costs"]:
        name = row["name"]
        if name in correlation and row["milliseconds"]:
            axes.plot([row["milliseconds"]["median"]], [correlation[name]], "o", color="#0969da", markersize=4)
            axes.annotate(
                WORDS[name],
                (row["milliseconds"]["median"], correlation[name]),
                xytext=(4, 2),
                textcoords="offset points",
                fontsize=6,
            )
    axes.set(xscale="log", xlabel="CPU milliseconds an input", ylabel="median rank correlation")


def _failures(axes: Axes, rows: Sequence[Row]) -> None:
    """Ratio of radius to perturbation of each variant, and whether the product says something."""
    for place, row in enumerate(rows):
        said = row["said"] >= 0.5
        if row["ratio"]:
            colour = "#1a7f37" if said else "#bc4c00"
            axes.plot([row["ratio"]["low"], row["ratio"]["high"]], [place, place], color=colour)
            axes.plot([row["ratio"]["median"]], [place], "o" if said else "x", color=colour)
    axes.plot([], [], "o", color="#1a7f37", label="the report says so")
    axes.plot([], [], "x", color="#bc4c00", label="it does not")
    axes.axvline(1.0, color="#6e7781", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="radius / smallest perturbation, median over inputs", yticks=range(len(rows)))
    axes.set_yticklabels([row["kind"] for row in rows])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    _ticks(axes, (0.3, 0.5, 1.0, 2.0, 4.0))
    axes.legend(frameon=False)


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Plain numbers below a logarithmic axis."""
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
