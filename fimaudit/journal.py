"""The run folder while a run is under way: each finished input is kept at once, so that a killed run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fimaudit.errors import RunFolderError
from fimaudit.results import Sensitivity

__all__ = ["Journal"]

JOURNAL = "journal.jsonl"
REPORT = "report.json"
LEDGER = "ledger.sqlite"
#: What a run that is replaced left behind.
OUTPUTS = (REPORT, "inputs.parquet", "report.html", LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm")


class Journal:
    """One line of JSON for the run, one for the pilot, one for each finished input; each is on disk before the next begins.

    Args:
        folder: the run folder; made when the first line is kept.
        identity: what makes two runs the same (model, data, settings); compared on resume.
        resume: go on with what is there.
        overwrite: throw away what is there.

    Raises:
        RunFolderError: the folder holds a run and neither is set, or the run to resume is another one.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.folder = folder
        self.steps: dict[str, Any] | None = None
        self.done: dict[int, tuple[Sensitivity, int, int]] = {}
        self._path = folder / JOURNAL
        self._identity = dict(identity)
        self._file: IO[str] | None = None
        at = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not at.is_dir():
            raise RunFolderError(f"expected a folder for the run, got a file: {at}")
        if not os.access(at, os.W_OK):
            raise RunFolderError(f"cannot write to {at}: permission denied")
        held = folder.exists() and any((folder / name).exists() for name in (JOURNAL, REPORT))
        self._goes_on = held and resume and self._read(identity)
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
            self._file = open(self._path, "a" if self._goes_on else "w", encoding="utf-8")  # noqa: SIM115
            if not self._goes_on:
                for name in OUTPUTS:
                    (self.folder / name).unlink(missing_ok=True)
        except OSError as exc:
            raise RunFolderError(f"cannot write to {self.folder}: {exc.strerror or exc}") from exc
        if not self._goes_on:
            self._write({"run": self._identity})

    def keep_steps(self, steps: Mapping[str, Any]) -> None:
        """Keep the pilot's outcome."""
        self.steps = dict(steps)
        self._write({"steps": self.steps})

    def keep(self, result: Sensitivity, rows: int, requests: int) -> None:
        """Keep one finished input with the rows and calls that it took."""
        self.done[result.index] = (result, rows, requests)
        self._write({"rows": rows, "requests": requests, "input": result.model_dump(mode="json", by_alias=True)})

    @property
    def goes_on(self) -> bool:
        """Whether this run goes on with an earlier one."""
        return self._goes_on

    def discard(self) -> None:
        """Take back what ``begin`` made, for a run that was refused before anything was measured."""
        begun = self._file is not None
        self.close()
        if not begun or self._goes_on or self.done:
            return
        for name in (JOURNAL, *OUTPUTS):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def close(self) -> None:
        """Close the file; the journal stays, so that a finished run can be resumed with a larger budget."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        self.begin()
        assert self._file is not None
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def _read(self, identity: Mapping[str, Any]) -> bool:
        """Take over what is kept; ``False`` when the run was killed before its first line was."""
        if not self._path.exists():
            raise RunFolderError(f"{self.folder} holds a report but no journal to go on from; use --overwrite to run again")
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # killed while writing: drop the broken last line
            with open(self._path, "r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        if not whole:
            return False
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            before = dict(lines[0]["run"])
        except (ValueError, IndexError, KeyError, TypeError) as exc:
            raise RunFolderError(f"{self._path} is damaged; use --overwrite to run it again") from exc
        now = json.loads(json.dumps(dict(identity)))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            what = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed)
            raise RunFolderError(f"{self.folder} holds another run ({what}); use another folder, or --overwrite")
        try:
            for line in lines[1:]:
                if "steps" in line:
                    self.steps = line["steps"]
                else:
                    result = Sensitivity.model_validate(line["input"])
                    self.done[result.index] = (result, line["rows"], line["requests"])
        except (ValueError, KeyError, TypeError) as exc:
            raise RunFolderError(f"{self._path} is damaged; use --overwrite to run it again") from exc
        return True
