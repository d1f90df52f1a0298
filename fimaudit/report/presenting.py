"""What a report does for people: its worst inputs, plots, page and verdict, wherever its inputs lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fimaudit.audit_report import PlotKind, Report
from fimaudit.errors import RunFolderError
from fimaudit.report.shown import most_sensitive
from fimaudit.results import Sensitivity
from fimaudit.storage.durable_files import write_whole
from fimaudit.storage.run_folder import PAGE_WORST, run_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fimaudit.policy.gate import Verdict

__all__ = ["gate", "html", "inputs", "plot", "worst"]


def worst(report: Report, k: int) -> list[Sensitivity]:
    """See ``Report.worst``."""
    return most_sensitive(run_of(report, whole=k > PAGE_WORST).ranked, k)


def inputs(report: Report) -> list[Sensitivity]:
    """All inputs, those of a large run from its folder."""
    return list(run_of(report).inputs)


def plot(report: Report, kind: PlotKind) -> Figure:
    """See ``Report.plot``."""
    from fimaudit.report.plots import figure_of

    return figure_of(run_of(report), kind)


def html(report: Report, path: str | Path | None) -> str:
    """See ``Report.html``."""
    from fimaudit.report.page import page_html, page_run

    kept = report.folder is not None and (report.folder / "report.json").exists()
    text = page_html(page_run(report.folder) if kept and report.folder is not None else run_of(report))
    if path is not None:
        write_whole(Path(path), text.encode(), RunFolderError)
    return text


def gate(report: Report, policy: str | Path, baseline: str | Path | None) -> Verdict:
    """See ``Report.gate``."""
    from fimaudit.policy.gate import baseline_run, decide
    from fimaudit.policy.rules import read_policy

    checked = read_policy(policy)
    return decide(run_of(report), checked, baseline_run(checked, policy, baseline))
