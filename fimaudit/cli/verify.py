"""``fimaudit verify``: does the evidence fit together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import LinkName
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.errors import UsageError
from fimaudit.models.links import Link
from fimaudit.models.opening import open_classifier
from fimaudit.storage.counterexamples import recheck_witnesses

if TYPE_CHECKING:
    from fimaudit.evidence.verification import Finding

__all__ = ["verify"]


@in_blocks
def verify(
    output: OutputFlags,
    evidence: Annotated[
        Path, typer.Argument(help="Archive written by fimaudit bundle, or a run folder with witnesses.", metavar="EVIDENCE")
    ],
    key: Annotated[Path | None, typer.Option(help="The signer's Ed25519 public key in PEM.")] = None,
    model: Annotated[str | None, typer.Option(help="Run folder: the model, asked again about each witness.")] = None,
    link: LinkName = "auto",
) -> None:
    """Check every hash and the signature, and compute summary and verdict again from the inputs: exit 1 on a mismatch.

    Of a run folder: ask the model again whether each witness changes the decision.
    """
    if evidence.is_dir():
        _ask_again(output, evidence, model, link)
        return
    from fimaudit.evidence.verification import verify_bundle

    findings = verify_bundle(evidence, key)
    fits = findings[-1].fits
    output.write(
        lambda: {"fits": fits, "findings": [asdict(finding) for finding in findings]}, lambda: _show_findings(findings)
    )
    if not fits:
        raise typer.Exit(1)


def _show_findings(findings: Sequence[Finding]) -> None:
    console = Terminal(highlight=False)
    for finding in findings:
        word, style = ("fits     ", "green") if finding.fits else ("mismatch ", "red")
        print_line(console, Text.assemble((word, style), f"{finding.check}: {finding.sentence}"))


def _ask_again(output: OutputFlags, folder: Path, model: str | None, link: Link) -> None:
    if model is None:
        raise UsageError(f"{folder} is a run folder: name the model that is asked again with --model TARGET")
    classifier = open_classifier(model, link)
    try:
        check = recheck_witnesses(folder, classifier)
    finally:
        classifier.close()
    failed, count = check.failed.tolist(), len(check.index)
    output.write(lambda: {"fits": not failed, "witnesses": count, "failed": failed}, lambda: _show_witnesses(failed, count))
    if failed:
        raise typer.Exit(1)


def _show_witnesses(failed: Sequence[int], count: int) -> None:
    console = Terminal(highlight=False)
    again = "change the decision when the model is asked again, alone and among others"
    print_line(console, f"{count - len(failed)} of {count} witnesses {again}")
    if failed:
        print_line(console, f"mismatch: inputs {', '.join(map(str, failed[:20]))} keep their class", "red")
