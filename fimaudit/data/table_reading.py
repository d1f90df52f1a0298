"""How a table is read: which of its columns are labels, groups, or no features at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = ["TableReading", "refuse_twice"]

#: Names of columns that hold labels and groups where none was named.
LABEL, GROUP = "y", "group"


@dataclass(frozen=True)
class TableReading:
    """How a table is read.

    Attributes:
        label: column of labels; ``y`` where there is one when left out. group: column of groups, likewise ``group``.
        drop: columns that are left out.
        index: column that names the rows, left out too.
        separator: between the cells of a CSV line; a comma when left out.
        decimal: the sign before the fractions of a CSV's numbers; a point when left out.
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
    decimal: str | None = None

    def features(self, names: Sequence[str], source: str) -> list[str]:
        """The columns that are features, in their order.

        Raises:
            DataError: a column that was named is not there, two of one name, or nothing is left.
        """
        refuse_twice(names, source)
        named = [(self.label, "--label"), (self.group, "--group"), (self.index, "--index")]
        named += [(name, "--drop") for name in self.drop] + [(name, "--categorical") for name in self.categorical]
        for name, flag in named:
            if name is not None and name not in names:
                raise DataError(f"{flag} names the column {name!r}, but {source} has {', '.join(map(repr, names[:30]))}")
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

    def whole(self, columns: Sequence[TableColumn]) -> tuple[str, ...]:
        """Names of the columns whose numbers may be categories: integers, truth values, and those that are said to be."""
        return tuple(c.name for c in columns if c.kind in ("whole", "truth") or c.name in self.categorical)


def refuse_twice(names: Sequence[str], source: str) -> None:
    """Refuse a table with two columns of one name.

    Raises:
        DataError: it has them.
    """
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice:
        raise DataError(f"{source} has two columns called {min(twice)!r}; give each a name of its own")
