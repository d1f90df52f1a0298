"""Tables from CSV, Parquet, pandas, polars, Arrow and Hugging Face data sets, all by one way: the same numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.csv_files import CSV_SUFFIXES, data_suffix, read_csv
from fimaudit.data.objects import INPUT_KEYS, is_hugging_face
from fimaudit.data.table_columns import ColumnFacts, column_facts, join_columns, pandas_types, table_numbers
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import DataError
from fimaudit.foreign_errors import one_line
from fimaudit.models.classes import group_name
from fimaudit.models.columns import TableColumn

__all__ = ["Table", "arrow_table", "is_table", "labels_and_groups", "open_parquet", "read_table", "row_names", "table_of"]

#: Rows of a part of a Parquet file: the most that pyarrow writes.
MOST_GROUP_ROWS = 1 << 26


@dataclass(frozen=True)
class Table:
    """A table as numbers: (n, columns) values, what the columns are, and labels and groups as they stand there."""

    x: NDArray[np.float64]
    columns: tuple[TableColumn, ...]
    y: NDArray[Any] | None
    group: NDArray[Any] | None


def is_table(x: Any) -> bool:
    """Whether an object is a table of columns: pandas, polars, Arrow, a structured array, or a data set of such columns."""
    if isinstance(x, np.ndarray):
        return x.dtype.names is not None
    if is_hugging_face(x):
        return not isinstance(x, Mapping) and hasattr(x, "data") and not set(x.column_names) & set(INPUT_KEYS)
    return hasattr(x, "columns") and (hasattr(x, "__arrow_c_stream__") or hasattr(x, "__dataframe__"))


def arrow_table(x: Any) -> Any:
    """The same as a ``pyarrow.Table``.

    Raises:
        DataError: a column that holds values of several kinds.
    """
    import pyarrow as pa

    names = [str(name) for name in getattr(x, "columns", ())] if not isinstance(x, pa.Table) else x.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the table has two columns called {twice[0]!r}; give each a name of its own")
    try:
        if isinstance(x, pa.Table):
            return x
        if is_hugging_face(x):
            return x.with_format("arrow")[:]
        if isinstance(x, np.ndarray):
            return pa.table({name: x[name] for name in x.dtype.names or ()})
        if type(x).__module__.partition(".")[0] == "pandas":
            sparse = {name: kind.subtype for name, kind in x.dtypes.items() if hasattr(kind, "fill_value")}
            named = (x.astype(sparse) if sparse else x).set_axis(names, axis=1)
            return pa.Table.from_pandas(named, preserve_index=False)
        return pa.table(x) if hasattr(x, "__arrow_c_stream__") else pa.interchange.from_dataframe(x)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        said = one_line("; ".join(map(str, exc.args)))
        raise DataError(f"the table holds a column of mixed or unknown values ({said}); give each column one type") from exc


def read_table(file: Path, reading: TableReading) -> Table:
    """A CSV or Parquet file.

    Raises:
        DataError: no table, a header that may be none, cells that are neither numbers nor plainly text.
    """
    if data_suffix(file.name) in CSV_SUFFIXES:
        return table_of(read_csv(file.read_bytes(), file.name, reading), reading, file.name, written=True)
    import pyarrow as pa

    with file.open("rb") as opened:
        parquet, parts = open_parquet(opened), []
        for k in range(parquet.num_row_groups):  # one by one: room is made for the rows of as many as are read at once
            parts.append(parquet.read_row_group(k))
            if len(parts[-1]) != (stated := parquet.metadata.row_group(k).num_rows):
                raise DataError(f"{file.name} holds {len(parts[-1])} rows where it says {stated}; copy it again")
        table = pa.concat_tables(parts or [parquet.schema_arrow.empty_table()])
    return table_of(table.drop_columns(row_names(table.schema)), reading, file.name)


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


def look_at_table(table: Any, reading: TableReading, source: str, *, written: bool = False) -> list[ColumnFacts]:
    """What is known of an Arrow table's feature columns; ``written`` as for ``column_facts``."""
    features = reading.features(list(table.column_names), source)
    types = pandas_types(table.schema)
    return [
        column_facts(
            name,
            table.column(name),
            source,
            written=written and name in reading.categorical,
            pandas_type=types.get(name, ""),
        )
        for name in features
    ]


def table_of(table: Any, reading: TableReading, source: str, *, written: bool = False) -> Table:
    """An Arrow table as numbers.

    Raises:
        DataError: columns that are not there or hold what no model takes.
    """
    if len(table) == 0:
        raise DataError(f"expected at least one input, got none in {source}")
    columns = join_columns([look_at_table(table, reading, source, written=written)], reading.categorical)
    y, groups = labels_and_groups(table, reading)
    return Table(table_numbers(table, columns), columns, y, groups)


def labels_and_groups(table: Any, reading: TableReading) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Labels as they stand in an Arrow table, and groups as text."""
    names = list(table.column_names)
    label, group = reading.label_in(names), reading.group_in(names)
    y = None
    if label is not None:
        y = np.empty(len(table), dtype=object)
        y[:] = table.column(label).to_pylist()
    groups = None if group is None else np.array([group_name(v) for v in table.column(group).to_pylist()])
    return y, groups
