"""Where finished inputs go: into memory and the journal, or, of a large run, into Parquet parts, merged at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.results import SCREENED, MeasuredInput, Sensitivity
from fimaudit.statistics.columns import Columns
from fimaudit.storage.counterexamples import gather_witnesses, keep_witness, kept_witness
from fimaudit.storage.journal import Journal
from fimaudit.storage.parts import JUMPING, MEASURED, Part, Parts, input_state, pack, unpack
from fimaudit.storage.tables import INPUTS_FILE, read_inputs_table, rows_at, write_inputs

__all__ = ["MOST_INLINE", "PART_INPUTS", "Finished", "MemoryStore", "ParquetStore", "ResultStore"]

#: Above this many inputs the report's list stays empty and readers take ``inputs.parquet``.
MOST_INLINE = 10_000
OnKept = Callable[[Iterable[int]], None]
#: A part of a run on this machine holds so many inputs at most, and waits for them so many seconds at most.
PART_INPUTS, PART_SECONDS = 1024, 10.0


@dataclass(frozen=True)
class Finished:
    """The results of a run at its end.

    Attributes:
        columns: of every finished input.
        inputs: the results themselves, where there are few enough.
        worst: the most sensitive ones.
        first_reason: why the first input failed, where all did.
    """

    columns: Columns
    inputs: list[Sensitivity]
    worst: list[Sensitivity]
    first_reason: str | None


class ResultStore(Protocol):
    """Takes finished inputs, knows which there are, and hands all of them over at the end."""

    @property
    def done(self) -> NDArray[np.bool_]:
        """(n,) whether an input is finished."""
        ...

    @property
    def count(self) -> int:
        """How many inputs are finished."""
        ...

    @property
    def failed(self) -> int:
        """How many of them failed."""
        ...

    def add(self, item: MeasuredInput | Part) -> None:
        """Take finished inputs; they survive a kill of this process soon after, at the latest after ``PART_SECONDS``."""
        ...

    def flush(self) -> None:
        """Let nothing wait any longer."""
        ...

    def columns(self) -> Columns:
        """Of the inputs that are finished so far."""
        ...

    def reopen(self, indices: NDArray[np.int64]) -> None:
        """Those of ``indices`` that were only screened are to be measured again; until then the screening stands."""
        ...

    def results(self, indices: Collection[int]) -> dict[int, Sensitivity]:
        """Those of these inputs that are finished, their witnesses attached."""
        ...

    def jumps(self) -> tuple[int, int]:
        """How many inputs were measured, and how many of these carry the flag ``jumps``."""
        ...

    def finish(self, drifted: Collection[int], most: int, revised: Mapping[int, Sensitivity] | None = None) -> Finished:
        """Write ``inputs.parquet`` where there is a run folder, and hand over the results.

        Args:
            drifted: inputs that get the flag ``drift``.
            most: of the most sensitive inputs wanted.
            revised: results that take the place of those that were kept.
        """
        ...


class MemoryStore:
    """A ``ResultStore`` with all results in memory and, where there is a journal, a line of it for each.

    Args:
        inputs: how many there are.
        journal: of the run folder, or ``None``.
        kept: called with inputs once they survive a kill of this process.
        most_inline: how many results at most are handed over as a list.
    """

    def __init__(
        self, inputs: int, journal: Journal | None, kept: OnKept | None = None, *, most_inline: int = MOST_INLINE
    ) -> None:
        self._journal, self._on_kept, self._most_inline = journal, kept, most_inline
        self._results: dict[int, Sensitivity] = {}
        self.done = np.zeros(inputs, dtype=bool)
        self.failed = 0
        self._states = np.zeros(inputs, dtype=np.int8)
        for result, _, _ in journal.done.values() if journal is not None else ():
            self._take(result)

    @property
    def count(self) -> int:
        return len(self._results)

    def add(self, item: MeasuredInput | Part) -> None:
        for outcome in unpack(item) if isinstance(item, Part) else (item,):
            if self.done[outcome.result.index]:
                continue  # it was handed over before
            self._take(outcome.result)
            if self._journal is not None:
                keep_witness(self._journal.folder, outcome.result)
                self._journal.keep(outcome.result, outcome.rows, outcome.requests)
                if self._on_kept is not None:
                    self._on_kept([outcome.result.index])

    def flush(self) -> None:
        """Nothing waits."""

    def columns(self) -> Columns:
        return Columns.of([self._results[i] for i in sorted(self._results)])

    def reopen(self, indices: NDArray[np.int64]) -> None:
        for index in indices.tolist():
            self.done[index] = SCREENED not in self._results[index].flags

    def results(self, indices: Collection[int]) -> dict[int, Sensitivity]:
        folder = None if self._journal is None else self._journal.folder
        return {i: _with_witness(self._results[i], folder) for i in sorted(indices) if i in self._results}

    def jumps(self) -> tuple[int, int]:
        return _jumps(self._states)

    def finish(self, drifted: Collection[int], most: int, revised: Mapping[int, Sensitivity] | None = None) -> Finished:
        known = {**self._results, **(revised or {})}
        results = [_flagged(known[i], drifted) for i in sorted(known)]
        if self._journal is not None:
            self._journal.begin()
            gather_witnesses(self._journal.folder, results)
            write_inputs(self._journal.folder / INPUTS_FILE, results)
        columns = Columns.of(results)
        places = columns.most_sensitive(most)
        reason = results[0].reason if results and self.failed == len(results) else None
        inline = results if len(results) <= self._most_inline else []
        return Finished(columns, inline, [results[i] for i in places], reason)

    def _take(self, result: Sensitivity) -> None:
        before = self._results.get(result.index)
        self._results[result.index] = result
        self.done[result.index] = True
        self.failed += (result.status == "failed") - (before is not None and before.status == "failed")
        self._states[result.index] = input_state(result.status, result.flags)


class ParquetStore:
    """A ``ResultStore`` with results in parts on disk; in memory there is one bit for each, and columns at the end.

    Args:
        inputs, journal, kept, most_inline: as of ``MemoryStore``.
        part_inputs: how many inputs a part holds at most.
    """

    def __init__(
        self,
        inputs: int,
        journal: Journal,
        kept: OnKept | None = None,
        *,
        most_inline: int = MOST_INLINE,
        part_inputs: int = PART_INPUTS,
    ) -> None:
        self._journal, self._on_kept = journal, kept
        self._most_inline, self._part_inputs = most_inline, part_inputs
        self._parts = Parts(journal.folder, inputs, resume=journal.resuming)
        self._waiting: list[MeasuredInput] = []
        self._since = time.monotonic()

    @property
    def done(self) -> NDArray[np.bool_]:
        return self._parts.done

    @property
    def count(self) -> int:
        return self._parts.count + len(self._waiting)

    @property
    def failed(self) -> int:
        return self._parts.failed + sum(o.result.status == "failed" for o in self._waiting)

    def add(self, item: MeasuredInput | Part) -> None:
        if isinstance(item, Part):
            self._keep(item)
            return
        if self._parts.done[item.result.index]:
            return  # it was handed over before
        self._waiting.append(item)
        if len(self._waiting) >= self._part_inputs or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def columns(self) -> Columns:
        self.flush()
        return Columns.read(self._parts.files())

    def reopen(self, indices: NDArray[np.int64]) -> None:
        self.flush()
        self._parts.reopen(indices)

    def flush(self) -> None:
        waiting, self._waiting, self._since = self._waiting, [], time.monotonic()
        if waiting:
            self._keep(pack(waiting))

    def results(self, indices: Collection[int]) -> dict[int, Sensitivity]:
        self.flush()
        found = self._parts.results(indices)
        return {i: _with_witness(result, self._journal.folder) for i, result in found.items()}

    def jumps(self) -> tuple[int, int]:
        self.flush()
        return _jumps(self._parts.states)

    def finish(self, drifted: Collection[int], most: int, revised: Mapping[int, Sensitivity] | None = None) -> Finished:
        self.flush()
        self._journal.begin()
        path = self._journal.folder / INPUTS_FILE
        witnesses = []
        for outcome in self._parts.witnesses():
            keep_witness(self._journal.folder, outcome.result)
            witnesses.append(outcome.result)
        gather_witnesses(self._journal.folder, witnesses)
        self._parts.merge(path, drifted, revised)
        columns = Columns.read(path)
        inputs = read_inputs_table(path) if len(columns) <= self._most_inline else []
        wanted = columns.index[columns.most_sensitive(most)].tolist()
        reason = (
            rows_at(path, columns.index[:1].tolist())[0].reason if len(columns) and self.failed == len(columns) else None
        )
        return Finished(columns, inputs, rows_at(path, wanted), reason)

    def _keep(self, part: Part) -> None:
        new = self._parts.add(part)
        if len(new):
            self._journal.keep_part(len(new))
        if self._on_kept is not None:
            self._on_kept(part.index.tolist())


def _jumps(states: NDArray[np.int8]) -> tuple[int, int]:
    return int((states >= MEASURED).sum()), int((states == JUMPING).sum())


def _with_witness(result: Sensitivity, folder: Path | None) -> Sensitivity:
    """The result with its witness's displaced input, as far as that is kept."""
    if folder is not None and result.witness is not None and result.witness.x is None:
        kept = kept_witness(folder, result.index)
        if kept is not None:
            result.witness.keep(kept)
    return result


def _flagged(result: Sensitivity, drifted: Collection[int]) -> Sensitivity:
    return result.model_copy(update={"flags": [*result.flags, "drift"]}) if result.index in drifted else result
