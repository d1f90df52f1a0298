"""Figures for papers and notebooks: the page's charts by kind, which classes trade probability, and the worst inputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from fimaudit.audit_report import PlotKind
from fimaudit.errors import RunFolderError, UsageError
from fimaudit.report import charts
from fimaudit.report.drawing import METADATA, Chart, drawn, styled
from fimaudit.report.pictures import as_picture
from fimaudit.report.shown import most_sensitive, read_shown
from fimaudit.report.wording import class_name, number
from fimaudit.statistics.subgroups import calibration, divisions
from fimaudit.storage.run_folder import RunFolder, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "figure_of", "plot", "quantity_charts"]

KINDS: tuple[PlotKind, ...] = get_args(PlotKind)
SUFFIXES = (".png", ".svg", ".pdf")
MOST_CLASSES = 40


def plot(folder: str | Path, kind: PlotKind, out: str | Path) -> Path:
    """Draw one figure of a run into a file.

    Args:
        folder: the run folder.
        kind: as for ``figure_of``.
        out: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UsageError: an unknown kind or ending, or a run that does not hold what the figure needs.
        RunFolderError: no run there, or a file that cannot be written.
    """
    path = Path(out)
    if kind not in KINDS:
        raise UsageError(f"expected --kind {', '.join(KINDS)}, got {kind!r}")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"expected an output file ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    figure = figure_of(read_run(folder), kind)
    with styled():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=200, metadata=METADATA if path.suffix.lower() == ".svg" else None)
        except OSError as exc:
            raise RunFolderError(f"cannot write {path}: {exc.strerror or exc}") from exc
    return path


def figure_of(run: RunFolder, kind: PlotKind) -> Figure:
    """One figure of a run, by matplotlib.

    Args:
        run: the run.
        kind: ``distribution`` (each quantity over the inputs with its band), ``worst`` (the most sensitive inputs),
            ``groups`` and ``calibration`` (of labelled or grouped data), ``contrast`` (which classes trade probability),
            ``profile`` (energy over displacement), ``scale`` (radius over displacement).

    Raises:
        UsageError: an unknown kind, or a run that does not hold what the figure needs.
    """
    if kind not in KINDS:
        raise UsageError(f"expected one of the kinds {', '.join(KINDS)}, got {kind!r}")
    with styled():
        if kind == "contrast":
            return _contrast(run)
        if kind == "worst":
            return _worst_pictures(run) or drawn([_worst_chart(run)])
        found = _charts(run, kind)
        if not found:
            raise UsageError(_MISSING[kind])
        return drawn(found)


#: Why a run may hold none of a kind.
_MISSING = {
    "profile": "this run holds no step profile: it was measured white-box, or nothing changed on any rung",
    "distribution": "this run holds no input with a value that could be measured",
    "scale": "this run holds no profile over longer displacements; audit with --profile cheap or --profile full",
    "groups": "this run has no two groups with a measured radius; audit data with an array or column 'group', or labels",
    "calibration": "this run has no labels; audit data with an array or column 'y'",
}


def quantity_charts(run: RunFolder) -> list[Chart]:
    """The three quantities over the inputs."""
    unit = str(run.report.domain["unit"])
    found = [
        charts.distribution_chart(name, [getattr(s, name) for s in run.inputs], unit)
        for name, *_ in charts.distributions(unit)
    ]
    return [chart for chart in found if chart is not None]


def _charts(run: RunFolder, kind: str) -> list[Chart]:
    report, unit = run.report, str(run.report.domain["unit"])
    confidence = float(report.settings["confidence"])
    if kind == "distribution":
        return quantity_charts(run)
    if kind == "groups":
        parts = divisions(run.inputs, confidence, report.model.get("class_names"))
        found = [charts.division_chart(f"fig-{i}", division, unit) for i, division in enumerate(parts)]
    elif kind == "calibration":
        right = calibration(run.inputs, confidence)
        found = [None if right is None else charts.calibration_chart(right)]
    else:
        found = [charts.profile_chart(report) if kind == "profile" else charts.scale_chart(report, run.inputs)]
    return [chart for chart in found if chart is not None]


def _contrast(run: RunFolder) -> Figure:
    from fimaudit.report.notebook_figure import NotebookFigure

    pairs = Counter((s.contrast.from_, s.contrast.to) for s in run.inputs if s.contrast is not None)
    if not pairs:
        raise UsageError(
            "this run holds no contrast: answers that do not change measurably have none, and labels alone have none"
        )
    busy = Counter(k for pair, n in pairs.items() for k in pair for _ in range(n))
    classes = sorted(k for k, _ in busy.most_common(MOST_CLASSES))
    matrix = np.array([[pairs.get((a, b), 0) for b in classes] for a in classes])
    figure = NotebookFigure(figsize=(4.5, 4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="Blues")
    names = [class_name(run.report, k) if run.report.model.get("class_names") else str(k) for k in classes]
    axes.set_xticks(range(len(classes)), names, rotation=0 if max(map(len, names)) < 4 else 45)
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="class that gains", ylabel="class that loses")
    axes.spines[:].set_visible(False)
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="inputs", shrink=0.8)
    return figure


def _worst_pictures(run: RunFolder) -> Figure | None:
    """The most sensitive inputs themselves, where the run keeps them and they are pictures."""
    from fimaudit.report.notebook_figure import NotebookFigure

    kept = read_shown(run.folder)
    pictures = [(s, as_picture(kept[s.index].x)) for s in most_sensitive(run.ranked) if s.index in kept]
    shown = [(s, p) for s, p in pictures if p is not None]
    if not shown:
        return None
    rows, across = -(-len(shown) // 4), min(4, len(shown))
    figure = NotebookFigure(figsize=(1.6 * across, 1.9 * rows), layout="constrained")
    for place, (s, picture) in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, across, place)
        span = float(np.ptp(picture)) or 1.0
        axes.imshow(((picture - picture.min()) / span).squeeze(), cmap="gray")
        axes.set_title(f"input {s.index}\nradius {number(s.margin_radius.value)}", fontsize=7)
        axes.axis("off")
    return figure


def _worst_chart(run: RunFolder) -> Chart:
    chosen = most_sensitive(run.ranked)
    if not chosen:
        raise UsageError("this run holds no input that could be measured")
    name = "margin_radius" if chosen[0].margin_radius.value is not None else "spectral_norm"
    axis = f"margin radius ({run.report.domain['unit']})" if name == "margin_radius" else "spectral norm (1 / unit²)"
    cells = [(f"input {s.index}", getattr(s, name)) for s in chosen]
    chart = charts.interval_chart("fig-worst", "The most sensitive inputs", axis, cells, ["input", "value", ""])
    if chart is None:
        raise UsageError("this run holds no input with a value above 0")
    return chart
