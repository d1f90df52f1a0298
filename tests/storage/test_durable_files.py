"""Files that are whole or absent, synced before they are renamed, and refusals of the system as sentences."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from fimaudit.errors import FimauditError, RunFolderError, StorageFailure
from fimaudit.storage.durable_files import AppendedFile, SyncClock, last_resort, reading, replacing, writing


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path: Path, monkeypatch) -> None:
    steps = []
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(os.readlink(f"/proc/self/fd/{handle}")))
    renamed = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: steps.append("rename") or renamed(self, to))
    with replacing(tmp_path / "report.json") as file:
        file.write(b"new")
    assert steps == [str(tmp_path / "report.json.tmp"), "rename", str(tmp_path)]


def test_a_file_that_could_not_be_written_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def fill_the_disk() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageFailure, match=r"cannot write .*: No space left on device; what was kept before is whole: free"
    ):
        fill_the_disk()
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space on that disk"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.EROFS, "make that disk writable"),
        (errno.EIO, "check that disk"),
    ],
)
def test_each_refusal_says_what_is_safe_and_what_to_do(tmp_path: Path, number: int, remedy: str) -> None:
    for refusal in (StorageFailure, RunFolderError):
        with pytest.raises(refusal) as raised, writing(tmp_path, refusal):
            raise OSError(number, os.strerror(number))
        said = str(raised.value)
        assert "what was kept before is whole" in said
        assert f"{remedy}" in said
        assert said.endswith("then type the same command again (audit and validate with resume=True)")  # as Python says it


def test_a_read_error_is_no_sign_of_damage(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot read .*Input/output error"), reading(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(OSError, match="thrift"), reading(tmp_path):  # what pyarrow says of a damaged file
        raise OSError("Couldn't deserialize thrift")


def test_a_closed_pipe_is_not_the_disks_fault() -> None:
    with pytest.raises(BrokenPipeError), last_resort():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(FimauditError, match="cannot read or write a/b"), last_resort():
        raise OSError(errno.EIO, "Input/output error", "a/b")
    with pytest.raises(FimauditError, match="cannot read or write a file or connection: error stat"), last_resort():
        raise OSError("error stat()ing file")  # as pyarrow says it


def test_bytes_that_the_system_takes_bit_by_bit_are_all_written(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "journal.jsonl")
    whole = file._file

    class Slow:
        def write(self, data):
            return whole.write(data[:3])

        def __getattr__(self, name):
            return getattr(whole, name)

    file._file = Slow()
    file.append(b"0123456789\n")
    file.append(b"and more\n")
    file.close()
    assert (tmp_path / "journal.jsonl").read_bytes() == b"0123456789\nand more\n"


def test_a_file_that_grows_is_synced_once_a_second_whatever_the_clock_says(tmp_path: Path, monkeypatch) -> None:
    now, synced = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -1e9 * now[0])  # the machine's time goes back and forth
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(now[0]))
    file = AppendedFile(tmp_path / "journal.jsonl")
    for now[0] in (0.0, 0.5, 0.9, 1.1, 1.2, 2.3):
        file.append(b"line\n")
    file.append(b"line\n", sync=True)
    file.append(b"line\n", sync=False)
    file.close()
    assert synced == [0.0, 1.1, 2.3, 2.3]


@pytest.mark.parametrize(("seconds", "due"), [(0.0, [True, True]), (float("inf"), [True, False])])
def test_always_and_only_once(seconds: float, due: list[bool]) -> None:
    clock = SyncClock(seconds)
    assert [clock.due(), clock.due()] == due
