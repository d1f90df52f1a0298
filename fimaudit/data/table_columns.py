"""What a table's columns are, found part by part and joined, and their cells as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = [
    "ColumnFacts",
    "column_facts",
    "held_as",
    "is_number",
    "join_columns",
    "join_facts",
    "kind_of",
    "pandas_types",
    "table_numbers",
]

#: From this share of numbers on, a column of text is one of numbers that holds something else as well.
MOSTLY_NUMBERS = 0.5
#: Columns that are shown in a sentence.
SHOWN = 30
#: Integers up to here are exact in float64.
MOST_EXACT = 2**53
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_DECORATED = re.compile(r"\s*[-+]?(\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+(,\d+)?|\d+([.,]\d+)?\s*%)\s*")
#: What the kinds are called in a sentence.
_CALLED = {"whole": "numbers", "number": "numbers", "truth": "truth values", "category": "categories", "date": "dates"}


@dataclass(frozen=True)
class ColumnFacts:
    """What is known of a column after some of its cells.

    Attributes:
        name: of the column.
        kinds: of its cells; none where all are missing. ``digits`` is text that may stand for numbers.
        source: where they were found.
        whole: whether all its numbers are whole.
        gaps: whether any number is missing.
        values: of text, categories and dates, in the order in which they came.
        held_as: as for ``TableColumn``.
    """

    name: str
    kinds: frozenset[str]
    source: str
    whole: bool = True
    gaps: bool = False
    values: tuple[Any, ...] = ()
    held_as: str = ""

    def column(self, *, categorical: bool) -> TableColumn:
        """What the column is.

        Raises:
            DataError: text that looks like numbers with something else among them.
        """
        if self.kinds <= {"whole", "number", "truth"}:
            # Integers with gaps are read as floats by some libraries: the same column either way.
            integers = self.kinds == {"whole"} or self.gaps or categorical
            kind = "truth" if self.kinds == {"truth"} else "whole" if self.kinds and self.whole and integers else "number"
            held_as = self.held_as or ("float64" if self.gaps else "") if kind == "whole" else ""
            return TableColumn(self.name, kind, held_as=held_as if self.kinds else "null")  # type: ignore[arg-type]
        if self.kinds == {"digits"}:
            return TableColumn(self.name, "whole" if all("." not in value for value in self.values) else "number")
        kind = "text" if "text" in self.kinds else min(self.kinds)
        if kind == "text" and not categorical:
            self._refuse_numbers_as_text()
        return TableColumn(self.name, kind, self.values, held_as=self.held_as)  # type: ignore[arg-type]

    def _refuse_numbers_as_text(self) -> None:
        """Numbers with a mark for missing ones, or with commas, would be held as text without a word."""
        odd = [text for text in self.values if not is_number(text)]
        of = f"column {self.name!r} of {self.source} holds numbers"
        if odd and all(_DECIMAL_COMMA.fullmatch(text) for text in odd):
            raise DataError(f"{of} with decimal commas ({odd[0]!r}); pass --decimal ',' for a CSV file, or write points")
        if odd and all(_DECORATED.fullmatch(text) for text in odd):
            raise DataError(f"{of} written with signs between thousands or percent signs ({odd[0]!r}); write plain numbers")
        if len(odd) < (1 - MOSTLY_NUMBERS) * len(self.values):
            what = f"and text ({', '.join(map(repr, odd[:3]))})" if odd else "written as text"
            raise DataError(
                f"{of} {what}; leave cells empty where a number is missing, make it a column of numbers, or pass "
                f"--categorical {self.name} if they are categories"
            )


def kind_of(arrow_type: Any) -> str | None:
    """The kind of an Arrow type's cells; ``None`` of one that no table holds for a model, empty of no cells at all."""
    import pyarrow as pa

    types = pa.types
    if types.is_null(arrow_type):
        return ""
    if types.is_dictionary(arrow_type):
        inner = kind_of(arrow_type.value_type)
        return "category" if inner is not None else None
    if types.is_boolean(arrow_type):
        return "truth"
    if types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        return "text"
    if types.is_temporal(arrow_type) and not types.is_interval(arrow_type):
        return "date"
    if types.is_integer(arrow_type):
        return "whole"
    return "number" if types.is_floating(arrow_type) or types.is_decimal(arrow_type) else None


def pandas_types(schema: Any) -> dict[str, str]:
    """How pandas held the columns of an Arrow table that it made, by their names."""
    kept = (schema.pandas_metadata or {}).get("columns", ())
    return {str(of.get("name")): str(of.get("numpy_type")) for of in kept if isinstance(of, dict)}


def held_as(arrow_type: Any, pandas_type: str = "") -> str:
    """``TableColumn.held_as``, as far as a column's types say."""
    import pyarrow as pa

    if pa.types.is_timestamp(arrow_type):
        return f"datetime64[{arrow_type.unit}{f', {arrow_type.tz}' if arrow_type.tz else ''}]"
    if pa.types.is_duration(arrow_type):
        return f"timedelta64[{arrow_type.unit}]"
    if pa.types.is_dictionary(arrow_type):
        return "ordered" if arrow_type.ordered else ""
    nullable = pandas_type.lower().startswith(("int", "uint")) and pandas_type[:1].isupper()
    return "Int64" if nullable else "object" if pa.types.is_integer(arrow_type) and pandas_type == "object" else ""


