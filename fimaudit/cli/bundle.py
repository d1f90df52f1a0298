"""``fimaudit bundle``: a run as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import Folder
from fimaudit.cli.output import OutputFlags

__all__ = ["bundle"]


@in_blocks
def bundle(
    output: OutputFlags,
    folder: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="The archive to write.")] = Path("evidence.zip"),
    key: Annotated[Path | None, typer.Option(help="Ed25519 private key in PEM, to sign with.")] = None,
    signer: Annotated[str | None, typer.Option(help="Who signs.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Run folder that the policy's ratio rules divide by.")] = None,
    template: Annotated[
        str | None,
        typer.Option(help="Set the run beside the topics of a standard, as a section of the page: 24029-3."),
    ] = None,
) -> None:
    """Pack report, inputs, ledger, policy and verdict into one archive with a manifest of SHA-256 sums."""
    from fimaudit.evidence.bundle import write_bundle

    archive = write_bundle(folder, out, key=key, signer=signer, baseline=baseline, template=template)
    output.write(lambda: {"archive": str(archive)}, lambda: print(archive))
