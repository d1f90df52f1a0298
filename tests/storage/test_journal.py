"""The run folder: who may use it, and what is left of a run that was killed at any byte."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimaudit.errors import RunFolderError
from fimaudit.models.leases import Usage
from fimaudit.results import Interval, Sensitivity
from fimaudit.storage.durable_files import AppendedFile
from fimaudit.storage.journal import FILES, FOLDERS, JOURNAL, REPORT, CountingLedger, Journal
from fimaudit.storage.replacement import ASIDE

IDENTITY = {"model": "m", "data": "d", "settings": {"seed": 0, "queries": 200}}


def result(index: int) -> Sensitivity:
    return Sensitivity(index=index, status="ok", method="rademacher", spectral_norm=Interval(value=index + 0.1), group="ä")


def written(folder: Path, inputs: int = 3) -> Path:
    journal = Journal(folder, IDENTITY, resume=False, overwrite=False)
    journal.keep_steps({"rows": 7, "requests": 2, "steps": {}})
    for index in range(inputs):
        journal.keep(result(index), 200 + index, 3)
    journal.close()
    return folder / JOURNAL


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    written(tmp_path / "run")
    journal = Journal(tmp_path / "run", IDENTITY, resume=True, overwrite=False)
    assert journal.steps == {"rows": 7, "requests": 2, "steps": {}}
    assert journal.done == {i: (result(i), 200 + i, 3) for i in range(3)}
    journal.keep(result(3), 1, 1)
    journal.close()
    assert sorted(Journal(tmp_path / "run", IDENTITY, resume=True, overwrite=False).done) == [0, 1, 2, 3]


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "run" / JOURNAL
    if not file.exists():
        written(tmp_path / "run")
        (tmp_path / "whole").write_bytes(file.read_bytes())
    whole = (tmp_path / "whole").read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    journal = Journal(tmp_path / "run", IDENTITY, resume=True, overwrite=False)
    assert (journal.steps is not None) == (lines >= 2)
    assert sorted(journal.done) == list(range(max(0, lines - 2)))
    # what is written next is whole again
    if journal.steps is None:
        journal.keep_steps({"rows": 7, "requests": 2, "steps": {}})
    for index in range(len(journal.done), 3):
        journal.keep(result(index), 200 + index, 3)
    journal.close()
    assert file.read_bytes() == whole


def test_a_folder_that_holds_a_run_is_not_taken(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(RunFolderError, match="already holds a run; use resume=True to go on with it or overwrite=True"):
        Journal(tmp_path, IDENTITY, resume=False, overwrite=False)


def test_a_folder_that_holds_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(RunFolderError, match="is not empty and holds no run"):
            Journal(tmp_path, IDENTITY, resume=resume, overwrite=False)
    journal = Journal(tmp_path, IDENTITY, resume=False, overwrite=True)
    journal.keep_steps({})
    journal.close()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_or_missing_folder_is_taken(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        journal = Journal(folder, IDENTITY, resume=False, overwrite=False)
        journal.keep_steps({})
        journal.close()
        first = json.loads((folder / JOURNAL).read_text().splitlines()[0])
        assert first == {"run": IDENTITY, "schema_version": 1}


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", IDENTITY, resume=True, overwrite=False)
    assert journal.done == {}
    journal.keep_steps({})
    journal.close()
    assert (tmp_path / "new" / JOURNAL).exists()


def old_run(folder: Path) -> dict[str, bytes]:
    """A finished run with everything that one leaves; the files' bytes by name."""
    written(folder)
    for name in FILES[1:]:
        (folder / name).write_text(f"old {name}")
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "0.npy").write_text(f"old {name}")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


OTHER = {**IDENTITY, "data": "e"}


def test_overwrite_drops_the_old_run_with_the_first_result(tmp_path: Path) -> None:
    old = old_run(tmp_path)
    journal = Journal(tmp_path, OTHER, resume=False, overwrite=True)
    assert contents(tmp_path) == old
    assert journal.done == {}
    journal.begin()
    (tmp_path / "ledger.sqlite").write_text("new")
    journal.keep_steps({})
    assert contents(tmp_path / ASIDE) == old
    assert journal.replaced == tmp_path / ASIDE
    journal.keep(result(0), 1, 1)
    journal.close()
    assert {p.name for p in tmp_path.iterdir()} == {JOURNAL, "ledger.sqlite"}
    assert journal.replaced is None


