"""CSV files to Arrow tables: what a file leaves open is asked back in a sentence, never decided."""

from __future__ import annotations

import codecs
from typing import Any

from fimaudit.data.table_columns import is_number
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import DataError

__all__ = ["CSV_SUFFIXES", "read_csv"]

CSV_SUFFIXES = (".csv", ".tsv")


def read_csv(content: bytes, name: str, reading: TableReading) -> Any:
    """A CSV file as an Arrow table; columns that are said to be categories stay the text that was written.

    Args:
        content: of the file.
        name: of the file, for sentences; a ``.tsv`` has tabs between its cells.
        reading: how tables are read.

    Raises:
        DataError: another encoding than UTF-8 or separator than said, a header that may be none, a column without a name,
            whole numbers with leading zeros.
    """
    import pyarrow as pa

    separator = reading.separator or ("\t" if name.lower().endswith(".tsv") else ",")
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) != 1:
        raise DataError(f"expected --sep with one character, got {separator!r}")
    _require_utf8(content, name)
    table = _parsed(content, separator, reading, {})
    if reading.header is not False:
        _check_header(table.column_names, name, reading)
    codes = {*reading.categorical, reading.group_in(table.column_names)}
    no_features = {*reading.drop, reading.index, reading.label_in(table.column_names)}
    as_text = [f.name for f in table.schema if pa.types.is_temporal(f.type) or f.name in codes]
    whole = [f.name for f in table.schema if pa.types.is_integer(f.type) and f.name not in (*as_text, *no_features)]
    if as_text or whole:  # dates are text, as every other reader of CSV has them
        written = _parsed(content, separator, reading, dict.fromkeys([*as_text, *whole], pa.string()))
        _refuse_leading_zeros(written, whole, name)
        for column in as_text:
            table = table.set_column(table.column_names.index(column), column, written.column(column))
    return table


def _parsed(content: bytes, separator: str, reading: TableReading, types: dict[str, Any]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    without = reading.header is False
    given = {f"f{name}" if without else name: kind for name, kind in types.items()}
    table = csv.read_csv(
        pa.BufferReader(content),
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=csv.ConvertOptions(strings_can_be_null=True, column_types=given),
        read_options=csv.ReadOptions(autogenerate_column_names=without),
    )
    return table.rename_columns([str(i) for i in range(table.num_columns)]) if without else table


def _require_utf8(content: bytes, name: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), 2**24):
            decoder.decode(content[start : start + 2**24])
    except UnicodeDecodeError as exc:
        raise DataError(f"{name} is not text in UTF-8 ({exc.reason}); save it as UTF-8") from None


def _check_header(names: list[str], file: str, reading: TableReading) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file} has two columns called {twice[0]!r}; give each a name of its own")
    if len(names) == 1 and reading.separator is None:
        found = next((s for s in ";\t|" if s in names[0]), None)
        if found is not None:
            spelled = "\\t" if found == "\t" else found
            raise DataError(f"{file} seems to separate its columns by {spelled!r}; pass --sep '{spelled}'")
    if reading.header is None and all(is_number(name) for name in names):
        raise DataError(
            f"the first line of {file} holds numbers only ({', '.join(names[:4])}): is it an input or a line of names? Pass "
            "--no-header if the file has no names, or --header if these are the names"
        )
    if "" in names and "" not in (reading.index, reading.label, reading.group, *reading.drop):
        raise DataError(
            f"column {names.index('') + 1} of {file} has no name, as pandas writes row numbers; give it one, or leave it "
            "out with --index ''"
        )


def _refuse_leading_zeros(written: Any, columns: list[str], file: str) -> None:
    import pyarrow.compute as pc

    for column in columns:
        cells = written.column(column)
        odd = cells.filter(pc.match_substring_regex(cells, r"^\s*[-+]?0\d"))
        if len(odd):
            raise DataError(
                f"column {column!r} of {file} holds numbers with leading zeros ({odd[0].as_py()!r}), which may be codes; "
                f"pass --categorical {column} to hold them as text, or write them without"
            )
