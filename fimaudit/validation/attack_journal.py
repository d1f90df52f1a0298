"""The attacks of a run while they are under way: rows before they are asked, each input when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import RunFolderError
from fimaudit.models.leases import MemoryNotes, Usage
from fimaudit.storage.durable_files import AppendedFile, sync_folder
from fimaudit.storage.jsonl import damaged, differences, first_line, line_bytes, recover_lines
from fimaudit.validation.results import AttackedInput

__all__ = ["ATTACKS_JOURNAL", "AttackJournal"]

ATTACKS_JOURNAL = "attacks.jsonl"


class AttackJournal(MemoryNotes):
    """One line for the run, one for each call before it is made, one for each finished input.

    It is the ``Ledger`` of a local model's meter, so that rows that a kill cut off stay counted.

    Args:
        folder: the run folder, which holds the measurement already; ``None`` keeps nothing.
        identity: what makes two runs of the attacks the same; compared when one is resumed.
        spent: what the measurement asked, which the budget covers too.
        resume: go on with what is there; otherwise it is replaced.

    Attributes:
        done: finished inputs by position.

    Raises:
        RunFolderError: the attacks there are others, or cannot be read or written.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], spent: Usage, *, resume: bool) -> None:
        super().__init__()
        self.done: dict[int, AttackedInput] = {}
        self._spent, self._asked = spent, Usage()
        self._file: AppendedFile | None = None
        if folder is None:
            return
        path = folder / ATTACKS_JOURNAL
        resuming = resume and path.exists() and self._read(path, identity)
        self._file = AppendedFile(path)
        if not resuming:
            self._file.clear()
            first_line(self._file, identity)
            sync_folder(folder)

    def usage(self) -> Usage:
        """Rows and calls of the measurement and of the attacks so far, earlier processes included."""
        return Usage(self._spent.rows + self._asked.rows, self._spent.requests + self._asked.requests)

    def reserve(self, rows: int, key: bytes) -> int:
        """Count a call before it is made."""
        self._asked.rows += rows
        self._asked.requests += 1
        self._write({"asked": [self._asked.rows, self._asked.requests]}, sync=False)
        return self._asked.requests

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Answers of a local model are not kept."""

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """No answers are kept."""
        return None

    def finish(self, inputs: Iterable[int]) -> None:
        """No answers are kept."""

    def keep(self, result: AttackedInput) -> None:
        """Keep one finished input."""
        self.done[result.index] = result
        self._write({"input": result.model_dump(mode="json")}, sync=True)  # an attack takes far longer than a sync

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: Mapping[str, Any], *, sync: bool) -> None:
        if self._file is not None:
            self._file.append(line_bytes(line), sync=sync)

    def _read(self, path: Path, identity: Mapping[str, Any]) -> bool:
        """Take over what is kept; ``False`` when the run was killed before its first line was whole."""
        lines = recover_lines(path)
        if not lines:
            return False
        what = differences(lines[0]["run"], identity)
        if what:
            raise RunFolderError(f"{path} holds other attacks ({what}); use another folder, or --overwrite")
        try:
            for line in lines[1:]:
                if "asked" in line:
                    self._asked = Usage(*(int(n) for n in line["asked"]))
                else:
                    result = AttackedInput.model_validate(line["input"])
                    self.done[result.index] = result
        except (ValueError, KeyError, TypeError) as exc:
            raise damaged(path) from exc
        return True
