"""Tables from CSV, Parquet, pandas, polars and Arrow, all by one way: the same numbers, names, and held columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = ["Table", "TableReading", "arrow_table", "is_table", "read_table", "table_of"]

#: TableColumn names that hold labels and groups where none was named.
LABEL, GROUP = "y", "group"
#: From this share of numbers on, a column of text is one of numbers that holds something else as well.
MOSTLY_NUMBERS = 0.5
_DECIMAL_COMMA = re.compile(r"\s*-?\d+,\d+\s*")


@dataclass(frozen=True)
class TableReading:
    """How a table is read.

    Attributes:
        label: column of labels; ``y`` where there is one when left out. group: column of groups, likewise ``group``.
        drop: columns that are left out.
        index: column that names the rows, left out too.
        separator: between the cells of a CSV line; a comma when left out.
        header: whether the first line of a CSV holds names; ``None`` asks where it holds numbers only.
        categorical: columns whose numbers are categories, and held.
    """

    label: str | None = None
    group: str | None = None
    drop: tuple[str, ...] = ()
    index: str | None = None
    separator: str | None = None
    header: bool | None = None
    categorical: tuple[str, ...] = ()

    def features(self, names: Sequence[str], source: str) -> list[str]:
        """The columns that are features, in their order.

        Raises:
            DataError: a column that was named is not there, or nothing is left.
        """
        named = [(self.label, "--label"), (self.group, "--group"), (self.index, "--index")]
        named += [(name, "--drop") for name in self.drop] + [(name, "--categorical") for name in self.categorical]
        for name, flag in named:
            if name is not None and name not in names:
                raise DataError(f"{flag} names the column {name!r}, but {source} has {', '.join(map(repr, names[:30]))}")
        twice = sorted({name for name in names if names.count(name) > 1} if isinstance(names, list) else ())
        if twice:
            raise DataError(f"{source} has two columns called {twice[0]!r}; give each a name of its own")
        taken = {self.label_in(names), self.group_in(names), self.index, *self.drop}
        features = [name for name in names if name not in taken]
        if not features:
            raise DataError(f"{source} has no feature columns")
        return features

    def label_in(self, names: Sequence[str]) -> str | None:
        """The column of labels among these."""
        return self.label if self.label is not None else LABEL if LABEL in names else None

    def group_in(self, names: Sequence[str]) -> str | None:
        """The column of groups among these."""
        return self.group if self.group is not None else GROUP if GROUP in names else None


@dataclass(frozen=True)
class Table:
    """A table as numbers: (n, columns) values, what the columns are, and labels and groups as they stand there."""

    x: NDArray[np.float64]
    columns: tuple[TableColumn, ...]
    y: NDArray[Any] | None
    group: NDArray[Any] | None


def is_table(x: object) -> bool:
    """Whether an object is a table of columns: pandas, polars, Arrow, or a structured array."""
    if isinstance(x, np.ndarray):
        return x.dtype.names is not None
    return hasattr(x, "columns") and (hasattr(x, "__arrow_c_stream__") or hasattr(x, "__dataframe__"))


def arrow_table(x: Any) -> Any:
    """The same as a ``pyarrow.Table``.

    Raises:
        DataError: a column that holds values of several kinds.
    """
    import pyarrow as pa

    try:
        if isinstance(x, pa.Table):
            return x
        if isinstance(x, np.ndarray):
            return pa.table({name: x[name] for name in x.dtype.names or ()})
        if type(x).__module__.partition(".")[0] == "pandas":
            named = x.set_axis([str(name) for name in x.columns], axis=1)
            return pa.Table.from_pandas(named, preserve_index=False)
        return pa.table(x) if hasattr(x, "__arrow_c_stream__") else pa.interchange.from_dataframe(x)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        what = " ".join(str(exc).split())[:200]
        raise DataError(f"the table holds a column of mixed or unknown values ({what}); give each column one type") from exc


def read_table(file: Path, reading: TableReading) -> Table:
    """A CSV or Parquet file.

    Raises:
        DataError: no table, a header that may be none, cells that are neither numbers nor plainly text.
    """
    import pyarrow.parquet

    if file.suffix.lower() != ".csv":
        return table_of(pyarrow.parquet.read_table(file), reading, file.name)
    return table_of(_read_csv(file, reading), reading, file.name)


def _read_csv(file: Path, reading: TableReading) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    separator = {"\\t": "\t", "tab": "\t"}.get(reading.separator or ",", reading.separator or ",")
    if len(separator) != 1:
        raise DataError(f"expected --sep with one character, got {separator!r}")
    parse = csv.ParseOptions(delimiter=separator)

    def read(**types: Any) -> Any:
        convert = csv.ConvertOptions(strings_can_be_null=True, column_types=types)
        return csv.read_csv(
            file,
            parse_options=parse,
            convert_options=convert,
            read_options=csv.ReadOptions(autogenerate_column_names=reading.header is False),
        )

    table = read()
    dates = {f.name: pa.string() for f in table.schema if pa.types.is_temporal(f.type)}
    if dates:  # as text, as every other reader of CSV has them
        table = read(**dates)
    if reading.header is False:
        return table.rename_columns([str(i) for i in range(table.num_columns)])
    if reading.header is None and all(_is_number(name) for name in table.column_names):
        shown = ", ".join(table.column_names[:4])
        raise DataError(
            f"the first line of {file.name} holds numbers only ({shown}): is it an input or a line of names? Pass "
            "--no-header if the file has no names, or --header if these are the names"
        )
    if table.num_columns == 1 and reading.separator is None:
        found = next((s for s in ";\t|" if s in table.column_names[0]), None)
        if found is not None:
            spelled = "\\t" if found == "\t" else found
            raise DataError(f"{file.name} seems to separate its columns by {spelled!r}; pass --sep '{spelled}'")
    return table


def table_of(table: Any, reading: TableReading, source: str) -> Table:
    """An Arrow table as numbers.

    Raises:
        DataError: columns that are not there or hold what no model takes.
    """
    names = list(table.column_names)
    features = reading.features(names, source)
    label, group = reading.label_in(names), reading.group_in(names)
    columns, numbers = [], []
    for name in features:
        column, values = _column(name, table.column(name), source, categorical=name in reading.categorical)
        columns.append(column)
        numbers.append(values)
    y = None if label is None else _cells(table.column(label))
    groups = None if group is None else np.array(["" if v is None else str(v) for v in table.column(group).to_pylist()])
    return Table(np.stack(numbers, axis=1), tuple(columns), y, groups)


def _column(name: str, cells: Any, source: str, *, categorical: bool) -> tuple[TableColumn, NDArray[np.float64]]:
    import pyarrow as pa

    kind = cells.type
    if pa.types.is_null(kind):
        return TableColumn(name, "number"), np.full(len(cells), np.nan)
    if pa.types.is_dictionary(kind):
        return _as_dictionary(name, cells, "category")
    if pa.types.is_boolean(kind):
        return TableColumn(name, "truth"), _floats(cells)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        if not categorical:
            _refuse_numbers_as_text(name, cells, source)
        return _as_dictionary(name, cells, "text")
    if pa.types.is_temporal(kind):
        return _as_dictionary(name, cells, "date")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = _floats(cells)
        present = values[np.isfinite(values)]
        # Integers with gaps are read as floats by some libraries: the same column either way.
        gaps = np.isnan(values).any() and present.size and np.array_equal(present, np.rint(present))
        whole = pa.types.is_integer(kind) or gaps or categorical
        return TableColumn(name, "whole" if whole and np.array_equal(present, np.rint(present)) else "number"), values
    raise DataError(
        f"column {name!r} of {source} holds {kind} values; expected numbers, text, truth values or dates: encode it as the "
        "model was trained, or leave it out with --drop"
    )


def _as_dictionary(name: str, cells: Any, kind: Any) -> tuple[TableColumn, NDArray[np.float64]]:
    import pyarrow as pa

    encoded = cells.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.unify_dictionaries().chunks)
    held = encoded.dictionary
    values = tuple(np.asarray(held.to_numpy(zero_copy_only=False))) if kind == "date" else tuple(held.to_pylist())
    return TableColumn(name, kind, values), _floats(encoded.indices)


def _floats(cells: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _cells(cells: Any) -> NDArray[Any]:
    """Labels as they stand there."""
    out = np.empty(len(cells), dtype=object)
    out[:] = cells.to_pylist()
    return out


def _refuse_numbers_as_text(name: str, cells: Any, source: str) -> None:
    """A column of numbers with a mark for missing ones, or with decimal commas, would be held as text without a word."""
    known = [text for text in cells.to_pylist() if text is not None]
    odd = [text for text in known if not _is_number(text)]
    if known and all(_DECIMAL_COMMA.fullmatch(text) for text in odd) and odd:
        raise DataError(f"column {name!r} of {source} holds numbers with decimal commas ({odd[0]!r}); write points")
    if len(odd) < (1 - MOSTLY_NUMBERS) * len(known):
        what = f"and, in {len(odd)} rows, text ({odd[0]!r})" if odd else "written as text"
        raise DataError(
            f"column {name!r} of {source} holds numbers {what}; leave cells empty where a number is missing, make it a "
            f"column of numbers, or pass --categorical {name} if they are categories"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
