"""What a disk may hold after the power went: the model of it that ``scripts.crash`` replays traced calls on."""

from __future__ import annotations

import random

import pytest

from scripts.crash.power_loss import Disk


def text(name: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in name.encode()) + '"'


def disk(*calls: tuple[str, str, int]) -> Disk:
    made = Disk()
    for call in calls:
        made.apply(*call)
    return made


def held(made: Disk, case: str) -> dict[str, bytes | None]:
    return made.after_a_cut(case, random.Random(0))


OPEN = ("openat", f"AT_FDCWD, {text('/r/a.tmp')}, O_WRONLY|O_CREAT|O_TRUNC, 0666", 3)
FOLDER = ("openat", f"AT_FDCWD, {text('/r')}, O_RDONLY", 4)
WRITE = ("write", f"3, {text('bytes')}, 5", 5)
SYNC, SYNC_FOLDER = ("fsync", "3", 0), ("fsync", "4", 0)
RENAME = ("rename", f"{text('/r/a.tmp')}, {text('/r/a')}", 0)


@pytest.mark.parametrize(
    ("calls", "lost", "zeros"),
    [
        ([OPEN, WRITE], {}, {"/r/a.tmp": b"\0" * 5}),
        ([OPEN, WRITE, SYNC], {}, {"/r/a.tmp": b"bytes"}),
        ([OPEN, WRITE, RENAME, FOLDER, SYNC_FOLDER], {"/r/a": b""}, {"/r/a": b"\0" * 5}),  # renamed before it was synced
        ([OPEN, WRITE, SYNC, RENAME], {}, {"/r/a": b"bytes"}),
        ([OPEN, WRITE, SYNC, RENAME, FOLDER, SYNC_FOLDER], {"/r/a": b"bytes"}, {"/r/a": b"bytes"}),
    ],
)
def test_what_was_not_synced_may_be_lost(calls, lost, zeros) -> None:
    assert held(disk(*calls), "lost") == lost
    assert held(disk(*calls), "zeros") == zeros
    assert held(disk(*calls), "mixed").keys() <= {"/r/a", "/r/a.tmp"}


def test_a_deletion_that_was_not_synced_may_be_undone() -> None:
    made = disk(OPEN, WRITE, SYNC, RENAME, FOLDER, SYNC_FOLDER, ("unlink", text("/r/a"), 0))
    assert held(made, "lost") == {"/r/a": b"bytes"}
    assert held(made, "zeros") == {}
    made.apply(*SYNC_FOLDER)
    assert held(made, "lost") == {}


def test_appended_placed_and_cut_bytes() -> None:
    append = ("openat", f"AT_FDCWD, {text('/r/j')}, O_WRONLY|O_CREAT|O_APPEND, 0666", 5)
    made = disk(append, ("write", f"5, {text('one')}, 3", 3), ("fsync", "5", 0), ("write", f"5, {text('two')}, 3", 3))
    made.apply("pwrite64", f"5, {text('X')}, 1, 4", 1)
    assert held(made, "zeros") == {"/r/j": b"one\0\0\0"}
    made.apply("fdatasync", "5", 0)
    assert held(made, "zeros") == {"/r/j": b"onetXo"}
    made.apply("ftruncate", "5, 2", 0)
    assert held(made, "zeros") == {"/r/j": b"on"}
    made.apply("write", f"9, {text('elsewhere')}, 9", 9)
    made.apply("openat", f"AT_FDCWD, {text('/r/none')}, O_RDONLY", -1)
    assert list(held(made, "zeros")) == ["/r/j"]
