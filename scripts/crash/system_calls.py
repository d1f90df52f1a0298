"""The system calls of a command that touch a run, and how strace disturbs one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: A line of strace's: thread, where it follows several, and name of the call.
_CALL = re.compile(r"^(?:(\d+) +)?(\w+)\(")
_OPENING = ("open", "openat", "creat")
_MAKING = ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlink")
_WRITING = ("write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync")
_READING = ("read", "pread64", "getdents64")
_NAMING = ("unlink", "unlinkat", "rmdir", "newfstatat", "stat", "fstat", "lstat", "access", "statx")
_SOCKETS = ("connect", "sendto", "sendmsg", "recvfrom", "recvmsg")
#: Which calls may fail in which way (their manual pages); a fault that a call never reports would test nothing.
FAULTS = {
    "ENOSPC": {*_OPENING, *_MAKING, *_WRITING},
    "EIO": {*_OPENING, *_MAKING, *_WRITING, *_READING, *_NAMING, *_SOCKETS},
    "EINTR": {*_OPENING, *_WRITING, *_READING, *_SOCKETS, "fcntl", "flock"},
    "EMFILE": {*_OPENING, "socket", "socketpair", "pipe2", "epoll_create1", "eventfd2", "accept4", "dup"},
}
KILL = "SIGKILL"


@dataclass(frozen=True, order=True)
class Point:
    """The ``number``-th call of ``call`` in one thread, and what happens to it.

    Attributes:
        place: ``folder`` or ``socket``: which calls are counted.
    """

    place: str
    call: str
    number: int
    fault: str

    def __str__(self) -> str:
        """As ``--only`` takes it."""
        return f"{self.place}:{self.call}:{self.number}:{self.fault}"


def watching(place: str, paths: Sequence[Path]) -> list[str]:
    """Options of strace that see the calls of a place: those that touch ``paths``, or sockets."""
    if place == "socket":
        return ["-e", "trace=%network"]
    return [option for path in paths for option in ("-P", str(path))]


def disturbing(point: Point) -> list[str]:
    """Options of strace that disturb one call."""
    what = "signal=KILL" if point.fault == KILL else f"error={point.fault}"
    return ["-e", f"inject={point.call}:{what}:when={point.number}"]


def points(place: str, trace: str) -> list[Point]:
    """Every point that a traced run passed."""
    counts: Counter[tuple[str, str]] = Counter(match.groups() for match in map(_CALL.match, trace.splitlines()) if match)
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(most.get(call, 0), count)
    return [
        Point(place, call, number, fault)
        for call, count in sorted(most.items())
        for number in range(1, count + 1)
        for fault in (KILL, *(name for name, calls in FAULTS.items() if call in calls))
    ]
