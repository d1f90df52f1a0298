"""``fimaudit report``: the page of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import Folder
from fimaudit.cli.output import OutputFlags

__all__ = ["report"]


@in_blocks
def report(
    output: OutputFlags,
    folder: Folder,
    pictures: Annotated[bool, typer.Option(help="Show the most sensitive inputs themselves.")] = True,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log metrics, files and page to MLflow; its environment variables say where.")
    ] = False,
) -> None:
    """Write report.html into a run folder: one file for people, without any network.

    With --mlflow the numbers, the files and the page go to MLflow too; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and
    MLFLOW_RUN_ID say where.
    """
    from fimaudit.report.page import render

    page = render(folder, pictures=pictures)
    facts = {"page": str(page)}
    if mlflow:
        from fimaudit.tracking.mlflow_run import log_to_mlflow

        facts["mlflow_run"] = log_to_mlflow(folder, pictures=pictures)

    def show() -> None:
        print(page)
        if mlflow:
            print(f"MLflow run: {facts['mlflow_run']}")

    output.write(lambda: facts, show)
