"""One process at a time in a run folder: held by the kernel where the file system has locks, else by who made a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn

from fimaudit.errors import RunFolderError
from fimaudit.storage.durable_files import os_refusal

__all__ = ["LOCK_FILE", "FolderLock"]

#: There while a process uses the folder, and after it was killed until the next one ends; it says who.
LOCK_FILE = "in-use.lock"
#: Files that this process holds without the kernel's help.
_HELD: set[Path] = set()


class FolderLock:
    """The folder is this process's until ``release`` or its end, however that comes.

    ``flock`` holds it where it can: the kernel lets go when the process dies, and a network file system passes it on to its
    server. On a file system without locks whoever made the file holds it, and it is stale once its process, on the same
    machine, is gone. Of a process on another machine nothing can be known there, and the sentence says what to do.

    Args:
        folder: an existing folder.

    Raises:
        RunFolderError: another process holds it, or the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / LOCK_FILE
        self._file: IO[bytes] | None = None
        try:
            while self._file is None:
                self._file = self._made() or self._taken()
        except OSError as exc:
            raise RunFolderError(os_refusal("write", self.path, exc)) from exc
        _HELD.add(self.path)

    def release(self) -> None:
        """Let go, and leave no trace; may be called twice."""
        if self._file is None:
            return
        file, self._file = self._file, None
        _HELD.discard(self.path)
        if sys.platform == "win32":  # an open file cannot be deleted there
            file.close()
        try:
            with contextlib.suppress(OSError):  # while it is held: who waits for this very file sees that it is gone
                os.unlink(self.path)
        finally:
            file.close()

    def __enter__(self) -> FolderLock:
        """The lock, which is held already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let go."""
        self.release()

    def _made(self) -> IO[bytes] | None:
        """A file that was not there, ours; ``None`` where it was."""
        try:
            file = open(self.path, "x+b", buffering=0)  # noqa: SIM115
        except FileExistsError:
            return None
        with _closed_on_error(file):
            _sign(file)
            if _flock(file) is False:  # another process opened it since
                self._refuse(_owner(file))
        return file

    def _taken(self) -> IO[bytes] | None:
        """A file that was there, if nobody holds it; ``None`` when it went meanwhile."""
        try:
            file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None
        with _closed_on_error(file):
            who, locked = _owner(file), _flock(file)
            if locked is False:
                self._refuse(who)
            if locked is None:
                self._put_aside(who)
            elif self._is_in_place(file):
                _sign(file)
                return file
        file.close()
        return None

    def _is_in_place(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _put_aside(self, who: dict[str, object]) -> None:
        """Without locks of the kernel: make way where the process that made the file is known to be gone."""
        same_host = who.get("host") == socket.gethostname() and sys.platform != "win32"
        if self.path in _HELD or (same_host and _runs(who.get("pid"))):
            self._refuse(who)
        if not same_host:
            raise RunFolderError(
                f"{self.path.parent} is in use by another process{_named(who)}, or was when that process was killed; wait "
                f"for it to end or, if it is gone, delete {self.path}, then type the same command again"
            )
        stale = self.path.with_name(f"{LOCK_FILE}.{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(stale)  # only one process can do this to one file
            with open(stale, "rb") as moved:
                other = _owner(moved)
            if other != who:  # made by a process that was quicker
                stale.rename(self.path)
                self._refuse(other)
            stale.unlink()

    def _refuse(self, who: dict[str, object]) -> NoReturn:
        raise RunFolderError(f"{self.path.parent} is in use by another process{_named(who)}; wait for that run to end")


@contextlib.contextmanager
def _closed_on_error(file: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def _sign(file: IO[bytes]) -> None:
    """Say whose the file is; a full disk keeps nobody from a lock that the kernel holds."""
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _flock(file: IO[bytes]) -> bool | None:
    """Whether the kernel gave us the file; ``None`` where it has no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _owner(file: IO[bytes]) -> dict[str, object]:
    """Who says that the file is theirs; empty where nobody does."""
    try:
        file.seek(0)
        found = json.loads(file.read(4096))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _named(who: dict[str, object]) -> str:
    return f" ({who.get('pid')} on {who.get('host')})" if who else ""


def _runs(pid: object) -> bool:
    """Whether another process of this machine has this number."""
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
