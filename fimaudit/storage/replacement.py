"""A run that is about to be replaced lies aside until its successor has measured something."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fimaudit.storage.durable_files import sync_folder

__all__ = ["ASIDE", "MOVING", "put_back", "remove", "set_aside"]

#: Where it lies: a whole run folder, which every command takes.
ASIDE = "replaced-run"
#: Its name while files go in or come back, so that a process killed meanwhile leaves no half of either.
MOVING = "replaced-run.moving"


def set_aside(folder: Path, names: Sequence[str]) -> None:
    """Move what there is of ``names`` aside. Killed at any moment, ``put_back`` restores all of it."""
    moving = folder / MOVING
    moving.mkdir()
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(moving / name)
    sync_folder(moving)
    moving.rename(folder / ASIDE)
    sync_folder(folder)


def put_back(folder: Path, names: Sequence[str]) -> None:
    """Undo ``set_aside``, finished or not; what stands in the place of a finished one goes. May be killed and repeated."""
    aside, moving = folder / ASIDE, folder / MOVING
    if aside.exists():
        remove(folder, names)
        aside.rename(moving)
    if moving.exists():
        for path in moving.iterdir():
            path.rename(folder / path.name)
        sync_folder(folder)
        moving.rmdir()


def remove(folder: Path, names: Sequence[str]) -> None:
    """Delete files and folders of a run."""
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
