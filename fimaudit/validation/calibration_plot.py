"""The calibration plot: what the attacks found against the margin radius, one point an input."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fimaudit.errors import MissingExtraError
from fimaudit.storage.durable_files import replacing
from fimaudit.validation.results import Validation

__all__ = ["plot_calibration"]


def plot_calibration(validation: Validation, path: Path) -> None:
    """Draw radius against smallest perturbation on logarithmic axes, bins on top, censored inputs on the upper edge.

    The same validation gives the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtraError("the calibration plot", "matplotlib", "report") from exc
    found = [s for s in validation.inputs if s.margin_radius and s.smallest_perturbation]
    censored = [s.margin_radius for s in validation.inputs if s.status == "censored" and s.margin_radius]
    with matplotlib.rc_context({"svg.hashsalt": "fimaudit", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=f"margin radius ({validation.unit})", ylabel=f"smallest perturbation found ({validation.unit})")
        if found:
            x = np.array([s.margin_radius for s in found], dtype=float)
            y = np.array([s.smallest_perturbation for s in found], dtype=float)
            marked = np.array(["local_radius_overstates" in s.flags for s in found])
            axes.set(xscale="log", yscale="log")
            axes.plot(x[~marked], y[~marked], "o", color="#0969da", markersize=4, alpha=0.7, label="input")
            if marked.any():
                axes.plot(x[marked], y[marked], "x", color="#bc4c00", label="local_radius_overstates")
            ends = [min(x.min(), y.min()) / 1.3, max(x.max(), y.max()) * 1.3]
            axes.plot(ends, ends, "--", color="#6e7781", linewidth=1, label="equal")
            bins = validation.calibration
            centre = np.array([b.smallest_perturbation for b in bins])
            spread = np.array([[b.smallest_perturbation - b.lower, b.upper - b.smallest_perturbation] for b in bins]).T
            axes.errorbar(
                [b.margin_radius for b in bins],
                centre,
                spread,
                fmt="s",
                color="#1f2328",
                capsize=3,
                label="median, quartiles",
            )
            if censored:
                axes.plot(censored, [ends[1]] * len(censored), "^", color="#6e7781", label="no attack succeeded")
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.text(0.5, 0.5, "no attack succeeded", ha="center", va="center", transform=axes.transAxes)
        with replacing(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
