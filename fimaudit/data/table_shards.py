"""Tables a part at a time: Parquet by its row groups, others whole; and what is known of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any, Protocol

import numpy as np

from fimaudit.data.table_columns import ColumnFacts, column_facts, held_as, join_facts, kind_of, pandas_types
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import DataError

__all__ = ["ParquetTable", "RowGroups", "WholeTable", "open_parquet", "row_names", "table_facts"]

#: Rows of a part of a Parquet file: the most that pyarrow writes.
MOST_GROUP_ROWS = 1 << 26
#: Bytes of a column that are read at once for its first row.
BUFFER = 1 << 16


class RowGroups(Protocol):
    """A table that is read some rows at a time.

    Attributes:
        schema: of Arrow.
        starts: the first row of each group, and the number of rows at the end.
        written: whether its text may stand for numbers.
    """

    schema: Any
    starts: list[int]
    written: bool

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """Some columns of a group as an Arrow table."""
        ...

    def has_fractions(self, column: str) -> bool:
        """Whether a column of numbers is known, without reading it, to hold fractions."""
        ...

    def has_gaps(self, column: str) -> bool:
        """Likewise that it has missing cells."""
        ...

    def close(self) -> None: ...


class ParquetTable:
    """A Parquet file by its row groups."""

    written = False

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._file, self._table = file, open_parquet(file)
        about = self._table.metadata
        self._first_rows = pq.ParquetFile(file, metadata=about, buffer_size=BUFFER, pre_buffer=False)
        self._rows_read: set[int] = set()
        self._places = {about.schema.column(k).path: k for k in range(about.num_columns)}
        self._groups = [about.row_group(k) for k in range(about.num_row_groups)]
        self.starts: list[int] = [0, *np.cumsum([group.num_rows for group in self._groups]).tolist()]
        schema = self._table.schema_arrow
        for name in row_names(schema):
            schema = schema.remove(schema.get_field_index(name))
        self.schema = schema

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """See ``RowGroups``."""
        return self._table.read_row_group(group, columns=list(columns))

    def has_fractions(self, column: str) -> bool:
        """See ``RowGroups``: from the smallest and the largest value of a group."""
        ends = [end for one in self._statistics(column) if one.has_min_max for end in (one.min, one.max)]
        return any(isinstance(end, float) and not end.is_integer() for end in ends)

    def has_gaps(self, column: str) -> bool:
        """See ``RowGroups``."""
        return any(one.null_count for one in self._statistics(column) if one.has_null_count)

    def close(self) -> None:
        """Close the file."""
        self._table.close()
        self._file.close()

    def _statistics(self, column: str) -> list[Any]:
        """What the file says of a column, group by group, after a first row was read of each."""
        found = []
        for k, group in enumerate(self._groups if column in self._places else ()):
            self._read_first_row(k)
            statistics = group.column(self._places[column]).statistics
            if statistics is not None:
                found.append(statistics)
        return found

    def _read_first_row(self, group: int) -> None:
        """Read the first row of a group's numbers, once, a page of each in the order in which they lie in the file.

        Reading raises an error where what the file says is damaged; a look at the statistics would end the process there,
        since pyarrow does not catch what its C++ code throws at it (tests/data/test_tables_in_parts.py).
        """
        if group not in self._rows_read:
            fields = [self.schema.field(k) for k in range(len(self.schema))]
            numbers = [field.name for field in fields if kind_of(field.type) in ("whole", "truth", "number")]
            next(self._first_rows.iter_batches(1, row_groups=[group], columns=numbers, use_threads=False), None)
            self._rows_read.add(group)


class WholeTable:
    """An Arrow table in memory, as one group.

    Args:
        table: of Arrow.
        written: whether its text may stand for numbers, as that of a CSV file may.
    """

    def __init__(self, table: Any, *, written: bool) -> None:
        self._table, self.written = table, written
        self.schema, self.starts = table.schema, [0, len(table)]

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """See ``RowGroups``."""
        return self._table.select(list(columns))

    def has_fractions(self, column: str) -> bool:
        """See ``RowGroups``."""
        return False

    def has_gaps(self, column: str) -> bool:
        """See ``RowGroups``."""
        return bool(self._table.column(column).null_count)

    def close(self) -> None:
        """Nothing is held open."""


def open_parquet(file: IO[bytes]) -> Any:
    """A Parquet file whose parts hold as many rows as it says, and no more than can be read at once.

    pyarrow makes room for as many rows as a part says that it has: 600 bytes took minutes and gigabytes.

    Raises:
        DataError: they do not.
    """
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    about = table.metadata
    counts = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != about.num_rows:
        raise DataError(
            f"the parts of this Parquet file say that they hold {', '.join(map(str, counts[:3]))} rows, "
            f"the file that it holds {about.num_rows}; copy it again"
        )
    if max(counts, default=0) > MOST_GROUP_ROWS:
        raise DataError(
            f"a part of this Parquet file says that it holds {max(counts):,} rows; write parts (row groups) of at most "
            f"{MOST_GROUP_ROWS:,}"
        )
    return table


def row_names(schema: Any) -> list[str]:
    """Columns in which pandas keeps an index that has no name of its own."""
    kept = (schema.pandas_metadata or {}).get("index_columns", ())
    return [name for name in kept if isinstance(name, str) and name.startswith("__index_level_") and name in schema.names]


def table_facts(table: RowGroups, reading: TableReading, path: str) -> tuple[ColumnFacts, ...]:
    """What is known of a table's feature columns; of those whose type says it all no cell is read.

    Raises:
        DataError: no features, or cells that no model takes.
    """
    features = reading.features(list(table.schema.names), path)
    types = pandas_types(table.schema)
    kinds = {name: kind_of(table.schema.field(name).type) for name in features}
    known = [
        name
        for name, kind in kinds.items()
        if kind in ("whole", "truth") or (kind == "number" and table.has_fractions(name))
    ]
    found = {
        name: ColumnFacts(
            name,
            frozenset([str(kinds[name])]),
            path,
            kinds[name] != "number",
            table.has_gaps(name),
            held_as=held_as(table.schema.field(name).type, types.get(name, "")),
        )
        for name in known
    }
    open_ones = [name for name in features if name not in found]
    parts: dict[str, list[ColumnFacts]] = {name: [] for name in open_ones}
    for group in range(len(table.starts) - 1) if open_ones else ():
        cells = table.read(group, open_ones)
        for name in open_ones:
            written = table.written and name in reading.categorical
            parts[name].append(column_facts(name, cells.column(name), path, written=written))
    found |= {name: join_facts(of) for name, of in parts.items() if of}
    return tuple(found.get(name, ColumnFacts(name, frozenset(), path)) for name in features)
