"""``fimaudit verify``: does the evidence fit together?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fimaudit.cli import options as o
from fimaudit.errors import UsageError
from fimaudit.models.classifier import open_classifier
from fimaudit.models.links import Link
from fimaudit.storage.counterexamples import recheck_witnesses

__all__ = ["verify"]


def verify(
    evidence: Annotated[
        Path, typer.Argument(help="Archive written by fimaudit bundle, or a run folder with witnesses.", metavar="EVIDENCE")
    ],
    key: Annotated[Path | None, typer.Option(help="The signer's Ed25519 public key in PEM.")] = None,
    model: Annotated[str | None, typer.Option(help="Run folder: the model, asked again about each witness.")] = None,
    link: o.LinkName = "auto",
) -> None:
    """Check every hash and the signature, and compute summary and verdict again from the inputs: exit 1 on a mismatch.

    Of a run folder: ask the model again whether each witness changes the decision.
    """
    from fimaudit.evidence.verification import verify_bundle

    console = Console(highlight=False, soft_wrap=True)
    if evidence.is_dir():
        _ask_again(console, evidence, model, link)
        return
    findings = verify_bundle(evidence, key)
    for finding in findings:
        style = "green" if finding.fits else "red"
        console.print("fits     " if finding.fits else "mismatch ", style=style, end="")
        console.print(f"{finding.check}: {finding.sentence}", markup=False)
    if not findings[-1].fits:
        raise typer.Exit(1)


def _ask_again(console: Console, folder: Path, model: str | None, link: Link) -> None:
    if model is None:
        raise UsageError(f"{folder} is a run folder: name the model that is asked again with --model TARGET")
    classifier = open_classifier(model, link)
    try:
        check = recheck_witnesses(folder, classifier)
    finally:
        classifier.close()
    held = len(check.index) - len(check.failed)
    console.print(
        f"{held} of {len(check.index)} witnesses change the decision when the model is asked again, alone and among others"
    )
    if len(check.failed):
        console.print(f"mismatch: inputs {', '.join(map(str, check.failed.tolist()[:20]))} keep their class", style="red")
        raise typer.Exit(1)
