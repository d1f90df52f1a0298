"""Results of a large run as Parquet files that are whole or absent, and their merging without holding them in memory."""

from __future__ import annotations

import io
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import RunFolderError
from fimaudit.foreign_errors import one_line
from fimaudit.results import SCREENED, MeasuredInput, Sensitivity, Witness
from fimaudit.storage.durable_files import reading, replacing, sync_folder, writing
from fimaudit.storage.tables import INPUTS_FILE, from_table, rows_at, table_schema, to_table

__all__ = ["JUMPING", "MEASURED", "Part", "Parts", "input_state", "pack", "unpack"]

PARTS_FOLDER = "parts"
#: Rows of a row group of the merged file.
GROUP_ROWS = 8_192
#: Columns whose cells repeat; a dictionary of measured numbers would only take time and memory.
REPEATED = ["status", "kind", "method", "group", "reason"]
#: States of an input: it failed; it was measured; that, and its flags say that its answers jump. 0 is any other.
FAILED, MEASURED, JUMPING = -1, 1, 2


@dataclass(frozen=True)
class Part:
    """Some finished inputs as the bytes of a Parquet file, packed where they were measured.

    Attributes:
        data: the file: the columns of ``inputs.parquet``, ``rows`` and ``requests`` that each input took, and ``witness_x``.
        index: (inputs,) which they are, rising.
        states: (inputs,) the ``input_state`` of each.
        rows, requests: what they took.
    """

    data: bytes
    index: NDArray[np.int64]
    states: NDArray[np.int8]
    rows: int
    requests: int

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return int((self.states == FAILED).sum())


def input_state(status: str, flags: Sequence[str] | None) -> int:
    """``FAILED``, ``MEASURED``, ``JUMPING`` or 0."""
    if status != "ok":
        return FAILED if status == "failed" else 0
    return JUMPING if "jumps" in (flags or ()) else MEASURED


