"""The settings file of adversarial-robustness-toolbox (ART), put in place whole before ART is imported.

ART's first import writes it in place, and an import that finds half of it ends in a ``NameError``: so do two processes that
start together on a fresh machine, and every process after one that was killed while it wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

__all__ = ["settings_file", "write_settings"]


def settings_file() -> Path:
    """Where ART keeps its settings: below the home folder, or below ``/tmp`` where the home may not be written."""
    home = Path.home()
    return (home if os.access(home, os.W_OK) else Path("/tmp")) / ".art" / "config.json"


def write_settings(path: Path) -> None:
    """Put ART's default settings at ``path`` in one move, unless settings that can be read are there.

    A folder that cannot be written is left alone: ART goes on without the file.
    """
    with contextlib.suppress(OSError, ValueError):
        if isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, written = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump({"ART_DATA_PATH": str(path.parent / "data")}, out, indent=4)
        os.replace(written, path)
