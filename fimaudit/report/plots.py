"""Figures for papers, by matplotlib: profile, distribution, contrast, worst."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fimaudit.errors import MissingExtraError, RunFolderError, UsageError
from fimaudit.report.pictures import as_picture
from fimaudit.report.shown import most_sensitive, read_shown
from fimaudit.report.wording import class_name
from fimaudit.storage.run_folder import RunFolder, read_run

__all__ = ["KINDS", "PlotKind", "plot"]

PlotKind = Literal["profile", "distribution", "contrast", "worst"]
KINDS = get_args(PlotKind)
SUFFIXES = (".png", ".svg", ".pdf")
MAIN, MARK = "#1f5fa8", "#b3401b"
MOST_CLASSES = 40
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fimaudit",
    "svg.fonttype": "none",
}


def plot(folder: str | Path, kind: PlotKind, out: str | Path) -> Path:
    """Draw one figure of a run.

    Args:
        folder: the run folder.
        kind: ``profile`` (energy over displacement), ``distribution`` (each quantity over the inputs with its band),
            ``contrast`` (which classes trade probability), ``worst`` (the most sensitive inputs).
        out: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UsageError: an unknown kind or ending, or a run that does not hold what the figure needs.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(out)
    if kind not in KINDS:
        raise UsageError(f"expected --kind {', '.join(KINDS)}, got {kind!r}")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"expected an output file ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    run = read_run(folder)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtraError("fimaudit plot", "matplotlib", "report") from exc
    draw = {"profile": _profile, "distribution": _distribution, "contrast": _contrast, "worst": _worst}[kind]
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        draw(figure, run)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(path, dpi=200, metadata=metadata)
        except OSError as exc:
            raise RunFolderError(f"cannot write {path}: {exc.strerror or exc}") from exc
    return path


def _profile(figure: Any, run: RunFolder) -> None:
    rungs = [r for r in run.report.step.profile if r.get("energy", 0) > 0]
    if len(rungs) < 2:
        raise UsageError("this run holds no step profile: it was measured white-box, or nothing changed on any rung")
    figure.set_size_inches(4.2, 3)
    axes = figure.add_subplot()
    axes.loglog([r["displacement"] for r in rungs], [r["energy"] for r in rungs], "o-", color=MAIN, ms=4)
    if run.report.step.displacement:
        axes.axvline(run.report.step.displacement, color=MARK, ls="--", label="chosen")
        axes.legend(frameon=False)
    axes.set(xlabel=f"displacement ({run.report.domain['unit']})", ylabel="secant energy")


def _distribution(figure: Any, run: RunFolder) -> None:
    unit = run.report.domain["unit"]
    figure.set_size_inches(9, 3)
    drawn = (
        ("margin_radius", "margin radius", unit, np.inf),
        ("spectral_norm", "spectral norm", "1 / unit²", 0.0),
        ("peak_spectral_norm", "peak norm", "1 / unit²", 0.0),
    )
    for place, (name, title, label, missing) in enumerate(drawn, start=1):
        axes = figure.add_subplot(1, 3, place)
        cells = [getattr(s, name) for s in run.inputs]
        value, lower, upper = (
            np.sort([unknown if v is None else v for v in column])
            for column, unknown in (
                ([c.value for c in cells], missing),
                ([c.lower for c in cells], 0.0),
                ([c.upper for c in cells], np.inf),
            )
        )
        known = np.isfinite(value) & (value > 0)
        if known.any():
            share = 100 * (np.arange(len(value)) + 0.5) / len(value)
            low, high = value[known].min() / 10, value[known].max() * 10
            axes.fill_between(share, np.clip(lower, low, high), np.clip(upper, low, high), color=MAIN, alpha=0.22, lw=0)
            axes.plot(share[known], value[known], color=MAIN)
            axes.set_yscale("log")
        axes.set(title=title, xlabel="share of inputs (%)", ylabel=label, xlim=(0, 100))


def _contrast(figure: Any, run: RunFolder) -> None:
    pairs = Counter((s.contrast.from_, s.contrast.to) for s in run.inputs if s.contrast is not None)
    if not pairs:
        raise UsageError("this run holds no contrast: no input's answer changed measurably")
    busy = Counter(k for pair, n in pairs.items() for k in pair for _ in range(n))
    classes = sorted(k for k, _ in busy.most_common(MOST_CLASSES))
    matrix = np.array([[pairs.get((a, b), 0) for b in classes] for a in classes])
    figure.set_size_inches(4.5, 4)
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="Blues")
    names = [class_name(run.report, k) if run.report.model.get("class_names") else str(k) for k in classes]
    axes.set_xticks(range(len(classes)), names, rotation=0 if max(map(len, names)) < 4 else 45)
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="class that gains", ylabel="class that loses")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="inputs", shrink=0.8)


def _worst(figure: Any, run: RunFolder) -> None:
    chosen = most_sensitive(run.inputs)
    if not chosen:
        raise UsageError("this run holds no input that could be measured")
    kept = read_shown(run.folder)
    pictures = [(s, as_picture(kept[s.index].x)) for s in chosen if s.index in kept]
    shown = [(s, p) for s, p in pictures if p is not None]
    if shown:
        figure.set_size_inches(1.6 * min(4, len(shown)), 1.9 * -(-len(shown) // 4))
        for place, (s, picture) in enumerate(shown, start=1):
            axes = figure.add_subplot(-(-len(shown) // 4), min(4, len(shown)), place)
            span = float(np.ptp(picture)) or 1.0
            axes.imshow(((picture - picture.min()) / span).squeeze(), cmap="gray")
            axes.set_title(f"input {s.index}\nradius {s.margin_radius}".split(" [")[0], fontsize=7)
            axes.axis("off")
        return
    figure.set_size_inches(4.5, 0.4 + 0.35 * len(chosen))
    axes = figure.add_subplot()
    name = "margin_radius" if chosen[0].margin_radius.value is not None else "spectral_norm"
    cells = [getattr(s, name) for s in chosen]
    for row, cell in enumerate(cells):
        if cell.value is not None:
            axes.plot([cell.lower or cell.value, cell.upper or cell.value], [row, row], color=MAIN)
            axes.plot(cell.value, row, "o", color=MAIN, ms=5)
    axes.set_yticks(range(len(chosen)), [f"input {s.index}" for s in chosen])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(
        f"margin radius ({run.report.domain['unit']})" if name == "margin_radius" else "spectral norm (1 / unit²)"
    )