def pack(outcomes: Sequence[MeasuredInput]) -> Part:
    """Finished inputs as a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(outcomes, key=lambda o: o.result.index)
    table = to_table([o.result for o in ordered])
    extra = {
        "rows": pa.array([o.rows for o in ordered], pa.int64()),
        "requests": pa.array([o.requests for o in ordered], pa.int64()),
        "witness_x": pa.array([_witness_bytes(o.result.witness) for o in ordered], pa.binary()),
    }
    for name, values in extra.items():
        table = table.append_column(name, values)
    out = io.BytesIO()
    pq.write_table(table, out, use_dictionary=REPEATED)
    index = np.array([o.result.index for o in ordered], dtype=np.int64)
    states = np.array([input_state(o.result.status, o.result.flags) for o in ordered], dtype=np.int8)
    return Part(out.getvalue(), index, states, sum(o.rows for o in ordered), sum(o.requests for o in ordered))


def unpack(part: Part) -> list[MeasuredInput]:
    """The finished inputs of a part."""
    import pyarrow.parquet as pq

    return list(_outcomes(pq.read_table(io.BytesIO(part.data))))


def _outcomes(table: Any) -> Iterator[MeasuredInput]:
    costs = zip(*(table.column(name).to_pylist() for name in ("rows", "requests", "witness_x")), strict=True)
    for result, (rows, requests, witness) in zip(from_table(table), costs, strict=True):
        if witness is not None and result.witness is not None:
            result.witness.keep(np.load(io.BytesIO(witness), allow_pickle=False))
        yield MeasuredInput(result, rows, requests)


class Parts:
    """The parts of one run, in a folder of the run folder.

    Args:
        folder: the run folder.
        inputs: of the data.
        resume: take over what is there: parts, or the file that a complete run merged them into.

    Attributes:
        done: (inputs,) whether an input is finished.
        count: how many are.
        failed: how many of them failed.
        states: (inputs,) the ``input_state`` of each.

    Raises:
        RunFolderError: a part is damaged, or is of other data.
    """

    def __init__(self, folder: Path, inputs: int, *, resume: bool) -> None:
        self.folder = folder / PARTS_FOLDER
        self.done = np.zeros(inputs, dtype=bool)
        self.states = np.zeros(inputs, dtype=np.int8)
        self.count = self.failed = 0
        self._reopened = False
        self._over = folder / f"{PARTS_FOLDER}.tmp"  # merged, and on its way out when a kill came
        merged = folder / INPUTS_FILE
        if resume:
            shutil.rmtree(self._over, ignore_errors=True)
            for path in self.files() or ([merged] if merged.exists() else []):
                self._take_over(path)

    def files(self) -> list[Path]:
        """The parts on disk, by name."""
        return sorted(self.folder.glob("part-*.parquet"))

    def reopen(self, indices: NDArray[np.int64]) -> None:
        """Inputs that were only screened are to be measured again; their new results replace the old ones in the end."""
        self._reopened = True
        self.done[indices] = False
        if not self.files():  # merged by an earlier process
            again = rows_at(self.folder.parent / INPUTS_FILE, indices.tolist())
            self.done[[s.index for s in again if SCREENED not in s.flags]] = True
        for path in self._again():
            index, states = _read_states(path)
            self.done[index], self.states[index] = True, states

    def _again(self) -> list[Path]:
        """The parts of inputs that were measured again."""
        return sorted(self.folder.glob("again-*.parquet"))

    def add(self, part: Part) -> NDArray[np.int64]:
        """Keep a part; inputs that are finished already are left out, so that nothing is there twice.

        Returns:
            the indices that were new.
        """
        import pyarrow.parquet as pq

        new = ~self.done[part.index]
        index, states, data = part.index[new], part.states[new], part.data
        if not len(index):
            return index
        if not new.all():
            out = io.BytesIO()
            pq.write_table(pq.read_table(io.BytesIO(data)).filter(new), out)
            data = out.getvalue()
        if not self.folder.exists():
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder.parent)
        kind = "again" if self._reopened else "part"
        path = self.folder / f"{kind}-{int(index[0]):012d}-{int(index[-1]):012d}.parquet"
        with replacing(path) as file:
            file.write(data)
        self._note(index, states)
        self.count += 0 if self._reopened else len(index)
        return index

    def results(self, indices: Collection[int]) -> dict[int, Sensitivity]:
        """Some finished inputs, their witnesses attached where a part has them."""
        import pyarrow.parquet as pq

        wanted = np.array(sorted(indices), dtype=np.int64)
        if not self.files():  # merged by an earlier process
            merged = self.folder.parent / INPUTS_FILE
            return {s.index: s for s in rows_at(merged, wanted[self.done[wanted]].tolist())} if merged.exists() else {}
        found: dict[int, Sensitivity] = {}
        for path in [*self.files(), *self._again()]:
            first, last = (int(n) for n in path.stem.split("-")[1:])
            if ((wanted >= first) & (wanted <= last)).any():
                table = pq.read_table(path)
                of = np.isin(table.column("index").to_numpy(), wanted)
                found |= {outcome.result.index: outcome.result for outcome in _outcomes(table.filter(of))}
        return found

    def merge(self, path: Path, drifted: Collection[int] = (), revised: Mapping[int, Sensitivity] | None = None) -> None:
        """Write all finished inputs in the order of the data into one file, a few parts in memory at a time.

        A complete run's parts go then: the file has it all.

        Args:
            path: where to.
            drifted: inputs that get the flag ``drift``.
            revised: results that take the place of those that were kept.
        """
        import pyarrow.parquet as pq

        if not self.files() and self.done.any():
            return  # merged by an earlier process
        with replacing(path) as file, pq.ParquetWriter(file, table_schema(), use_dictionary=REPEATED) as writer:
            for table in self._in_order():
                whole = _replaced(table, revised) if revised else table
                flagged = _flagged(whole, drifted) if drifted else whole
                writer.write_table(flagged, row_group_size=GROUP_ROWS)
        if self.done.all():
            shutil.rmtree(self._over, ignore_errors=True)
            with writing(self.folder):  # all of them at once: those left would stand for the whole
                self.folder.rename(self._over)
                sync_folder(self.folder.parent)
            shutil.rmtree(self._over, ignore_errors=True)

    def witnesses(self) -> Iterator[MeasuredInput]:
        """Finished inputs with a witness, its displaced input attached."""
        import pyarrow.parquet as pq

        for path in [*self.files(), *self._again()]:  # screened inputs have none
            some = _columns_of(path, ["witness_x"]).column(0)
            if some.null_count < len(some):
                table = pq.read_table(path)
                having = table.filter([x is not None for x in table.column("witness_x").to_pylist()])
                yield from _outcomes(having)

    def _in_order(self) -> Iterator[Any]:
        """Tables in the order of the data, about ``GROUP_ROWS`` rows each: parts whose ranges meet are sorted together."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = table_schema().names
        group: list[Path] = []
        last, rows = -1, 0
        again = pa.concat_tables([table_schema().empty_table(), *(_columns_of(p, names) for p in self._again())])

        def together() -> Any:
            table = pa.concat_tables([_columns_of(path, names) for path in group])
            if len(again):
                old = pc.is_in(table.column("index"), again.column("index"))
                new = pc.is_in(again.column("index"), table.column("index"))
                table = pa.concat_tables([table.filter(pc.invert(old)), again.filter(new)])
            return table.sort_by("index").cast(table_schema())

        for path in self.files():
            first, end = (int(n) for n in path.stem.split("-")[1:])
            if group and first > last and rows >= GROUP_ROWS:
                yield together()
                group, rows = [], 0
            group.append(path)
            last, rows = max(last, end), rows + end - first + 1
        yield together() if group else pa.Table.from_pylist([], schema=table_schema())

    def _take_over(self, path: Path) -> None:
        try:
            with reading(path):
                index, states = _read_states(path)
            if self.done[index].any():
                raise ValueError("it holds inputs of another part")
            self._note(index, states)
            self.count += len(index)
        except RunFolderError:
            raise
        except Exception as exc:
            raise RunFolderError(f"{path} is damaged ({one_line(exc)}); delete it to measure its inputs again") from exc

    def _note(self, index: NDArray[np.int64], states: NDArray[np.int8]) -> None:
        self.done[index], self.states[index] = True, states
        self.failed += int((states == FAILED).sum())


