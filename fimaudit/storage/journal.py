"""The run folder while a run is under way: each finished input is kept at once, so that a killed run can go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import RunFolderError
from fimaudit.foreign_errors import translated
from fimaudit.models.leases import MemoryNotes, Usage
from fimaudit.results import Sensitivity
from fimaudit.storage.answers import ANSWERS, AnswerLog
from fimaudit.storage.durable_files import SYNC_SECONDS, AppendedFile, reading, replacing, sync_folder, writing
from fimaudit.storage.folder_lock import LOCK_FILE, FolderLock
from fimaudit.storage.jsonl import damaged, differences, first_line, line_bytes, recover_lines
from fimaudit.storage.replacement import ASIDE, MOVING, put_back, remove, set_aside

__all__ = ["CountingLedger", "Journal"]

JOURNAL = "journal.jsonl"
REPORT = "report.json"
LEDGER = "ledger.sqlite"
LEARNED = "subspace.npz"
#: What a run leaves in its folder, the journal first.
FILES = (
    JOURNAL, REPORT, LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", "inputs.parquet", "report.html", "verdict.json", "shown.npz",
    "witness.npz", "subspace.npz", ANSWERS,
)  # fmt: skip
#: And the folders, once an input was measured.
FOLDERS = ("parts", "witness", "directions")


class Journal:
    """One line of JSON for the run, one for the pilot, one for each finished input; each is whole before the next begins.

    A kill loses none of them; a power cut at most the inputs that finished in the last ``sync_seconds``.

    Args:
        folder: the run folder; made when the first line is kept.
        identity: what makes two runs the same (model, data, settings); compared on resume.
        resume: go on with what is there.
        overwrite: replace what is there. It lies aside until the first input of the new run is kept, and comes back where
            the new run is refused before.
        sync_seconds: how often finished inputs are put on the disk; everything else is at once.

    Attributes:
        steps: the pilot's outcome, once it is kept.
        structure: which directions are measured exactly, once that is kept.
        done: each finished input with the rows and calls that it took.
        focus: the inputs to measure in full after all were screened, once they are chosen.
        integrity: what the integrity checks found, once they are done.
        parts: how many parts were kept, where results do not go into the journal.
        asked: rows and calls of the whole run so far, those of an input that a kill cut off included.

    Raises:
        RunFolderError: the folder holds a run and neither is set, the run to resume is another one, or it is in use.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self.folder = folder
        self.steps: dict[str, Any] | None = None
        self.structure: dict[str, Any] | None = None
        self.done: dict[int, tuple[Sensitivity, int, int]] = {}
        self.asked = Usage()
        self.parts = 0
        self.focus: list[int] | None = None
        self.integrity: dict[str, Any] | None = None
        self._path = folder / JOURNAL
        self._identity = dict(identity)
        self._sync_seconds = sync_seconds
        self._file: AppendedFile | None = None
        self._lock: FolderLock | None = None
        self._resuming = False
        with writing(folder, RunFolderError):
            at = next(place for place in (folder, *folder.absolute().parents) if place.exists())
            if not at.is_dir():
                raise RunFolderError(f"expected a folder for the run, got a file: {at}")
            if not os.access(at, os.W_OK):
                raise RunFolderError(f"cannot write to {at}: permission denied; choose another folder or make it writable")
            self._look(resume=resume, overwrite=overwrite)

    def begin(self) -> None:
        """Open the folder for writing: only now, so that a run that is refused before it starts leaves nothing behind."""
        if not self.begun:
            self._open()
            if not self._resuming and self.asked.requests:
                self._write(self._asked_line(), sync=False)

    def _open(self) -> None:
        try:
            with writing(self.folder, RunFolderError):
                self._make_folder()
                self._lock = FolderLock(self.folder)
                if self._state() != self._found:
                    raise RunFolderError(
                        f"{self.folder} was used by another process meanwhile; type the same command again, with --resume"
                    )
                if not self._resuming:
                    self._replace()
                self._file = AppendedFile(self._path, sync_seconds=self._sync_seconds)
                if not self._resuming:
                    first_line(self._file, self._identity)
                sync_folder(self.folder)
        except BaseException:
            self._let_go()
            raise

    def keep_steps(self, steps: Mapping[str, Any]) -> None:
        """Keep the pilot's outcome."""
        self.steps = dict(steps)
        self._write({"steps": self.steps}, sync=True)

    def keep_structure(self, structure: Mapping[str, Any], learned: NDArray[np.float64] | None) -> None:
        """Keep which directions are measured exactly, the learned ones beside the journal and before its line."""
        if learned is not None:
            self.begin()
            with replacing(self.folder / LEARNED) as file:
                np.savez(file, directions=learned)
        self.structure = dict(structure)
        self._write({"structure": self.structure}, sync=True)

    def learned(self) -> NDArray[np.float64]:
        """The directions that were learned, as kept.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        path = self.folder / LEARNED
        said = f"{path} is damaged; use --overwrite to run again"
        with translated(RunFolderError, said), reading(path), np.load(path) as held:
            return np.asarray(held["directions"], dtype=np.float64)

    def keep_focus(self, indices: list[int]) -> None:
        """Keep which inputs are measured in full after all were screened."""
        self.focus = list(indices)
        self._write({"focus": self.focus}, sync=True)

    def keep_integrity(self, found: Mapping[str, Any]) -> None:
        """Keep what the integrity checks found."""
        self.integrity = dict(found)
        self._write({"integrity": self.integrity}, sync=True)

    def keep(self, result: Sensitivity, rows: int, requests: int) -> None:
        """Keep one finished input with the rows and calls that it took."""
        self.done[result.index] = (result, rows, requests)
        self._write({"rows": rows, "requests": requests, "input": result.model_dump(mode="json", by_alias=True)})
        self._drop_aside()

    def keep_part(self, inputs: int) -> None:
        """Note that a part of so many finished inputs is on disk (``parts``)."""
        self.parts += 1
        self._write({"part": inputs}, sync=True)
        self._drop_aside()

    def count_all(self, asked: Usage) -> None:
        """Take over what has been asked so far, where calls are counted elsewhere: by the workers of a cluster."""
        self.asked = Usage(asked.rows, asked.requests)
        self._write(self._asked_line(), sync=False)

    def count(self, rows: int) -> None:
        """Count a call before it is made; kept at once, where the run has come so far that it can be resumed."""
        self.asked.rows += rows
        self.asked.requests += 1
        if self.begun or self._resuming:
            self._write(self._asked_line(), sync=False)

    @property
    def replaced(self) -> Path | None:
        """Where the run that this one replaces lies, until the first input is kept."""
        return self._aside if self._aside.exists() else None

    @property
    def begun(self) -> bool:
        """Whether the folder is open for writing."""
        return self._file is not None

    @property
    def resuming(self) -> bool:
        """Whether this run goes on with an earlier one."""
        return self._resuming

    def discard(self) -> None:
        """Take back what ``begin`` made and put back what it moved: the run was refused before anything was measured."""
        if not self.begun or self._resuming or self.done or self.parts:
            self.close()
            return
        assert self._file is not None
        self._file.close()
        self._file = None
        with writing(self.folder):
            remove(self.folder, FILES)
            put_back(self.folder, FILES)
            self._let_go()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def close(self) -> None:
        """Put everything on the disk and let go of the folder; a finished run can be resumed with a larger budget."""
        try:
            if self._file is not None:
                self._file.sync()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def _aside(self) -> Path:
        return self.folder / ASIDE

    def _look(self, *, resume: bool, overwrite: bool) -> None:
        """Find out what is there; nobody else may be at it meanwhile."""
        held = any((self.folder / name).exists() for name in (JOURNAL, REPORT, ASIDE, MOVING, LOCK_FILE))
        with FolderLock(self.folder) if held else nullcontext():
            self._recover()
            held = any((self.folder / name).exists() for name in (JOURNAL, REPORT))
            self._resuming = held and resume and self._read(self._identity)
            self._found = self._state()
        if held and not resume and not overwrite:
            raise RunFolderError(
                f"{self.folder} already holds a run; use --resume to go on with it or --overwrite to replace it"
            )
        if self.folder.exists() and not held and any(self.folder.iterdir()) and not overwrite:
            raise RunFolderError(f"{self.folder} is not empty and holds no run; choose another folder or use --overwrite")

    def _state(self) -> tuple[int, int] | None:
        """What changes when another process writes the journal."""
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_size

    def _make_folder(self) -> None:
        """The folder and those above it, their names on the disk."""
        new = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in new:
            sync_folder(place.parent)

    def _recover(self) -> None:
        """Put back what a process moved aside that was killed before it began the new run."""
        moving, aside = (self.folder / MOVING).exists(), self._aside.exists()
        if not moving and not aside:
            return
        begun = False
        if self._path.exists():
            with open(self._path, "rb") as file:
                begun = file.readline().endswith(b"\n")
        if moving or not begun:
            put_back(self.folder, FILES)

    def _replace(self) -> None:
        """Move an earlier run aside; where one lies there already, nothing was measured since, and it stays."""
        present = [name for name in FILES if (self.folder / name).exists()]
        if not present:
            return
        if JOURNAL in present or REPORT in present:  # else folders of such names are somebody's own
            present += FOLDERS
        measured = False
        if self._path.exists():
            with open(self._path, "rb") as file:
                measured = any(b'"input": ' in line or b'"part": ' in line for line in file)
        if self._aside.exists() and not measured:
            remove(self.folder, FILES)
            return
        remove(self.folder, [ASIDE])
        set_aside(self.folder, present)

    def _drop_aside(self) -> None:
        """The run that this one replaces has had its time, once a result of the new one is on the disk."""
        if self._aside.exists():
            assert self._file is not None
            self._file.sync()
            with writing(self.folder):
                remove(self.folder, [ASIDE])

    def _asked_line(self) -> dict[str, Any]:
        return {"asked": [self.asked.rows, self.asked.requests]}

    def _write(self, line: Mapping[str, Any], *, sync: bool | None = None) -> None:
        """Append a line; the first one together with what was asked for it, or a kill between them leaves rows that are
        counted and say nothing.
        """
        lines = [line]
        if not self.begun:
            self._open()
            if not self._resuming and self.asked.requests and "asked" not in line:
                lines.insert(0, self._asked_line())
        assert self._file is not None
        self._file.append(b"".join(map(line_bytes, lines)), sync=sync)

    def _read(self, identity: Mapping[str, Any]) -> bool:
        """Take over what is kept; ``False`` when the run was killed before its first line was."""
        if not self._path.exists():
            raise RunFolderError(f"{self.folder} holds a report but no journal to go on from; use --overwrite to run again")
        lines = recover_lines(self._path)
        if not lines:
            return False
        what = differences(lines[0]["run"], identity)
        if what:
            aside = f" (the run before it lies in {self._aside})" if self._aside.exists() else ""
            raise RunFolderError(f"{self.folder} holds another run ({what}){aside}; use another folder, or --overwrite")
        try:
            for line in lines[1:]:
                if "steps" in line:
                    self.steps = line["steps"]
                elif "structure" in line:
                    self.structure = line["structure"]
                elif "focus" in line:
                    self.focus = [int(i) for i in line["focus"]]
                elif "integrity" in line:
                    self.integrity = line["integrity"]
                elif "part" in line:
                    self.parts += 1
                elif "asked" in line:
                    self.asked = Usage(*(int(n) for n in line["asked"]))
                else:
                    result = Sensitivity.model_validate(line["input"])
                    self.done[result.index] = (result, line["rows"], line["requests"])
        except (ValueError, KeyError, TypeError) as exc:
            raise damaged(self._path) from exc
        return True


class CountingLedger(MemoryNotes):
    """A ``Ledger`` of the meter for a model on this machine.

    Calls are counted in the journal before they are made; answers are kept beside it until their input is done.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._answers = AnswerLog(journal.folder / ANSWERS, resume=journal.resuming)
        self._keys: dict[int, bytes] = {}
        self._tickets = 0

    def usage(self) -> Usage:
        """Rows and calls of this run so far, earlier processes included."""
        return Usage(self._journal.asked.rows, self._journal.asked.requests)

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """What an earlier process was answered at an input that it did not finish."""
        return self._answers.recall(key)

    def reserve(self, rows: int, key: bytes) -> int:
        """Count a call before it is made."""
        self._journal.count(rows)
        self._tickets += 1
        self._keys[self._tickets] = key
        return self._tickets

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Keep the answers."""
        key = self._keys.pop(ticket)
        if answers is not None and key:
            self._answers.keep(key, answers)

    def finish(self, inputs: Iterable[int]) -> None:
        """See ``Ledger``."""
        self._answers.finish(inputs)

    def close(self) -> None:
        """Close the file of answers."""
        self._answers.close()
