"""``fimaudit gate``: a policy over a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fimaudit.cli import options as o
from fimaudit.errors import RunFolderError

__all__ = ["apply_policy", "gate"]

STYLES = {"pass": "green", "fail": "red", "undecided": "yellow"}


def gate(
    folder: o.Folder,
    policy: Annotated[Path, typer.Option("--policy", help="YAML file with the rules.")],
    baseline: Annotated[Path | None, typer.Option(help="Run folder that ratio rules divide by.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown summary here, for a pull request.")] = None,
) -> None:
    """Decide a policy on confidence bounds: pass (exit 0), fail or undecided (exit 1).

    Keeps verdict.json and policy.yaml in the run folder and renders report.html again.
    """
    if apply_policy(folder, policy, baseline=baseline, junit=junit, markdown=markdown) != "pass":
        raise typer.Exit(1)


def apply_policy(
    folder: Path,
    policy: Path,
    *,
    baseline: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> str:
    """Decide, print, and keep everything; the outcome in one word."""
    from fimaudit.policy.formats import OUTCOME_WORDS, junit_xml, keep_verdict, markdown_summary
    from fimaudit.policy.gate import baseline_folder, decide
    from fimaudit.policy.rules import read_policy
    from fimaudit.report.page import render
    from fimaudit.storage.run_folder import read_run

    checked = read_policy(policy)
    run = read_run(folder)
    place = baseline_folder(checked, policy, baseline)
    verdict = decide(run, checked, None if place is None else read_run(place))
    keep_verdict(folder, verdict, policy, place)
    render(folder)
    for path, text in ((junit, junit_xml), (markdown, markdown_summary)):
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(verdict, run), encoding="utf-8")
            except OSError as exc:
                raise RunFolderError(f"cannot write {path}: {exc.strerror or exc}") from exc
    console = Console(highlight=False, soft_wrap=True)
    for d in verdict.decisions:
        console.print(f"{d.outcome:9}", style=STYLES[d.outcome], end=" ")
        console.print(f"{d.name}{'' if d.selection == 'all inputs' else f' ({d.selection})'}: {d.sentence}", markup=False)
    for warning in verdict.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(f"{verdict.outcome.upper()}: {OUTCOME_WORDS[verdict.outcome]}", style=STYLES[verdict.outcome])
    return verdict.outcome
