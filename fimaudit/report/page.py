"""One self-contained HTML file from a run folder: no network, charts embedded, everything from outside escaped."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChainableUndefined, Environment, PackageLoader, select_autoescape
from pydantic import ValidationError

from fimaudit.comparison.two_runs import Comparison, paired
from fimaudit.errors import RunFolderError
from fimaudit.policy.formats import OUTCOME_WORDS
from fimaudit.policy.gate import Verdict
from fimaudit.report import figures, wording
from fimaudit.report.pictures import heat_uri, picture_uri
from fimaudit.report.shown import most_sensitive, read_shown
from fimaudit.results import Report, Sensitivity, flat_row
from fimaudit.statistics.paired import column
from fimaudit.statistics.subgroups import calibration, divisions
from fimaudit.storage.durable_files import replacing, writing
from fimaudit.storage.run_folder import PAGE, VERDICT, RunFolder, first_error, read_for_page

__all__ = ["feature_name", "has_pictures", "made_here", "page_html", "render", "render_comparison"]

#: Rows in the page's own table; the rest is in ``inputs.parquet``.
MOST_ROWS = 10_000
#: More classes than this and only the busiest pairs are listed.
MOST_CLASSES = 20
MOST_PAIRS = 20
CARRYING = 6
MOST_FEATURES = 12
LEAST_SHARE = 0.01
#: Methods that measure every feature; others estimate their shares from random directions.
MEASURED_WHOLE = ("basis", "derivatives")
COLUMNS = (
    "index",
    "status",
    "predicted_class",
    "probability",
    "label",
    "group",
    "margin_radius",
    "margin_radius_lower",
    "margin_radius_upper",
    "spectral_norm",
    "spectral_norm_lower",
    "spectral_norm_upper",
    "peak_spectral_norm",
    "contrast_from",
    "contrast_to",
    "queries",
)


def render(folder: str | Path, *, pictures: bool = True) -> Path:
    """Write ``report.html`` into a run folder, from what lies there alone.

    Args:
        folder: the run folder; ``verdict.json`` and ``shown.npz`` in it are shown where present.
        pictures: whether inputs kept in ``shown.npz`` are embedded.

    Raises:
        RunFolderError: no run there, or a verdict that cannot be read.

    Returns:
        the page's path.
    """
    run = read_for_page(folder)
    path = run.folder / PAGE
    _write(path, page_html(run, pictures=pictures))
    return path


def page_html(run: RunFolder, *, pictures: bool = True) -> str:
    """The page of a run; the same folder gives the same page."""
    report, inputs = run.report, run.inputs
    confidence = float(report.settings["confidence"])
    unit = str(report.domain["unit"])
    change = wording.named_change(report)
    found = calibration(inputs, confidence)
    parts = divisions(inputs, confidence, report.model.get("class_names"))
    drawn = [
        figures.distribution_figure(
            f"fig-{name}",
            title,
            caption,
            [getattr(s, name) for s in inputs],
            label,
            large_is_missing=name == "margin_radius",
        )
        for name, title, caption, label in _distributions(unit)
    ]
    covered, unsaid = wording.scope_sentences(report, list(report.summary.statuses), {s.method for s in inputs})
    shown = _shown(run) if pictures else []
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            run=run,
            title=f"Sensitivity audit of {report.model.get('name')}",
            focus=wording.focus_sentence(report),
            unit=unit,
            verdict=_verdict(run.folder),
            outcome_words=OUTCOME_WORDS,
            change=change,
            moved={
                p: wording.moved_share(getattr(report.summary.spectral_norm, p), change) for p in ("median", "p95", "max")
            },
            calibration=found,
            distributions=[f for f in drawn if f is not None],
            divisions=[(d, figures.division_figure(f"fig-division-{i}", d, unit)) for i, d in enumerate(parts)],
            calibration_figure=figures.calibration_figure(found) if found is not None else None,
            profile=figures.profile_figure(report),
            scale_profile=figures.scale_figure(report, inputs),
            shown=shown or _shown_words(run),
            pictures=pictures,
            features=_features_of_all(report, inputs),
            features_estimated=any(s.carried_by and not s.method.startswith(MEASURED_WHOLE) for s in inputs),
            carrying=sum(bool(s.carried_by) for s in inputs),
            failed=next((s for s in inputs if s.status == "failed"), None),
            contrast=_contrasts(report, inputs),
            flags=Counter(flag for s in inputs for flag in s.flags).most_common(),
            integrity_line=wording.integrity_sentence(report),
            scope=(
                covered,
                [*unsaid, *wording.sample_sentences(len(inputs), int(report.data.get("measured", len(inputs))))],
            ),
            table=_table(run),
            **_common(),
        )
    )


def has_pictures(page: str) -> bool:
    """Whether a page was rendered with the inputs themselves, as pictures or by their features' values."""
    return 'data-inputs="shown"' in page


