"""``fimaudit gate``: a policy over a run; a policy from a run; a policy in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.errors import RunFolderError, UsageError

if TYPE_CHECKING:
    from fimaudit.policy.verdict import Verdict

__all__ = ["apply_policy", "gate", "show_verdict"]

STYLES = {"pass": "green", "fail": "red", "undecided": "yellow"}


@in_blocks
def gate(
    output: OutputFlags,
    folder: Annotated[Path | None, typer.Argument(help="Run folder of a finished audit.", metavar="DIR")] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="YAML file with the rules.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Run folder that ratio rules divide by.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown summary here, for a pull request.")] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Print a commented policy that a run no worse than DIR keeps, and end.")
    ] = False,
    worse_by: Annotated[float, typer.Option(help="With --init: share by which a later run may be worse.")] = 0.1,
    explain: Annotated[
        Path | None, typer.Option("--explain", metavar="POLICY", help="Read a policy file back in sentences, and end.")
    ] = None,
) -> None:
    """Decide a policy on confidence bounds: pass (exit 0), fail or undecided (exit 1).

    Keeps verdict.json and policy.yaml in the run folder and renders report.html again. A first policy:
    fimaudit gate --init DIR > policy.yaml
    """
    if explain is not None:
        _explain(output, explain)
    elif folder is None:
        raise UsageError("expected a run folder: fimaudit gate DIR --policy FILE, or --explain FILE for a policy alone")
    elif init:
        _init(output, folder, worse_by)
    elif policy is None:
        raise UsageError(f"expected --policy FILE; to make a first one: fimaudit gate --init {folder} > policy.yaml")
    else:
        verdict = apply_policy(folder, policy, baseline=baseline, junit=junit, markdown=markdown)
        output.write(lambda: verdict, lambda: show_verdict(Terminal(highlight=False), verdict))
        if verdict.outcome != "pass":
            raise typer.Exit(1)


def _explain(output: OutputFlags, policy: Path) -> None:
    from fimaudit.policy.rules import read_policy
    from fimaudit.policy.words import explain_policy

    checked = read_policy(policy)
    sentences, console = explain_policy(checked), Terminal(highlight=False)
    output.write(
        lambda: {"policy": checked, "sentences": sentences},
        lambda: print_line(console, "\n".join(sentences)),
        product=True,
    )


def _init(output: OutputFlags, folder: Path, worse_by: float) -> None:
    from fimaudit.policy.baseline_policy import policy_from_run
    from fimaudit.policy.rules import parse_policy
    from fimaudit.storage.run_folder import read_run

    text = policy_from_run(read_run(folder), worse_by)
    output.write(lambda: {"policy": parse_policy(text), "text": text}, lambda: print(text, end=""), product=True)


def apply_policy(
    folder: Path,
    policy: Path,
    *,
    baseline: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> Verdict:
    """Decide, and keep everything: in the run folder, and where else it was asked for."""
    from fimaudit.policy.formats import junit_xml, keep_verdict, markdown_summary
    from fimaudit.policy.gate import baseline_run, decide
    from fimaudit.policy.rules import read_policy
    from fimaudit.report.page import render
    from fimaudit.storage.run_folder import read_run

    checked = read_policy(policy)
    run = read_run(folder)
    beside = baseline_run(checked, policy, baseline)
    verdict = decide(run, checked, beside)
    keep_verdict(folder, verdict, policy, None if beside is None else beside.folder)
    render(folder)
    for path, text in ((junit, junit_xml), (markdown, markdown_summary)):
        if path is not None:
            try:  # in place: it may be a device or a pipe
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(verdict, run), encoding="utf-8")
            except OSError as exc:
                raise RunFolderError(f"cannot write {path}: {exc.strerror or exc}") from exc
    return verdict


def show_verdict(console: Console, verdict: Verdict) -> None:
    """A line for each rule, the warnings, and the outcome."""
    from fimaudit.policy.formats import OUTCOME_WORDS

    for d in verdict.decisions:
        print_line(console, Text.assemble((f"{d.outcome:9} ", STYLES[d.outcome]), f"{d.title}: {d.sentence}"), indent=10)
    for warning in verdict.warnings:
        print_line(console, f"warning: {warning}", "yellow")
    print_line(console, f"{verdict.outcome.upper()}: {OUTCOME_WORDS[verdict.outcome]}", STYLES[verdict.outcome])
