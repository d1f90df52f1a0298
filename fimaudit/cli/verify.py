"""``fimaudit verify``: does the evidence fit together?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["verify"]


def verify(
    evidence: Annotated[Path, typer.Argument(help="Archive written by fimaudit bundle.", metavar="EVIDENCE.ZIP")],
    key: Annotated[Path | None, typer.Option(help="The signer's Ed25519 public key in PEM.")] = None,
) -> None:
    """Check every hash and the signature, and compute summary and verdict again from the inputs: exit 1 on a mismatch."""
    from fimaudit.verification import verify_bundle

    console = Console(highlight=False, soft_wrap=True)
    findings = verify_bundle(evidence, key)
    for finding in findings:
        style = "green" if finding.fits else "red"
        console.print("fits     " if finding.fits else "mismatch ", style=style, end="")
        console.print(f"{finding.check}: {finding.sentence}", markup=False)
    if not findings[-1].fits:
        raise typer.Exit(1)
