"""CSV files to Arrow tables: what a file leaves open is asked back in a sentence, never decided."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath
from typing import Any

from fimaudit.data.table_columns import is_number
from fimaudit.data.table_reading import TableReading, refuse_twice
from fimaudit.errors import DataError
from fimaudit.foreign_errors import one_line

__all__ = ["CSV_SUFFIXES", "data_suffix", "read_csv"]

CSV_SUFFIXES = (".csv", ".tsv")
#: Endings behind those of CSV files that are packed, and how Arrow calls what packed them.
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
GZIP = b"\x1f\x8b"
#: The first line is looked for among so many bytes.
MOST_LINE = 2**20
#: Most bytes of an unpacked file: a few kilobytes can unpack to any number.
MOST_UNPACKED = 4 * 2**30


def data_suffix(path: str) -> str:
    """The ending of a path that says what the file holds, in small letters: of a packed CSV file that of the CSV.

    >>> data_suffix("a/b.CSV.gz"), data_suffix("b.tar.gz"), data_suffix("b.parquet")
    ('.csv', '.gz', '.parquet')
    """
    place = PurePosixPath(path.lower())
    inner = PurePosixPath(place.stem).suffix
    return inner if place.suffix in PACKED and inner in CSV_SUFFIXES else place.suffix


def read_csv(content: bytes, name: str, reading: TableReading) -> Any:
    """A CSV file as an Arrow table; columns that are said to be categories stay the text that was written.

    Args:
        content: of the file.
        name: of the file, for sentences; a ``.tsv`` has tabs between its cells, a ``.csv.gz`` is unpacked first.
        reading: how tables are read.

    Raises:
        DataError: an empty file, another encoding than UTF-8 or separator than said, a header that may be none, a column
            without a name, whole numbers with leading zeros.
    """
    import pyarrow as pa

    content = _unpacked(content, name)
    if not content or content.isspace():
        raise DataError(f"{name} is empty; expected a line with the columns' names and a line of cells for each input")
    usual = "\t" if data_suffix(name) == ".tsv" else ";" if reading.decimal == "," else ","
    separator = reading.separator or usual
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(reading.decimal or ".") != 1 or reading.decimal == separator:
        raise DataError(f"expected --decimal with one character, another one than between cells, got {reading.decimal!r}")
    if len(separator) != 1:
        raise DataError(f"expected --sep with one character, got {separator!r}")
    _require_utf8(content, name)
    if reading.separator is None:
        _refuse_another_separator(content, separator, name)
    table = _parsed(content, name, separator, reading, {})
    if reading.header is not False:
        _check_header(table.column_names, name, reading)
    codes = {*reading.categorical, reading.group_in(table.column_names)}
    no_features = {*reading.drop, reading.index, reading.label_in(table.column_names)}
    as_text = [f.name for f in table.schema if pa.types.is_temporal(f.type) or f.name in codes]
    whole = [f.name for f in table.schema if pa.types.is_integer(f.type) and f.name not in (*as_text, *no_features)]
    if as_text or whole:  # dates are text, as every other reader of CSV has them
        written = _parsed(content, name, separator, reading, dict.fromkeys([*as_text, *whole], pa.string()))
        _refuse_leading_zeros(written, whole, name)
        for column in as_text:
            table = table.set_column(table.column_names.index(column), column, written.column(column))
    return table


def _parsed(content: bytes, name: str, separator: str, reading: TableReading, types: dict[str, Any]) -> Any:
    import pyarrow as pa

    without = reading.header is False
    given = {f"f{name}" if without else name: kind for name, kind in types.items()}
    try:
        table = _arrow(content, separator, reading, given)
    except pa.ArrowInvalid as exc:
        found = re.search(r"Expected (\d+) columns, got (\d+): (.*)", str(exc))
        if found is None:
            raise
        raise DataError(
            f"a line of {name} has {found[2]} cells ({found[3][:60]}) where the first has {found[1]}; take out lines above "
            "the header and below the table, and quote cells that hold the separator"
        ) from exc
    return table.rename_columns([str(i) for i in range(table.num_columns)]) if without else table


def _arrow(content: bytes, separator: str, reading: TableReading, types: dict[str, Any]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    # In memory of Arrow's own: after an error one of its threads may still hold the file, and where that lets go of Python's
    # memory while the interpreter ends, the process aborts.
    own = pa.allocate_buffer(len(content))
    pa.FixedSizeBufferWriter(own).write(content)
    return csv.read_csv(
        pa.BufferReader(own),
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            strings_can_be_null=True, column_types=types, decimal_point=reading.decimal or "."
        ),
        read_options=csv.ReadOptions(autogenerate_column_names=reading.header is False),
    )


def _unpacked(content: bytes, name: str) -> bytes:
    import pyarrow as pa

    how = PACKED.get(PurePosixPath(name.lower()).suffix) or ("gzip" if content.startswith(GZIP) else None)
    if how is None:
        return content
    try:
        with pa.input_stream(pa.BufferReader(content), compression=how) as stream:
            unpacked: bytes = stream.read(MOST_UNPACKED + 1)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(
            f"{name} cannot be unpacked ({one_line(exc, 120)}); it may be truncated, or packed otherwise"
        ) from exc
    if len(unpacked) > MOST_UNPACKED:
        raise DataError(f"{name} holds more than {MOST_UNPACKED:,} bytes; write it as Parquet, which is read in parts")
    return unpacked


def _require_utf8(content: bytes, name: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), 2**24):
            decoder.decode(content[start : start + 2**24])
    except UnicodeDecodeError as exc:
        raise DataError(f"{name} is not text in UTF-8 ({exc.reason}); save it as UTF-8") from None


def _refuse_another_separator(content: bytes, separator: str, file: str) -> None:
    """A first line without the separator that has another one."""
    first = content[:MOST_LINE].decode("utf-8", "replace").lstrip("\r\n").partition("\n")[0]
    found = next((s for s in ",;\t|" if s in first and s != separator), None)
    if found is not None and separator not in first:
        spelled = "\\t" if found == "\t" else found
        raise DataError(
            f"{file} seems to separate its columns by '{spelled}'; pass --sep '{spelled}', and --decimal ',' where "
            "fractions are written so"
        )


def _check_header(names: list[str], file: str, reading: TableReading) -> None:
    refuse_twice(names, file)
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
