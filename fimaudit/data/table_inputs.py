"""Some inputs out of a table in a file: feature columns, a list column ``x``, or a column ``image`` of encoded files."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Row
from fimaudit.data.images import decode_image
from fimaudit.data.shard_reader import Decoding, damage
from fimaudit.data.table_columns import ColumnFacts, join_columns, table_numbers
from fimaudit.data.table_shards import RowGroups, table_facts
from fimaudit.data.tables import labels_and_groups
from fimaudit.errors import DataError
from fimaudit.foreign_errors import foreign
from fimaudit.models.columns import TableColumn

__all__ = ["TableShard", "cell_column"]

#: Columns that hold labels beside arrays or images, the first that is there.
LABELS = ("y", "label")


class TableShard:
    """Feature columns, a list column ``x``, or a column ``image`` of encoded files; one row group is held at a time."""

    def __init__(self, path: str, table: RowGroups, decoding: Decoding) -> None:
        self._table, self._decoding, self._path = table, decoding, path
        self.count = int(table.starts[-1])
        names = table.schema.names
        self._cells = cell_column(table.schema)
        label = decoding.reading.label or next((name for name in LABELS if name in names), None)
        self._reading = decoding.reading if self._cells is None else replace(decoding.reading, label=label)
        self._held: tuple[int, Any, Any, Any] = (-1, None, None, None)

    @cached_property
    def facts(self) -> tuple[ColumnFacts, ...]:
        """What is known of the feature columns; none where there are arrays or images."""
        if self._cells is not None:
            return ()
        try:
            return table_facts(self._table, self._reading, self._path)
        except DataError:
            raise
        except Exception as exc:  # as in ``rows``
            raise DataError(f"{self._path} is damaged inside ({foreign(exc)}); copy it again") from exc

    @cached_property
    def _columns(self) -> tuple[TableColumn, ...]:
        return self._decoding.columns or join_columns([self.facts], self._reading.categorical)

    def _row_group(self, k: int) -> tuple[Any, Any, Any]:
        """The inputs, labels and groups of a row group: features as one array, arrays and images as they are stored."""
        if self._held[0] != k:
            names = self._table.schema.names
            beside = (self._reading.label_in(names), self._reading.group_in(names))
            features = [column.name for column in self._columns] if self._cells is None else [self._cells]
            table = self._table.read(k, [*features, *(n for n in beside if n is not None)])
            x = table_numbers(table, self._columns) if self._cells is None else table.column(self._cells)
            self._held = (k, x, *labels_and_groups(table, self._reading))
        return self._held[1:]

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            k = bisect.bisect_right(self._table.starts, position) - 1
            try:
                x, labels, groups = self._row_group(k)
            except Exception as exc:  # pyarrow has many for a file that is damaged inside
                yield Row(None, reason=damage(exc))
                continue
            at = position - int(self._table.starts[k])
            y = group = None
            try:
                y = None if labels is None else labels[at]
                group = None if groups is None else str(groups[at])
                yield Row(self._input(x[at]), y, group)
            except Exception as exc:
                yield Row(None, y, group, damage(exc))

    def _input(self, cell: Any) -> NDArray[Any]:
        if self._cells is None:
            return np.asarray(cell)
        if self._cells == "x":
            return _nested(cell)
        held = cell.as_py()
        data = held.get("bytes") if isinstance(held, dict) else held
        if not isinstance(data, bytes):
            raise DataError("the row holds no image bytes")
        return decode_image(data, self._decoding.shape, self._decoding.dtype)

    def close(self) -> None:
        self._table.close()


def cell_column(schema: Any) -> str | None:
    """The column whose cells are whole inputs, ``x`` of lists or ``image`` of files; ``None`` of a table of features."""
    import pyarrow as pa

    if "x" in schema.names and hasattr(schema.field("x").type, "value_type"):
        return None if pa.types.is_dictionary(schema.field("x").type) else "x"
    if "image" not in schema.names:
        return None
    kind = schema.field("image").type
    return "image" if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


def _nested(cell: Any) -> NDArray[Any]:
    """A list of lists of one length each as an array."""
    values = cell.values
    if values is None:
        raise DataError("the row is empty")
    shape = [len(values)]
    while hasattr(values.type, "value_type"):
        lengths = {len(part.values) for part in values if part.values is not None}
        if len(lengths) != 1:
            raise DataError("the row's lists are of different lengths")
        shape.append(lengths.pop())
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
