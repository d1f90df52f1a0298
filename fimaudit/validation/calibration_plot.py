"""What the attacks found against the margin radius, one point an input: as a file, and on the screen of a validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fimaudit.report.drawing import INK, MAIN, MARK, METADATA, Chart, drawn, log_axis, styled
from fimaudit.report.wording import number
from fimaudit.storage.durable_files import replacing
from fimaudit.validation.results import Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attacks_chart", "plot_calibration"]


def plot_calibration(validation: Validation, path: Path) -> None:
    """Write the chart as a file; the same validation gives the same bytes."""
    kind = path.suffix.removeprefix(".")
    with styled(), replacing(path) as file:
        drawn([attacks_chart(validation)]).savefig(file, format=kind, metadata=METADATA if kind == "svg" else None)


def attacks_chart(validation: Validation) -> Chart:
    """Radius against smallest perturbation on logarithmic axes, bins on top, censored inputs on the upper edge."""
    found = [s for s in validation.inputs if s.margin_radius and s.smallest_perturbation]
    radius = np.array([s.margin_radius for s in found], dtype=float)
    smallest = np.array([s.smallest_perturbation for s in found], dtype=float)
    marked = np.array(["local_radius_overstates" in s.flags for s in found], dtype=bool)
    censored = [s.margin_radius for s in validation.inputs if s.status == "censored" and s.margin_radius]

    def draw(axes: Axes) -> None:
        if not found:
            axes.text(0.5, 0.5, "no attack succeeded", ha="center", va="center", transform=axes.transAxes)
            return
        ends = float(min(radius.min(), smallest.min()) / 1.3), float(max(radius.max(), smallest.max()) * 1.3)
        axes.plot(radius[~marked], smallest[~marked], "o", color=MAIN, markersize=4, alpha=0.7, label="input")
        if marked.any():
            axes.plot(radius[marked], smallest[marked], "x", color=MARK, label="input, radius cut")
        axes.plot(ends, ends, "--", color=MARK, linewidth=1, label="equal")
        bins = validation.calibration
        if bins:
            middle = np.array([b.smallest_perturbation for b in bins])
            spread = np.array([[b.smallest_perturbation - b.lower, b.upper - b.smallest_perturbation] for b in bins]).T
            at = [b.margin_radius for b in bins]
            axes.errorbar(at, middle, spread, fmt="s", color=INK, capsize=3, label="median, quartiles")
        if censored:
            axes.plot(censored, [ends[1]] * len(censored), "^", color=INK, alpha=0.6, label="no attack succeeded")
        log_axis(axes.xaxis, f"margin radius ({validation.unit})", *ends)
        log_axis(axes.yaxis, f"smallest perturbation found ({validation.unit})", *ends)
        axes.legend(frameon=False, fontsize=8)

    ratio = number(float(np.median(radius / smallest))) if found else "unknown"
    return Chart(
        "fig-attacks",
        "Margin radius and attacks",
        "One dot an input: below the dashed line an attack found another answer nearer than the radius said.",
        f"{len(found)} inputs with both; the radius is {ratio} of the smallest perturbation, in the median.",
        draw,
        ["margin radius", "smallest perturbation", "inputs"],
        [[number(b.margin_radius), number(b.smallest_perturbation), str(b.inputs)] for b in validation.calibration],
        height=4.2,
    )
