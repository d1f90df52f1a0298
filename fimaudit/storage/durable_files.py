"""Writing that survives a kill and a power cut, and a refusal of the operating system as one sentence.

A kill takes nothing that a system call has handed over. A power cut takes what was not synced: a file's bytes until
``fsync`` of the file, a name (new, moved, deleted) until ``fsync`` of its folder. So a file that is replaced is synced
before it is renamed, and its folder after; a file that grows is synced at most once in ``SYNC_SECONDS``, because a sync
takes milliseconds (docs/reliability.md, benchmarks/durability.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fimaudit.errors import FimauditError, RunFolderError, StorageFailure

__all__ = [
    "SYNC_SECONDS",
    "AppendedFile",
    "SyncClock",
    "last_resort",
    "reading",
    "replacing",
    "sync_folder",
    "write_whole",
    "writing",
]

#: A file that grows is synced when it grows and so long has passed since it was. benchmarks/durability.py
SYNC_SECONDS = 1.0
#: What a file system says that has no sync of folders, which then needs none or offers none.
_NO_FOLDER_SYNC = frozenset((errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF))
_REMEDIES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs that hold many files open",
    errno.EROFS: "make that disk writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


@contextmanager
def writing(path: Path, refusal: type[FimauditError] = StorageFailure) -> Iterator[None]:
    """Around whatever writes ``path``: an ``OSError`` becomes a sentence that says what is safe and what to do.

    Raises:
        StorageFailure: or ``refusal``; the operating system did not take what was written.
    """
    try:
        yield
    except StorageFailure as exc:
        raise exc if refusal is StorageFailure else refusal(str(exc)) from exc
    except OSError as exc:
        raise refusal(os_refusal("write", path, exc)) from exc


@contextmanager
def last_resort() -> Iterator[None]:
    """Around a whole command: a refusal of the operating system that nobody expected is a sentence too, not a traceback.

    Raises:
        StorageFailure: the operating system refused something; pyarrow says so without its number.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EPIPE:  # nobody reads what we print
            raise
        place = exc.filename if isinstance(exc.filename, str | os.PathLike) else "a file or connection"
        raise StorageFailure(os_refusal("read or write", Path(place), exc)) from exc


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around whatever reads ``path``: an ``OSError`` becomes a sentence, and is no sign of damage.

    Raises:
        RunFolderError: the operating system did not let us read.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno is None:  # pyarrow says so of what it read and did not understand
            raise
        raise RunFolderError(os_refusal("read", path, exc)) from exc


def os_refusal(verb: str, path: Path, exc: OSError) -> str:
    """The sentence for a refusal of the operating system.

    >>> os_refusal("write", Path("run/journal.jsonl"), OSError(errno.ENOSPC, "No space left"))  # doctest: +ELLIPSIS
    'cannot write run/journal.jsonl: No space left; what was kept before is whole: free space on that disk, then type ...
    """
    remedy = _REMEDIES.get(exc.errno or 0, "check that disk")
    return (
        f"cannot {verb} {path}: {exc.strerror or exc}; what was kept before is whole: {remedy}, then type the same command "
        "again (audit and validate with --resume)"
    )


@contextmanager
def replacing(path: Path, refusal: type[FimauditError] = StorageFailure) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` at the end of the block: at any moment the old one or the new one.

    Both its bytes and its name are on the disk when the block has ended; where it fails, ``path`` is as it was.

    Raises:
        StorageFailure: or ``refusal``; it could not be written.
    """
    beside = path.with_name(f"{path.name}.tmp")
    with writing(path, refusal):
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_whole(path: Path, data: bytes, refusal: type[FimauditError] = StorageFailure) -> None:
    """Write a file as ``replacing`` does, and make the folders above it.

    Raises:
        StorageFailure: or ``refusal``; it could not be written.
    """
    with writing(path, refusal):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, refusal) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: what was made, moved or deleted in it."""
    if sys.platform == "win32":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


class SyncClock:
    """Says when a file that grows is to be synced: when so many seconds have passed since it was.

    Args:
        seconds: 0 for every time, infinity for never.
    """

    def __init__(self, seconds: float = SYNC_SECONDS) -> None:
        self._seconds, self._synced = seconds, float("-inf")

    def due(self) -> bool:
        """Whether to sync now; the clock starts anew when so. It is the monotonic one, which no change of the time moves."""
        now = time.monotonic()
        if now - self._synced < self._seconds:
            return False
        self._synced = now
        return True


class AppendedFile:
    """A file that only grows; what was appended is in the operating system's hands when ``append`` returns.

    Args:
        path: the file; it is made where it is missing.
        sync_seconds: how often it is synced, see ``SyncClock``.

    Raises:
        StorageFailure: it cannot be opened; so do ``append``, ``sync`` and ``clear`` where the disk refuses.
    """

    def __init__(self, path: Path, *, sync_seconds: float = SYNC_SECONDS) -> None:
        self._path, self._clock = path, SyncClock(sync_seconds)
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def append(self, data: bytes, *, sync: bool | None = None) -> None:
        """Add bytes at the end, and sync: always, never, or when it is time to."""
        with writing(self._path):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            if self._clock.due() if sync is None else sync:
                os.fsync(self._file.fileno())

    def sync(self) -> None:
        """Put everything on the disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Begin at no bytes again."""
        with writing(self._path):
            self._file.truncate(0)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._file.close()
