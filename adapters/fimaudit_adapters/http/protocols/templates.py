"""A request document with places for rows, filled with the rows of one request."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError
from fimaudit_adapters.http.protocols.encoding import as_csv, as_json, cells, dump, encoded_image, shaped, table_columns
from fimaudit_adapters.http.protocols.placeholders import IN_TEXT
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["RowValues", "fill"]

#: The value of a placeholder by its name, ``None`` where nothing has that name.
Scope = Callable[[str], Any]


class RowValues:
    """The rows of one request in the forms that a document may ask for.

    Args:
        rows: (B, \\*shape).
        endpoint: how a row is written, and which columns go along with every one.
    """

    def __init__(self, rows: NDArray[Any], endpoint: Endpoint) -> None:
        self._rows, self._endpoint = rows, endpoint
        self._fixed = endpoint.constants
        self._number: Callable[[Any], Any] = _as_text if endpoint.numbers == "text" else lambda value: value

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def array(self) -> NDArray[Any]:
        """The rows as numbers, in the endpoint's shape."""
        return shaped(self._rows, self._endpoint)

    def row(self, at: int) -> Any:
        """One row: nested lists of numbers with the fixed columns in their places, or an image."""
        if self._endpoint.image is not None:
            return encoded_image(shaped(self._rows[at : at + 1], self._endpoint)[0], self._endpoint)
        if self._fixed or self._endpoint.table:
            return list(self.record(at).values())
        return self._number(shaped(self._rows[at : at + 1], self._endpoint)[0].tolist())

    def record(self, at: int) -> dict[str, Any]:
        """One row as ``{column: value}``, fixed columns among them, in the order of ``columns``."""
        names = self.names()
        values = iter(self._number(cells(self._rows[at : at + 1], self._endpoint)[0]))
        return {name: self._fixed[name] if name in self._fixed else next(values) for name in names}

    def names(self) -> list[str]:
        """All columns; those of the rows are as many as their features."""
        columns = self._endpoint.columns
        free = None if columns is None else [name for name in columns if name not in self._fixed]
        table_columns(self._rows, free)
        assert columns is not None
        return [*columns, *(name for name in self._fixed if name not in columns)]

    def columns(self) -> dict[str, list[Any]]:
        """``{column: values}`` of all rows."""
        records = [self.record(at) for at in range(len(self))]
        return {name: [record[name] for record in records] for name in self.names()}

    def csv(self, at: int) -> str:
        """One row as a line of CSV without its end."""
        return as_csv([self.row(at)], self._endpoint.separator).rstrip("\n")

    def cells(self, at: int) -> list[tuple[str, Any]]:
        """Name and value of each cell of one row; without ``columns``, names count from 0."""
        if self._endpoint.columns is not None:
            return list(self.record(at).items())
        return [(str(k), value) for k, value in enumerate(_flat(self.row(at)))]

    def named(self, name: str, at: int | None = None) -> Any:
        """The value of a placeholder, or ``None`` where nothing has that name.

        Args:
            name: without its ``$`` or braces.
            at: the row that is meant; ``None`` outside of ``$each``, where it is the first.
        """
        row = at or 0
        if name == "csv":
            return self.csv(row) if at is not None else "\n".join(self.csv(i) for i in range(len(self)))
        found = {
            "row": lambda: self.row(row),
            "index": lambda: row,
            "count": lambda: len(self),
            "record": lambda: self.record(row),
            "rows": lambda: [self.row(i) for i in range(len(self))],
            "records": lambda: [self.record(i) for i in range(len(self))],
            "flat": lambda: [value for i in range(len(self)) for value in _flat(self.row(i))],
            "transposed": lambda: [list(one) for one in zip(*map(_flat, map(self.row, range(len(self)))), strict=True)],
            "columns": self.columns,
            "names": self.names,
        }.get(name)
        if found is not None:
            return found()
        return self.record(row)[name] if name in (self._endpoint.columns or ()) or name in self._fixed else None


def fill(part: object, values: RowValues) -> Any:
    """The document with the rows in their places."""
    return _filled(part, values, values.named, None)