def column_facts(name: str, cells: Any, source: str, *, written: bool = False, pandas_type: str = "") -> ColumnFacts:
    """What some cells show of their column.

    Args:
        name: of the column.
        cells: an Arrow array.
        source: for sentences.
        written: text that was written for numbers as well, as in a CSV file, may stand for numbers.
        pandas_type: how pandas held them, where it did.

    Raises:
        DataError: they hold what no model takes.
    """
    cells = _plain(cells)
    kind, type_held = kind_of(cells.type), held_as(cells.type, pandas_type)
    if kind is None:
        raise DataError(
            f"column {name!r} of {source} holds {cells.type} values; expected numbers, text, truth values or dates: encode "
            "it as the model was trained, or leave it out with --drop"
        )
    kinds = frozenset([kind] if kind else [])
    if kind in ("text", "category", "date"):
        values = _values(cells)
        digits = written and kind == "text" and all(_PLAIN_NUMBER.fullmatch(value) for value in values)
        return ColumnFacts(name, frozenset(["digits"]) if digits else kinds, source, values=values, held_as=type_held)
    if kind != "number":
        return ColumnFacts(name, kinds, source, gaps=cells.null_count > 0, held_as=type_held)
    numbers = _floats(cells)
    present = numbers[np.isfinite(numbers)]
    gaps = bool(np.isnan(numbers).any())
    return ColumnFacts(name, kinds if present.size else frozenset(), source, bool((present == np.rint(present)).all()), gaps)


def join_columns(parts: Iterable[Sequence[ColumnFacts]], categorical: Sequence[str]) -> tuple[TableColumn, ...]:
    """The columns of a table that comes in parts, in the order of the first one.

    Raises:
        DataError: parts with other columns, or of other kinds.
    """
    named = [{one.name: one for one in part} for part in parts]
    first = named[0]
    for part in named[1:]:
        if set(part) != set(first):
            first_file, other_file = (next(iter(of.values())).source for of in (first, part))
            raise DataError(
                f"{first_file} has the columns {', '.join(list(first)[:SHOWN])}, "
                f"but {other_file} has {', '.join(list(part)[:SHOWN])}; "
                "give files with the same columns, or leave some out with --drop"
            )
    return tuple(join_facts([part[name] for part in named]).column(categorical=name in categorical) for name in first)


def join_facts(of: Sequence[ColumnFacts]) -> ColumnFacts:
    """What is known of a column after all its parts.

    Raises:
        DataError: they are of several kinds.
    """
    known = [one for one in of if one.kinds]
    kinds = frozenset(kind for one in known for kind in one.kinds)
    if len(kinds) > 1 and not kinds <= {"whole", "number"} and not kinds <= {"text", "digits"}:
        other = next(one for one in known if one.kinds != known[0].kinds)
        kind, other_kind = (_CALLED.get(min(one.kinds), "text") for one in (known[0], other))
        raise DataError(
            f"column {of[0].name!r} holds {kind} in {known[0].source} and {other_kind} in {other.source}; give it one "
            "type in all files"
        )
    values = tuple(dict.fromkeys(value for one in of for value in one.values))
    gaps, type_held = any(o.gaps for o in of), next((o.held_as for o in known), "")
    return ColumnFacts(of[0].name, kinds, of[0].source, all(o.whole for o in of), gaps, values, type_held)


def table_numbers(table: Any, columns: Sequence[TableColumn]) -> NDArray[np.float64]:
    """(n, columns) numbers of an Arrow table: values, or positions in a column's list; NaN where a cell is missing.

    Raises:
        DataError: a cell that the list does not hold.
    """
    return np.stack([_numbers(table.column(column.name), column) for column in columns], axis=1)


def _numbers(cells: Any, column: TableColumn) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not column.coded or pa.types.is_null(cells.type):
        numbers = _floats(cells)
        if column.kind == "whole" and (np.abs(numbers) > MOST_EXACT).any():
            raise DataError(
                f"column {column.name!r} holds integers beyond 2^53, which float64 does not hold exactly; make it a "
                "category, leave it out with --drop, or name the rows by it with --index"
            )
        return numbers
    cells = _plain(cells)
    cells = cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells
    places = pc.index_in(cells, pa.array(column.values, type=cells.type))
    if places.null_count > cells.null_count:
        raise DataError(f"column {column.name!r} holds values that it did not hold before the audit began")
    return _floats(places)


def _plain(cells: Any) -> Any:
    """The same with strings of a type that all of Arrow's functions take."""
    import pyarrow as pa

    if pa.types.is_dictionary(cells.type) and pa.types.is_string_view(cells.type.value_type):
        return cells.cast(pa.dictionary(pa.int32(), pa.string()))
    return cells.cast(pa.string()) if pa.types.is_string_view(cells.type) else cells


def _values(cells: Any) -> tuple[Any, ...]:
    """Values in the order of a category's own list, or of their first cell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        chunks = cells.chunks if isinstance(cells, pa.ChunkedArray) else [cells]
        return tuple(dict.fromkeys(value for chunk in chunks for value in chunk.dictionary.to_pylist() if value is not None))
    return tuple(value for value in pc.unique(cells).to_pylist() if value is not None)


def _floats(cells: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def is_number(text: str) -> bool:
    """Whether Python reads a number in it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
