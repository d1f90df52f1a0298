"""What reads some inputs out of a large file, and what it must know of the model that takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fimaudit.data.arrays import Row
from fimaudit.data.table_columns import ColumnFacts
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import FimauditError
from fimaudit.foreign_errors import foreign
from fimaudit.models.columns import TableColumn

__all__ = ["Decoding", "Files", "Reader", "damage"]


def damage(exc: Exception) -> str:
    """Why an input of a file cannot be read: our own sentence, or that the file is damaged and what its reader said."""
    return str(exc) if isinstance(exc, FimauditError) else f"the file is damaged here ({foreign(exc)})"


@dataclass(frozen=True)
class Decoding:
    """What a model takes, for files whose bytes do not say: images; how tables are read, and what their columns are."""

    shape: tuple[int | None, ...] | None = None
    dtype: str = "float32"
    reading: TableReading = field(default_factory=TableReading)
    columns: tuple[TableColumn, ...] = ()


@dataclass(frozen=True)
class Files:
    """Image files that stand for one shard: paths, and the label and group that each file's folder gives it."""

    paths: tuple[str, ...]
    labels: tuple[str | int | None, ...]
    groups: tuple[str | None, ...]


class Reader(Protocol):
    """An open shard; positions count from 0 within it.

    Attributes:
        count: of its inputs.
    """

    count: int

    @property
    def facts(self) -> tuple[ColumnFacts, ...]:
        """Of a table: what is known of its feature columns."""
        ...

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        """The inputs at these positions, in their order; rising positions are read fastest."""
        ...

    def close(self) -> None: ...
