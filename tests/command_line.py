"""Commands and scripts in the tests' own process: another one takes seconds to import everything anew."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import fimaudit.cli

__all__ = ["Ended", "run_command", "run_script"]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*words: object, cwd: Path | None = None) -> Ended:
    """Run ``fimaudit WORDS`` in a folder; what escapes it fails the test."""
    return _ended(fimaudit.cli.main, ["fimaudit", *map(str, words)], cwd)


def run_script(script: Path, *words: object, cwd: Path | None = None) -> Ended:
    """Run ``python SCRIPT WORDS`` in a folder; what escapes it fails the test, and so does a warning."""

    def main() -> None:
        runpy.run_path(str(script), run_name="__main__")

    return _ended(main, [str(script), *map(str, words)], cwd)


def _ended(main: Callable[[], object], argv: list[str], cwd: Path | None) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        if cwd is not None:
            patched.chdir(cwd)
        patched.setenv("NO_PROXY", "127.0.0.1")
        patched.setattr(sys, "argv", argv)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())
