"""The run folder while a run is under way: each finished input is kept at once, so that a killed run can go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import RunFolderError
from fimaudit.models.meter import Usage
from fimaudit.results import Sensitivity
from fimaudit.storage.answers import ANSWERS, AnswerLog
from fimaudit.storage.jsonl import damaged, differences, recover_lines, write_line
from fimaudit.storage.replacement import ASIDE, MOVING, lock, put_back, remove, set_aside

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
    """One line of JSON for the run, one for the pilot, one for each finished input; each is on disk before the next begins.

    Args:
        folder: the run folder; made when the first line is kept.
        identity: what makes two runs the same (model, data, settings); compared on resume.
        resume: go on with what is there.
        overwrite: replace what is there. It lies aside until the first input of the new run is kept, and comes back where
            the new run is refused before.

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

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
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
        self._file: IO[str] | None = None
        at = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not at.is_dir():
            raise RunFolderError(f"expected a folder for the run, got a file: {at}")
        if not os.access(at, os.W_OK):
            raise RunFolderError(f"cannot write to {at}: permission denied")
        self._recover()
        held = folder.exists() and any((folder / name).exists() for name in (JOURNAL, REPORT))
        self._resuming = held and resume and self._read(identity)
        if held and not resume and not overwrite:
            raise RunFolderError(f"{folder} already holds a run; use --resume to go on with it or --overwrite to replace it")
        if folder.exists() and not held and any(folder.iterdir()) and not overwrite:
            raise RunFolderError(f"{folder} is not empty and holds no run; choose another folder or use --overwrite")

    def begin(self) -> None:
        """Open the folder for writing: only now, so that a run that is refused before it starts leaves nothing behind."""
        if self._file is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._resuming:
                self._replace()
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
            lock(self._file, self.folder)
        except RunFolderError:
            self.close()
            raise
        except OSError as exc:
            raise RunFolderError(f"cannot write to {self.folder}: {exc.strerror or exc}") from exc
        if not self._resuming:
            self._write({"run": self._identity})
            if self.asked.requests:
                self._write_asked()

    def keep_steps(self, steps: Mapping[str, Any]) -> None:
        """Keep the pilot's outcome."""
        self.steps = dict(steps)
        self._write({"steps": self.steps})

    def keep_structure(self, structure: Mapping[str, Any], learned: NDArray[np.float64] | None) -> None:
        """Keep which directions are measured exactly, the learned ones beside the journal and before its line."""
        if learned is not None:
            self.begin()
            beside = self.folder / f"{LEARNED}.tmp"
            with open(beside, "wb") as file:
                np.savez(file, directions=learned)
            beside.replace(self.folder / LEARNED)
        self.structure = dict(structure)
        self._write({"structure": self.structure})

    def learned(self) -> NDArray[np.float64]:
        """The directions that were learned, as kept.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        path = self.folder / LEARNED
        try:
            with np.load(path) as held:
                return np.asarray(held["directions"], dtype=np.float64)
        except (OSError, ValueError, KeyError) as exc:
            raise RunFolderError(f"{path} is missing or damaged; use --overwrite to run again") from exc

    def keep_focus(self, indices: list[int]) -> None:
        """Keep which inputs are measured in full after all were screened."""
        self.focus = list(indices)
        self._write({"focus": self.focus})

    def keep_integrity(self, found: Mapping[str, Any]) -> None:
        """Keep what the integrity checks found."""
        self.integrity = dict(found)
        self._write({"integrity": self.integrity})

    def keep(self, result: Sensitivity, rows: int, requests: int) -> None:
        """Keep one finished input with the rows and calls that it took."""
        self.done[result.index] = (result, rows, requests)
        self._write({"rows": rows, "requests": requests, "input": result.model_dump(mode="json", by_alias=True)})
        if self._aside.exists():
            remove(self.folder, [ASIDE])

    def keep_part(self, inputs: int) -> None:
        """Note that a part of so many finished inputs is on disk (``parts``)."""
        self.parts += 1
        self._write({"part": inputs})
        if self._aside.exists():
            remove(self.folder, [ASIDE])

    def count_all(self, asked: Usage) -> None:
        """Take over what has been asked so far, where calls are counted elsewhere: by the workers of a cluster."""
        self.asked = Usage(asked.rows, asked.requests)
        self._write_asked()

    def count(self, rows: int) -> None:
        """Count a call before it is made; kept at once, where the run has come so far that it can be resumed."""
        self.asked.rows += rows
        self.asked.requests += 1
        if self.begun or self._resuming:
            self._write_asked()

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
        begun = self.begun
        self.close()
        if not begun or self._resuming or self.done or self.parts:
            return
        remove(self.folder, FILES)
        put_back(self.folder, FILES)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def close(self) -> None:
        """Close the file; the journal stays, so that a finished run can be resumed with a larger budget."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _aside(self) -> Path:
        return self.folder / ASIDE

    def _recover(self) -> None:
        """Put back what a process moved aside that was killed before it began the new run."""
        moving, aside = (self.folder / MOVING).exists(), self._aside.exists()
        if not moving and not aside:
            return
        if self._path.exists():
            with open(self._path, encoding="utf-8", errors="replace") as file:
                lock(file, self.folder)
                begun = file.readline().endswith("\n")
        else:
            begun = False
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
            with open(self._path, encoding="utf-8", errors="replace") as file:
                lock(file, self.folder)
                measured = any('"input": ' in line or '"part": ' in line for line in file)
        if self._aside.exists() and not measured:
            remove(self.folder, FILES)
            return
        remove(self.folder, [ASIDE])
        set_aside(self.folder, present)

    def _write_asked(self) -> None:
        self._write({"asked": [self.asked.rows, self.asked.requests]})

    def _write(self, line: Mapping[str, Any]) -> None:
        self.begin()
        assert self._file is not None
        write_line(self._file, line)

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


class CountingLedger:
    """A ``Ledger`` of the meter for a model on this machine.

    Calls are counted in the journal before they are made; answers are kept beside it until their input is done.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._notes: dict[str, Any] = {}
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

    def note(self, name: str) -> Any:
        """A fact of this process, or ``None``."""
        return self._notes.get(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact for this process."""
        self._notes[name] = value