def _read_states(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Indices of a file's inputs, and the state of each."""
    index, *columns = _columns_of(path, ["index", "status", "flags"]).columns
    each = zip(*(column.to_pylist() for column in columns), strict=True)
    return np.asarray(index.to_numpy(), np.int64), np.array([input_state(*one) for one in each], np.int8)


def _columns_of(path: Path, names: list[str]) -> Any:
    """Some columns of a part; on one thread, because each thread's allocator keeps what it once held."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(columns=names, use_threads=False)


def _replaced(table: Any, revised: Mapping[int, Sensitivity]) -> Any:
    import pyarrow as pa

    index = table.column("index").to_numpy()
    new = [revised[i] for i in index.tolist() if i in revised]
    if not new:
        return table
    kept = table.filter(~np.isin(index, list(revised)))
    return pa.concat_tables([kept, to_table(new)]).sort_by("index")


def _flagged(table: Any, drifted: Collection[int]) -> Any:
    import pyarrow as pa

    held = frozenset(drifted)
    at = table.schema.get_field_index("flags")
    pairs = zip(table.column("index").to_pylist(), table.column("flags").to_pylist(), strict=True)
    flags = [[*(old or []), "drift"] if index in held else old for index, old in pairs]
    return table.set_column(at, table.schema.field(at), pa.array(flags, table.schema.field(at).type))


def _witness_bytes(witness: Witness | None) -> bytes | None:
    if witness is None or witness.x is None:
        return None
    out = io.BytesIO()
    np.save(out, witness.x, allow_pickle=False)
    return out.getvalue()
