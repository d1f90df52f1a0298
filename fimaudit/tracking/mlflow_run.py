"""A run folder in MLflow: its summary as metrics, its settings as parameters, its page and files as artifacts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from fimaudit.audit_report import Report
from fimaudit.errors import MissingExtraError, UsageError
from fimaudit.foreign_errors import one_line
from fimaudit.policy.formats import kept_verdict
from fimaudit.policy.verdict import Verdict
from fimaudit.report.page import render
from fimaudit.results import QUANTITY_NAMES, Interval, Quantiles
from fimaudit.storage.run_folder import PAGE, REPORT, VERDICT, RunFolder, read_run
from fimaudit.storage.tables import INPUTS_FILE

__all__ = ["log_to_mlflow", "logged_metrics", "logged_params"]

SETTINGS = ("queries", "mode", "link", "confidence", "seed", "profile", "witness", "engine")
FILES = (PAGE, REPORT, INPUTS_FILE, VERDICT, "policy.yaml", "validation.json", "calibration.svg")
#: Artifacts lie in this folder, metrics are grouped under it, and parameters begin with it.
PREFIX = "fimaudit"
#: User and password in an address.
_CREDENTIALS = re.compile(r"//[^/\s@]*@")
#: Longest parameter: what older servers take.
LONGEST = 250


def log_to_mlflow(folder: str | Path, *, pictures: bool = True) -> str:
    """Log a finished run into the active MLflow run, else into a new one; MLflow's own variables say where.

    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and ``MLFLOW_RUN_ID`` are MLflow's; so is ``mlflow.start_run()``
    around the call. Metrics are ``fimaudit/margin_radius.median`` and the like, each with ``.lower`` and ``.upper``;
    parameters ``fimaudit.queries``; artifacts lie in ``fimaudit/``, the page among them.

    Args:
        folder: the run folder; its page is rendered again.
        pictures: whether the page shows inputs themselves.

    Raises:
        MissingExtraError: mlflow is not installed.
        UsageError: no run there, or the server does not take it.

    Returns:
        the id of the MLflow run.
    """
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as exc:
        raise MissingExtraError("logging to MLflow", "mlflow", "mlflow") from exc

    run = read_run(folder)
    render(run.folder, pictures=pictures)
    try:
        with redirect_stdout(sys.stderr):  # MLflow prints there where the run can be seen, beside what a command prints
            active = mlflow.active_run()
            if active is not None:
                _log(mlflow, run)
                return str(active.info.run_id)
            with mlflow.start_run(run_name=None if _resumed() else _name(run.report)) as made:
                _log(mlflow, run)
                return str(made.info.run_id)
    except MlflowException as exc:
        where, what = (_CREDENTIALS.sub("//", str(text)) for text in (mlflow.get_tracking_uri(), exc))
        raise UsageError(f"MLflow at {where} did not take the run: {one_line(what, 300)}") from None


def logged_metrics(report: Report, verdict: Verdict | None = None) -> dict[str, float]:
    """The summary's numbers by name; what was not measured is left out."""
    found: dict[str, float] = {f"{PREFIX}/queries": report.summary.queries, f"{PREFIX}/requests": report.summary.requests}
    found[f"{PREFIX}/measured_inputs"] = report.data.get("measured", 0)
    for status, count in report.summary.statuses.items():
        found[f"{PREFIX}/status.{status}"] = count
    for name in reversed(QUANTITY_NAMES):
        found.update(_numbers(f"{PREFIX}/{name}", getattr(report.summary, name)))
        if name in report.summary.population:
            found.update(_numbers(f"{PREFIX}/population.{name}", report.summary.population[name]))
    if verdict is not None:
        found[f"{PREFIX}/policy.pass"] = float(verdict.outcome == "pass")
        for outcome in ("pass", "fail", "undecided"):
            found[f"{PREFIX}/policy.rules_{outcome}"] = sum(d.outcome == outcome for d in verdict.decisions)
    return {name: float(value) for name, value in found.items()}


def logged_params(report: Report) -> dict[str, str]:
    """What was audited, and how."""
    found: dict[str, Any] = {name: report.settings[name] for name in SETTINGS if report.settings.get(name) is not None}
    found["model"], found["adapter"] = report.model.get("name"), report.model.get("adapter")
    found["data"], found["unit"] = report.data.get("source"), report.domain.get("unit")
    return {f"{PREFIX}.{name}": str(value)[:LONGEST] for name, value in found.items() if value is not None}


def _numbers(name: str, quantiles: Quantiles) -> Iterator[tuple[str, float]]:
    for which in Quantiles.model_fields:
        cell: Interval = getattr(quantiles, which)
        for ending, value in (("", cell.value), (".lower", cell.lower), (".upper", cell.upper)):
            if value is not None:
                yield f"{name}.{which}{ending}", value


def _log(mlflow: Any, run: RunFolder) -> None:
    verdict = kept_verdict(run.folder)
    mlflow.log_params(logged_params(run.report))
    mlflow.log_metrics(logged_metrics(run.report, verdict))
    if verdict is not None:
        mlflow.set_tag(f"{PREFIX}.verdict", verdict.outcome)
    for name in FILES:
        if (run.folder / name).exists():
            mlflow.log_artifact(str(run.folder / name), PREFIX)


def _resumed() -> bool:
    """Whether MLflow's settings name the run to go on with, whose name is its own."""
    return "MLFLOW_RUN_ID" in os.environ


def _name(report: Report) -> str:
    return f"{PREFIX} {report.model.get('name')}"
