"""One self-contained HTML file from a run folder: no network, charts embedded, everything from outside escaped."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChainableUndefined, Environment, PackageLoader, select_autoescape

from fimaudit.comparison.two_runs import Comparison, paired
from fimaudit.errors import RunFolderError
from fimaudit.errors.option_names import flags_in_messages
from fimaudit.foreign_errors import translated
from fimaudit.policy.formats import OUTCOME_WORDS, kept_verdict
from fimaudit.report import charts, tables, wording
from fimaudit.report.answer import answer_of, flag_sentences
from fimaudit.report.drawing import inline_svg
from fimaudit.report.glossary import GLOSSARY, term_id
from fimaudit.report.plots import quantity_charts
from fimaudit.report.screens import screen_of
from fimaudit.report.standards import filled_table
from fimaudit.results import FLAG_WORDS
from fimaudit.statistics.paired import column
from fimaudit.statistics.subgroups import calibration, divisions
from fimaudit.storage.durable_files import write_whole
from fimaudit.storage.run_folder import PAGE, RunFolder, read_for_page

__all__ = ["has_pictures", "made_by_fimaudit", "page_html", "page_run", "render", "render_comparison"]


def render(folder: str | Path, *, pictures: bool = True, standard: str | None = None) -> Path:
    """Write ``report.html`` into a run folder, from what lies there alone.

    Args:
        folder: the run folder; ``verdict.json`` and ``shown.npz`` in it are shown where present.
        pictures: whether inputs kept in ``shown.npz`` are embedded.
        standard: set the run beside the topics of this standard, ``24029-3``.

    Raises:
        RunFolderError: no run there, or a verdict that cannot be read.
        UsageError: a standard that there is no table for.

    Returns:
        the page's path.
    """
    run = page_run(folder)
    path = run.folder / PAGE
    page = page_html(run, pictures=pictures, standard=standard).encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == page:
            return path  # it may lie where nobody can write
    write_whole(path, page, RunFolderError)
    return path


def page_run(folder: str | Path) -> RunFolder:
    """What a page shows of a run, in the words that its files hold, so that the page is the same whoever renders it."""
    with flags_in_messages():
        return read_for_page(folder)


def page_html(run: RunFolder, *, pictures: bool = True, standard: str | None = None) -> str:
    """The page of a run; the same folder gives the same page.

    Raises:
        RunFolderError: the report holds numbers that no audit finds.
    """
    with translated(RunFolderError, f"the report in {run.folder} holds what cannot be shown"):
        return _page_html(run, pictures, standard)


def _page_html(run: RunFolder, pictures: bool, standard: str | None) -> str:
    report, inputs = run.report, run.inputs
    unit = str(report.domain["unit"])
    verdict = kept_verdict(run.folder)
    covered, unsaid = wording.scope_sentences(report, list(report.summary.statuses), {s.method for s in inputs})
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            answer=answer_of(report, inputs, verdict, page=True),
            title=f"Sensitivity audit of {report.model.get('name')}",
            focus=wording.focus_sentence(report),
            unit=unit,
            verdict=verdict,
            outcome_words=OUTCOME_WORDS,
            shown=tables.sensitive_inputs(run, pictures=pictures),
            pictures=pictures,
            features=tables.features_of_all(report, inputs),
            features_estimated=any(s.carried_by and not s.method.startswith(tables.MEASURED_WHOLE) for s in inputs),
            carrying=sum(bool(s.carried_by) for s in inputs),
            contrast=tables.contrasts(report, inputs),
            scope=(
                covered,
                [*unsaid, *wording.sample_sentences(len(inputs), int(report.data.get("measured", len(inputs))))],
            ),
            table=tables.all_inputs(run),
            glossary={term_id(term): (term, words) for term, words in GLOSSARY.items()},
            **_drawn(run, unit),
            standard=None if standard is None else filled_table(standard, run),
            **_common(),
        )
    )


def _drawn(run: RunFolder, unit: str) -> dict[str, Any]:
    """The page's charts, and what they draw."""
    report, inputs = run.report, run.inputs
    confidence = float(report.settings["confidence"])
    found = calibration(inputs, confidence)
    parts = divisions(inputs, confidence, report.model.get("class_names"))
    quantities = {chart.id.removeprefix("fig-"): chart for chart in quantity_charts(run)}
    return {
        "calibration": found,
        "radius_chart": quantities.pop("margin_radius", None),
        "norm_charts": list(quantities.values()),
        "divisions": [(d, charts.division_chart(f"fig-division-{i}", d, unit)) for i, d in enumerate(parts)],
        "calibration_chart": None if found is None else charts.calibration_chart(found),
        "profile": charts.profile_chart(report),
        "scale_profile": charts.scale_chart(report, inputs),
    }


def has_pictures(page: str) -> bool:
    """Whether a page was rendered with the inputs themselves, as pictures or by their features' values."""
    return 'data-inputs="shown"' in page


def made_by_fimaudit(page: str) -> bool:
    """Whether these very templates made the page, so that it can be rendered again to the same bytes."""
    return f'<meta name="generator" content="{_generator()}">' in page


def render_comparison(comparison: Comparison, first: RunFolder, second: RunFolder, path: str | Path) -> Path:
    """Write a comparison as a page of its own."""
    out = Path(path)
    pairs, _ = paired(first, second)
    names = ("first model", "second model")
    quantities = charts.distributions(comparison.unit)
    drawn = []
    for name, title, _, label in quantities:
        sides = [
            column([getattr(pair[k], name) for pair in pairs], float(r.report.settings["confidence"]))
            for k, r in enumerate((first, second))
        ]
        drawn.append(charts.pairs_chart(f"fig-{name}", title, sides[0], sides[1], names, label))
    with flags_in_messages():  # a page is read beside a shell
        screen = screen_of(comparison)
    text = (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            screen=screen,
            title=f"{comparison.second['name']} against {comparison.first['name']}",
            charts=[chart for chart in drawn if chart is not None],
            surely_changed=sum(not (x.ratio.lower or 0) <= 1 <= (x.ratio.upper or np.inf) for x in comparison.changed),
            titles={name: title for name, title, _, _ in quantities},
            quantities={name: comparison.quantities[name] for name, *_ in quantities},
            report=first.report,
            **_common(),
        )
    )
    write_whole(out, text.encode(), RunFolderError)
    return out


def _common() -> dict[str, Any]:
    return {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "script_hash": _csp_hash(_asset("page.js")),
        "svg": inline_svg,
        "generator": _generator(),
        "number": wording.number,
        "percent": wording.percent,
        "limits": wording.interval_text,
        "share_limits": wording.share_text,
        "class_name": wording.class_name,
        "moment": wording.moment,
        "flag_words": FLAG_WORDS,
        "flag_sentences": flag_sentences,
        "term_id": term_id,
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
def _generator() -> str:
    """Version, and digest of everything that makes a page: this package, and the version of what draws."""
    digest = hashlib.sha256(version("matplotlib").encode())
    for part in sorted(files("fimaudit.report").iterdir(), key=lambda p: p.name):
        if part.name.endswith(".py"):
            digest.update(part.read_bytes())
    for part in sorted(files("fimaudit.report").joinpath("templates").iterdir(), key=lambda p: p.name):
        digest.update(part.read_bytes())
    return f"fimaudit {version('fimaudit')} {digest.hexdigest()[:16]}"


@lru_cache(maxsize=4)
def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
