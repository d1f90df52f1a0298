"""The run folder: who may use it, and what is left of a run that was killed at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimaudit.errors import RunFolderError
from fimaudit.journal import JOURNAL, REPORT, Journal
from fimaudit.results import Interval, Sensitivity

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
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with pytest.raises(RunFolderError, match="already holds a run; use --resume to go on with it or --overwrite"):
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
        assert json.loads((folder / JOURNAL).read_text().splitlines()[0]) == {"run": IDENTITY}


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", IDENTITY, resume=True, overwrite=False)
    assert journal.done == {}
    journal.keep_steps({})
    journal.close()
    assert (tmp_path / "new" / JOURNAL).exists()


def test_overwrite_throws_the_old_run_away(tmp_path: Path) -> None:
    written(tmp_path)
    for name in (REPORT, "inputs.parquet", "report.html"):
        (tmp_path / name).write_text("old")
    journal = Journal(tmp_path, IDENTITY, resume=False, overwrite=True)
    assert journal.done == {}
    journal.keep_steps({})
    journal.close()
    assert {p.name for p in tmp_path.iterdir()} == {JOURNAL}


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = file.read_bytes()
    other = {**IDENTITY, "settings": {"seed": 1, "queries": 200}, "data": "e"}
    with pytest.raises(RunFolderError, match=r"holds another run .*data was 'd', is 'e'; settings was .*'seed': 0"):
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
    with pytest.raises(RunFolderError, match="is damaged; use --overwrite to run it again"):
        Journal(tmp_path, IDENTITY, resume=True, overwrite=False)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunFolderError, match="expected a folder for the run, got a file"):
            Journal(folder, IDENTITY, resume=False, overwrite=False)


def test_nothing_is_left_behind_before_the_first_line(tmp_path: Path) -> None:
    Journal(tmp_path / "run", IDENTITY, resume=False, overwrite=False).close()
    assert not (tmp_path / "run").exists()
