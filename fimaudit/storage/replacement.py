"""A run that is about to be replaced lies aside until its successor has measured something."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from fimaudit.errors import RunFolderError

__all__ = ["ASIDE", "MOVING", "lock", "put_back", "remove", "set_aside"]

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
    moving.rename(folder / ASIDE)


def put_back(folder: Path, names: Sequence[str]) -> None:
    """Undo ``set_aside``, finished or not; what stands in the place of a finished one goes. May be killed and repeated."""
    aside, moving = folder / ASIDE, folder / MOVING
    if aside.exists():
        remove(folder, names)
        aside.rename(moving)
    if moving.exists():
        for path in moving.iterdir():
            path.rename(folder / path.name)
        moving.rmdir()


def remove(folder: Path, names: Sequence[str]) -> None:
    """Delete files and folders of a run."""
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def lock(file: IO[str], folder: Path) -> None:
    """Hold the run for this process as long as ``file`` is open, where the system has such locks.

    Raises:
        RunFolderError: another process holds it.
    """
    if sys.platform == "win32":  # no flock: an endpoint's ledger has a lock of its own
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(f"{folder} is in use by another process; wait for that run to end") from None
    except OSError:  # a file system without locks
        return
