"""Tables from CSV, Parquet, pandas, polars, Arrow and Hugging Face data sets, all by one way: the same numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.csv_files import CSV_SUFFIXES, data_suffix, read_csv
from fimaudit.data.objects import INPUT_KEYS, is_hugging_face
from fimaudit.data.table_columns import join_columns, table_numbers
from fimaudit.data.table_reading import TableReading, refuse_twice
from fimaudit.data.table_shards import WholeTable, open_parquet, row_names, table_facts
from fimaudit.errors import DataError
from fimaudit.foreign_errors import one_line
from fimaudit.models.classes import group_name
from fimaudit.models.columns import TableColumn

__all__ = ["Table", "arrow_table", "is_table", "labels_and_groups", "read_table", "table_of"]


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
    refuse_twice(names, "the table")
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


def table_of(table: Any, reading: TableReading, source: str, *, written: bool = False) -> Table:
    """An Arrow table as numbers.

    Raises:
        DataError: columns that are not there or hold what no model takes.
    """
    if len(table) == 0:
        raise DataError(f"expected at least one input, got none in {source}")
    columns = join_columns([table_facts(WholeTable(table, written=written), reading, source)], reading.categorical)
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
