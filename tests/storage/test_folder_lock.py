"""One process at a time in a run folder: with the kernel's locks, without them, and after a kill."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fimaudit.errors import RunFolderError
from fimaudit.storage import folder_lock
from fimaudit.storage.folder_lock import LOCK_FILE, FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from fimaudit.storage import folder_lock
if sys.argv[2] == "none":
    folder_lock._flock = lambda file: None
lock = folder_lock.FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture(params=["kernel", "none"])
def locks(request, monkeypatch) -> str:
    """With the kernel's locks, and on a file system that has none."""
    if request.param == "none":

        def refused(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
    return request.param


def holder(folder: Path, locks: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), locks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path, locks: str) -> None:
    first = holder(tmp_path, locks)
    with pytest.raises(RunFolderError, match=rf"in use by another process \({first.pid} on .*\); wait for that run to end"):
        FolderLock(tmp_path)
    ended(first)
    assert not any(tmp_path.iterdir())
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert not any(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path: Path, locks: str) -> None:
    first = holder(tmp_path, locks)
    os.kill(first.pid, signal.SIGKILL)
    ended(first)
    assert (tmp_path / LOCK_FILE).exists()
    with FolderLock(tmp_path), pytest.raises(RunFolderError, match="in use by another process"):
        FolderLock(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_process_with_our_own_number_that_was_killed_holds_nothing(tmp_path: Path, locks: str) -> None:
    """In a container every run may be process 1."""
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    FolderLock(tmp_path).release()


def test_of_another_machine_nothing_is_known_without_locks(tmp_path: Path, locks: str) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    if locks == "kernel":
        FolderLock(tmp_path).release()
        return
    with pytest.raises(
        RunFolderError, match=rf"\(1 on elsewhere\), or was when .* delete {tmp_path / LOCK_FILE}, then type"
    ):
        FolderLock(tmp_path)
    assert (tmp_path / LOCK_FILE).exists()


def test_a_file_that_says_nothing_is_not_taken_without_locks(tmp_path: Path, monkeypatch) -> None:
    """It may have been made a moment ago."""
    monkeypatch.setattr(folder_lock, "_flock", lambda _: None)
    (tmp_path / LOCK_FILE).touch()
    with pytest.raises(RunFolderError, match="or was when that process was killed"):
        FolderLock(tmp_path)


def test_a_lock_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot write .*No such file or directory"):
        FolderLock(tmp_path / "none")