def _filled(part: object, values: RowValues, scope: Scope, at: int | None) -> Any:
    """A part of the document, where ``scope`` knows the names, and ``at`` is the row of the ``$each`` around it."""
    if isinstance(part, dict):
        return _filled_mapping(part, values, scope, at)
    if isinstance(part, list):
        out = []
        for value in part:
            if isinstance(value, str) and value.startswith("$") and value.endswith("..."):
                out += _listed(_filled(value.removesuffix("..."), values, scope, at), f"at {value}")
            else:
                out.append(_filled(value, values, scope, at))
        return out
    if not isinstance(part, str):
        return part
    if part.startswith("$"):
        found = scope(part[1:])
        if found is not None or part == "$value":  # a cell may be a gap
            return found

    return IN_TEXT.sub(lambda match: match[0] if (found := scope(match[1])) is None else _in_text(found), part)


def _filled_mapping(part: Mapping[str, Any], values: RowValues, scope: Scope, at: int | None) -> Any:
    """A mapping; one of a single key with a ``$`` makes something of what is in it."""
    key, inner = next(iter(part.items())) if len(part) == 1 else ("", None)
    if key == "$literal":
        return inner
    if key == "$each":
        return [_filled(inner, values, partial(values.named, at=i), i) for i in range(len(values))]
    if key == "$cells":
        pairs = values.cells(at or 0)
        return [_filled(inner, values, _cell(name, value, k, scope), at) for k, (name, value) in enumerate(pairs)]
    if key == "$merge":
        maps = _listed(_filled(inner, values, scope, at), "of mappings in $merge")
        if not all(isinstance(one, dict) for one in maps):
            raise TargetError("expected a list of mappings in $merge, such as {$merge: {$cells: {'{name}': $value}}}")
        return {name: value for one in maps for name, value in one.items()}
    if key == "$join":
        separator, parts = inner if isinstance(inner, list) and len(inner) == 2 else (None, None)
        if not isinstance(separator, str):
            raise TargetError("expected $join: [separator, list], such as {$join: [';', $row]}")
        return separator.join(map(_in_text, _listed(_filled(parts, values, scope, at), "in $join")))
    if key == "$json":
        return as_json(_filled(inner, values, scope, at)).decode()
    if key == "$bytes":
        try:
            numbers = np.asarray(_filled(inner, values, scope, at), dtype=values.array.dtype)
        except (TypeError, ValueError):
            raise TargetError("expected numbers in $bytes, such as {$bytes: $row}") from None
        return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    if key == "$base64":
        found = _filled(inner, values, scope, at)
        raw = found if isinstance(found, bytes) else found.encode() if isinstance(found, str) else as_json(found)
        return base64.b64encode(raw).decode()
    return {
        name if "{" not in name else _filled(name, values, scope, at): _filled(value, values, scope, at)
        for name, value in part.items()
    }


def _cell(name: str, value: Any, place: int, outer: Scope) -> Scope:
    """Within ``$cells``: name and value of the cell, and its place rather than the row's."""
    own = {"name": name, "value": value, "index": place}
    return lambda wanted: own[wanted] if wanted in own else outer(wanted)


def _listed(found: Any, where: str) -> list[Any]:
    if not isinstance(found, list):
        raise TargetError(f"expected a list {where}, got {type(found).__name__}")
    return found


def _in_text(found: Any) -> str:
    if isinstance(found, bytes):
        raise TargetError("an image within text must be in base64: expected image: png-base64 or raw-base64")
    return found if isinstance(found, str) else dump(found).decode()


def _flat(row: Any) -> list[Any]:
    """Nested lists as one."""
    if not isinstance(row, list):
        return [row]
    return [value for part in row for value in (_flat(part) if isinstance(part, list) else [part])]


def _as_text(value: Any) -> Any:
    """Numbers as text, in lists of any depth.

    >>> _as_text([1.5, [2, 3.0]])
    ['1.5', ['2', '3.0']]
    """
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return value if value is None or isinstance(value, str) else repr(value)
