"""How to go on with a run that ended early."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from fimaudit.cli.terminal import Terminal
from fimaudit.errors import RunError
from fimaudit.storage.durable_files import last_resort
from fimaudit.storage.journal import JOURNAL

__all__ = ["resumable", "resume_command"]


@contextmanager
def resumable(out: Path, command: str) -> Iterator[None]:
    """Around a run in ``out``: a failure or an interruption says which command goes on with it, where anything was kept."""
    try:
        with last_resort():
            yield
    except RunError as error:
        if (out / JOURNAL).exists():
            error.add_note(f"resume with: {command}")
        raise
    except KeyboardInterrupt:
        kept = (out / JOURNAL).exists()
        shell = Terminal(stderr=True, highlight=False, soft_wrap=True)
        said = "finished inputs are kept" if kept else "nothing was measured yet"
        shell.print(f"fimaudit: interrupted; {said}", markup=False)
        if kept:
            shell.print(f"resume with: {command}", markup=False)
        raise typer.Exit(130) from None


def resume_command() -> str:
    """The command line of this process, as it goes on with the run."""
    kept = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    return shlex.join(["fimaudit", *kept, "--resume"])