def made_here(page: str) -> bool:
    """Whether these very templates made the page, so that it can be rendered again to the same bytes."""
    return f'<meta name="generator" content="{_generator()}">' in page


def render_comparison(comparison: Comparison, first: RunFolder, second: RunFolder, path: str | Path) -> Path:
    """Write a comparison as a page of its own."""
    out = Path(path)
    pairs, _ = paired(first, second)
    names = ("first model", "second model")
    drawn = []
    for name, title, _, label in _distributions(comparison.unit):
        sides = [
            column([getattr(pair[k], name) for pair in pairs], float(r.report.settings["confidence"]))
            for k, r in enumerate((first, second))
        ]
        drawn.append(figures.pairs_figure(f"fig-{name}", title, sides[0], sides[1], names, label))
    text = (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            title=f"{comparison.second['name']} against {comparison.first['name']}",
            figures=[f for f in drawn if f is not None],
            surely_changed=sum(not (x.ratio.lower or 0) <= 1 <= (x.ratio.upper or np.inf) for x in comparison.changed),
            titles={name: title for name, title, _, _ in _distributions(comparison.unit)},
            report=first.report,
            **_common(),
        )
    )
    _write(out, text)
    return out


def _distributions(unit: str) -> list[tuple[str, str, str, str]]:
    return [
        (
            "margin_radius",
            "Margin radius",
            "Estimated distance to another answer: small is fragile. The band holds the interval of every quantile.",
            f"{unit}",
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


def _verdict(folder: Path) -> Verdict | None:
    path = folder / VERDICT
    if not path.exists():
        return None
    try:
        return Verdict.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        raise RunFolderError(f"{path} is no verdict of this version of fimaudit: {first_error(exc)}") from exc


def _shown_words(run: RunFolder) -> list[dict[str, Any]]:
    return [_card(run, s) for s in most_sensitive(run.ranked)]


def _shown(run: RunFolder) -> list[dict[str, Any]]:
    kept = read_shown(run.folder)
    bounds = [v if isinstance(v, int | float) else None for v in (run.report.domain[k] for k in ("lower", "upper"))]
    cards = []
    for s in most_sensitive(run.ranked):
        card = _card(run, s)
        held = kept.get(s.index)
        if held is not None:
            direction = held.direction
            card["estimated"] = direction is None
            if direction is None and held.witness is not None:
                direction = held.witness.astype(np.float64) - held.x.astype(np.float64)
            card["picture"] = picture_uri(held.x, bounds[0], bounds[1])
            if card["picture"] is not None:
                card["heat"] = None if direction is None else heat_uri(direction)
                card["witness"] = None if held.witness is None else picture_uri(held.witness, bounds[0], bounds[1])
            elif s.carried_by:
                card["features"] = _carried(run.report, held.x, s)
            elif direction is not None:
                card["features"] = _features(run.report, held.x, direction)
        cards.append(card)
    return cards


def _card(run: RunFolder, s: Sensitivity) -> dict[str, Any]:
    return {
        "input": s,
        "sentences": wording.decision_words(run.report, s),
        "picture": None,
        "heat": None,
        "witness": None,
        "features": _carried(run.report, None, s),  # names and shares alone: no data of a person
    }


def _features(report: Report, x: Any, direction: Any) -> list[tuple[str, float, float]]:
    """(feature, its value, its share of the squared direction), the largest shares first."""
    scale = np.broadcast_to(np.asarray(report.domain["scale"], dtype=float), (direction.size,))
    energy = (np.asarray(direction, dtype=float).ravel() / scale) ** 2
    total = float(energy.sum())
    names = report.data.get("feature_names") or [f"feature {i}" for i in range(direction.size)]
    order = np.argsort(-energy, kind="stable")[:CARRYING].tolist() if total > 0 else []
    return [(str(names[i]), float(np.asarray(x).ravel()[i]), float(energy[i] / total)) for i in order]


def _carried(report: Report, x: Any, s: Sensitivity) -> list[tuple[str, float | None, float]]:
    """(feature, its value, its share) of the features that the measurement itself named."""
    values = None if x is None else np.asarray(x).ravel()
    return [
        (feature_name(report, c.feature), None if values is None else float(values[c.feature]), c.share)
        for c in s.carried_by
    ]


def feature_name(report: Report, position: int) -> str:
    """The column's name where the data carry names."""
    names = report.data.get("feature_names") or []
    return str(names[position]) if position < len(names) else f"feature {position}"


def _features_of_all(report: Report, inputs: Sequence[Sensitivity]) -> list[tuple[str, int, int, float]]:
    """(feature, inputs it carries most, inputs that name it, its mean share over all of them), the largest first."""
    measured = [s for s in inputs if s.carried_by]
    if not measured:
        return []
    first = Counter(s.carried_by[0].feature for s in measured)
    named: Counter[int] = Counter()
    total: dict[int, float] = {}
    for s in measured:
        for c in s.carried_by:
            named[c.feature] += 1
            total[c.feature] = total.get(c.feature, 0.0) + c.share
    large = [j for j in total if total[j] >= LEAST_SHARE * len(measured)]
    order = sorted(large, key=lambda j: (-total[j], j))[:MOST_FEATURES]
    return [(feature_name(report, j), first[j], named[j], total[j] / len(measured)) for j in order]


def _contrasts(report: Report, inputs: Sequence[Sensitivity]) -> dict[str, Any] | None:
    """How many inputs trade probability between two classes: a matrix for few classes, a list for many."""
    pairs = Counter(tuple(sorted((s.contrast.from_, s.contrast.to))) for s in inputs if s.contrast is not None)
    if not pairs:
        return None
    classes = sorted({k for pair in pairs for k in pair})
    most = max(pairs.values())
    listed = [
        (wording.class_name(report, a), wording.class_name(report, b), n) for (a, b), n in pairs.most_common(MOST_PAIRS)
    ]
    if len(classes) > MOST_CLASSES or len(classes) < 3:
        return {"matrix": None, "pairs": listed, "left_out": max(0, len(pairs) - MOST_PAIRS)}
    rows = [
        (wording.class_name(report, a), [(pairs.get((min(a, b), max(a, b)), 0) if a != b else None) for b in classes])
        for a in classes
    ]
    return {"matrix": rows, "most": most, "pairs": listed, "left_out": 0}


def _table(run: RunFolder) -> dict[str, Any]:
    """The inputs as columns, the most sensitive first where there are too many for the page."""
    inputs: Sequence[Sensitivity] = run.ranked
    if len(inputs) > MOST_ROWS:
        inputs = most_sensitive(inputs, MOST_ROWS)
    rows = [flat_row(s) for s in inputs]
    columns = {name: [_short(row[name]) for row in rows] for name in COLUMNS}
    columns["flags"] = [" ".join(s.flags) or None for s in inputs]
    kept = [name for name, values in columns.items() if name == "index" or any(v is not None for v in values)]
    of = run.report.data.get("measured", len(run.inputs))
    return {"rows": len(rows), "of": of, "columns": {name: columns[name] for name in kept}}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _common() -> dict[str, Any]:
    return {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "plotly": _plotly(),
        "script_hashes": [_csp_hash(_asset("page.js")), _csp_hash(_plotly())],
        "generator": _generator(),
        "number": wording.number,
        "percent": wording.percent,
        "limits": wording.interval_text,
        "share_limits": wording.share_text,
        "class_name": wording.class_name,
        "moment": wording.moment,
        "flag_words": wording.FLAG_WORDS,
        "status_words": wording.STATUS_WORDS,
        "integrity_words": wording.INTEGRITY_WORDS,
    }


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fimaudit.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    return made


@lru_cache(maxsize=4)
def _asset(name: str) -> str:
    return files("fimaudit.report").joinpath("templates", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _plotly() -> str:
    """plotly.js, the basic bundle; it must not close the script element that holds it."""
    text = files("fimaudit.report").joinpath("vendor", "plotly-basic.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@lru_cache(maxsize=1)
def _generator() -> str:
    """Version, and digest of everything that makes a page."""
    digest = hashlib.sha256(_plotly().encode())
    for part in sorted(files("fimaudit.report").iterdir(), key=lambda p: p.name):
        if part.name.endswith(".py"):
            digest.update(part.read_bytes())
    for part in sorted(files("fimaudit.report").joinpath("templates").iterdir(), key=lambda p: p.name):
        digest.update(part.read_bytes())
    return f"fimaudit {version('fimaudit')} {digest.hexdigest()[:16]}"


@lru_cache(maxsize=4)
def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _write(path: Path, text: str) -> None:
    with writing(path, RunFolderError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, RunFolderError) as file:
        file.write(text.encode())