def test_a_run_that_is_refused_puts_the_old_one_back(tmp_path: Path) -> None:
    old = old_run(tmp_path)
    journal = Journal(tmp_path, OTHER, resume=False, overwrite=True)
    journal.begin()
    for name in ("ledger.sqlite", "report.json"):
        (tmp_path / name).write_text("new")
    journal.discard()
    assert contents(tmp_path) == old
    assert not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("step", range(48))
@pytest.mark.parametrize("refused", [True, False])
def test_a_kill_at_any_step_of_replacing_loses_nothing(tmp_path: Path, step: int, refused: bool, monkeypatch) -> None:
    old = old_run(tmp_path)
    kill_at(step, monkeypatch)
    journal = Journal(tmp_path, OTHER, resume=False, overwrite=True)
    with contextlib.suppress(Killed):
        journal.begin()
        if refused:
            journal.discard()
    monkeypatch.undo()
    journal.close()
    again = Journal(tmp_path, OTHER, resume=False, overwrite=True)  # as the next process would
    again.begin()
    assert contents(tmp_path / ASIDE) == old
    again.discard()
    assert contents(tmp_path) == old


class Killed(BaseException):
    """Stands for a kill."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise before the step-th change of a name in the file system."""
    steps = itertools.count()

    def counted(real):
        def change(*args, **kwargs):
            if next(steps) >= step:
                raise Killed
            return real(*args, **kwargs)

        return change

    for name in ("rename", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def test_a_run_killed_before_its_first_result_goes_on_and_then_drops_the_old_one(tmp_path: Path) -> None:
    old = old_run(tmp_path)
    journal = Journal(tmp_path, OTHER, resume=False, overwrite=True)
    journal.keep_steps({"rows": 7})
    journal.close()
    with pytest.raises(RunFolderError, match=f"the run before it lies in .*{ASIDE}"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)
    again = Journal(tmp_path, OTHER, resume=True, overwrite=False)
    assert again.steps == {"rows": 7}
    assert contents(tmp_path / ASIDE) == old
    assert sorted(Journal(tmp_path / ASIDE, IDENTITY, resume=True, overwrite=False).done) == [0, 1, 2]
    again.keep(result(0), 1, 1)
    again.close()
    assert {p.name for p in tmp_path.iterdir()} == {JOURNAL}


def test_folders_of_somebody_elses_are_not_taken_for_a_runs(tmp_path: Path) -> None:
    (tmp_path / "directions").mkdir()
    (tmp_path / "directions" / "to-the-party.txt").write_text("left, then left")
    (tmp_path / "report.html").write_text("mine")
    journal = Journal(tmp_path, IDENTITY, resume=False, overwrite=True)
    journal.keep_steps({})
    journal.discard()
    assert set(contents(tmp_path)) == {"directions/to-the-party.txt", "report.html"}
    journal = Journal(tmp_path, IDENTITY, resume=False, overwrite=True)
    journal.keep(result(0), 1, 1)
    journal.close()
    assert (tmp_path / "directions" / "to-the-party.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
@pytest.mark.parametrize("flags", [{"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}])
def test_a_run_that_is_under_way_is_left_alone(tmp_path: Path, flags: dict[str, bool]) -> None:
    live = Journal(tmp_path, IDENTITY, resume=False, overwrite=False)
    live.keep_steps({})
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="in use by another process"):
        Journal(tmp_path, IDENTITY, **flags).begin()
    assert contents(tmp_path) == before
    live.keep(result(0), 1, 1)
    live.close()
    assert sorted(Journal(tmp_path, IDENTITY, resume=True, overwrite=False).done) == [0]


def test_rows_asked_since_the_last_kept_input_are_known_after_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY, resume=False, overwrite=False)
    tally = CountingLedger(journal)
    tally.reserve(5, b"")
    assert not (tmp_path / JOURNAL).exists()  # still in the preflight: there is nothing to resume
    journal.keep_steps({})
    tally.reserve(200, b"")
    journal.keep(result(0), 200, 1)
    tally.reserve(64, b"")
    journal.close()  # killed during that call
    again = CountingLedger(Journal(tmp_path, IDENTITY, resume=True, overwrite=False))
    assert again.usage() == Usage(269, 3)


def test_rows_are_not_counted_without_the_line_that_they_were_asked_for(tmp_path: Path, monkeypatch) -> None:
    with contextlib.closing(Journal(tmp_path, IDENTITY, resume=False, overwrite=False)) as journal:
        journal.count(50)
        append = AppendedFile.append

        def full(file: AppendedFile, data: bytes, **how: object) -> None:
            if b"steps" in data:
                raise OSError(errno.ENOSPC, "No space left on device")
            append(file, data, **how)

        monkeypatch.setattr(AppendedFile, "append", full)
        with pytest.raises(OSError, match="No space"):
            journal.keep_steps({"rho": 1.0})
    monkeypatch.undo()
    with contextlib.closing(Journal(tmp_path, IDENTITY, resume=True, overwrite=False)) as again:
        assert (again.steps, again.asked.rows) == (None, 0)


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = file.read_bytes()
    other = {**IDENTITY, "settings": {"seed": 1, "queries": 200}, "data": "e"}
    with pytest.raises(RunFolderError, match=r"holds another run \(data was 'd', is 'e'; seed was 0, is 1\); use"):
        Journal(tmp_path, other, resume=True, overwrite=False)
    assert file.read_bytes() == before


def test_a_report_without_a_journal_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text("{}")
    with pytest.raises(RunFolderError, match="holds a report but no journal"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)


@pytest.mark.parametrize(
    "text",
    ["nonsense\n", "{}\n", "[]\n", '{"run": 3}\n', None],
    ids=["no JSON", "no run", "a list", "run no object", "a bad line"],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, text: str | None) -> None:
    file = written(tmp_path)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(text if text is not None else "".join([*lines[:2], '{"rows": 1}\n', *lines[3:]]))
    with pytest.raises(RunFolderError, match="is damaged; use overwrite=True to run it again"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunFolderError, match="expected a folder for the run, got a file"):
            Journal(folder, IDENTITY, resume=False, overwrite=False)


def test_nothing_is_left_behind_before_the_first_line(tmp_path: Path) -> None:
    Journal(tmp_path / "run", IDENTITY, resume=False, overwrite=False).close()
    assert not (tmp_path / "run").exists()


def test_what_a_power_cut_left_unwritten_is_cut_off(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + bytes(len(lines[3])) + lines[4])  # the middle never came to the disk
    journal = Journal(tmp_path, IDENTITY, resume=True, overwrite=False)
    assert sorted(journal.done) == [0]
    assert file.read_bytes() == b"".join(lines[:3])


def test_a_journal_from_before_versions_is_read_and_a_newer_one_is_not(tmp_path: Path) -> None:
    file = written(tmp_path)
    first, rest = file.read_text().split("\n", 1)
    old = {key: value for key, value in json.loads(first).items() if key == "run"}
    file.write_text(json.dumps(old) + "\n" + rest)
    assert sorted(Journal(tmp_path, IDENTITY, resume=True, overwrite=False).done) == [0, 1, 2]
    file.write_text(json.dumps({**old, "schema_version": 2}) + "\n" + rest)
    before = file.read_bytes()
    with pytest.raises(RunFolderError, match=r"written by a newer fimaudit \(schema_version 2, this one knows 1\); update"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)
    assert file.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_line_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    live = Journal(tmp_path, IDENTITY, resume=False, overwrite=False)
    live.keep_steps({})
    with open(tmp_path / JOURNAL, "ab") as half:
        half.write(b'{"rows": 1, ')
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(RunFolderError, match="in use by another process"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)
    assert (tmp_path / JOURNAL).read_bytes() == before
    live.close()


def test_a_run_that_another_process_began_meanwhile_is_not_mixed_with_ours(tmp_path: Path) -> None:
    ours = Journal(tmp_path / "run", IDENTITY, resume=True, overwrite=False)
    written(tmp_path / "run")
    with pytest.raises(RunFolderError, match="was used by another process meanwhile; type the same command again"):
        ours.keep_steps({})
    assert sorted(Journal(tmp_path / "run", IDENTITY, resume=True, overwrite=False).done) == [0, 1, 2]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RunFolderError, match=r"cannot write to .*permission denied; choose another folder"):
        Journal(tmp_path, IDENTITY, resume=False, overwrite=False)
