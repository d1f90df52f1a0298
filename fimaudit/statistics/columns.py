"""Many results as columns of numbers: what a summary needs of each, in about 100 bytes an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.results import QUANTITY_NAMES, Interval, Sensitivity
from fimaudit.statistics.confidence import contrast_counts, contrast_sign

__all__ = ["Columns", "IntervalArray"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class IntervalArray:
    """One quantity of n inputs with its limits: a spectral norm in 1 / unit^2 or a radius in unit, that of the input domain.

    Attributes:
        value: (n,) NaN where unmeasured.
        lower: (n,) 0 where unknown.
        upper: (n,) inf where unknown.
    """

    value: Array
    lower: Array
    upper: Array

    @classmethod
    def of(cls, cells: Sequence[Interval]) -> IntervalArray:
        """From intervals, in their order.

        >>> IntervalArray.of([Interval(value=1.0, lower=0.5), Interval()]).upper.tolist()
        [inf, inf]
        """
        return cls(
            np.array([np.nan if c.value is None else c.value for c in cells], dtype=np.float64),
            np.array([0.0 if c.lower is None else c.lower for c in cells], dtype=np.float64),
            np.array([np.inf if c.upper is None else c.upper for c in cells], dtype=np.float64),
        )


@dataclass(frozen=True)
class Columns:
    """What a summary needs of n inputs, each (n,).

    >>> inputs = [Sensitivity(index=i, status="ok", method="rademacher", queries=200, group="ab"[i]) for i in range(2)]
    >>> table = Columns.of(inputs)
    >>> table.contrasts.tolist(), table.group.tolist(), table.groups
    ([198, 198], [0, 1], ('a', 'b'))

    Attributes:
        index: position in the data.
        status: as in ``Sensitivity``.
        queries: rows an input got in its estimate.
        contrasts: of random directions (``confidence.contrast_counts``).
        limits: by quantity: ``spectral_norm``, ``peak_spectral_norm``, ``margin_radius``.
        group: number of its group in ``groups``, -1 without one.
        groups: names of the groups, sorted.
        right: 1 where the answer is the label, 0 where it is another, -1 where one of them is unknown.
    """

    index: NDArray[np.int64]
    status: NDArray[np.str_]
    queries: NDArray[np.int64]
    contrasts: NDArray[np.int64]
    limits: dict[str, IntervalArray]
    group: NDArray[np.int32]
    groups: tuple[str, ...]
    right: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, inputs: Sequence[Sensitivity]) -> Columns:
        """From results in memory, in their order."""
        groups = tuple(sorted({s.group for s in inputs if s.group is not None}))
        number = {name: i for i, name in enumerate(groups)}
        return cls(
            np.array([s.index for s in inputs], dtype=np.int64),
            np.array([s.status for s in inputs], dtype=np.str_),
            np.array([s.queries for s in inputs], dtype=np.int64),
            contrast_counts(inputs),
            {name: IntervalArray.of([getattr(s, name) for s in inputs]) for name in QUANTITY_NAMES},
            np.array([-1 if s.group is None else number[s.group] for s in inputs], dtype=np.int32),
            groups,
            np.array([_right(s) for s in inputs], dtype=np.int8),
        )

    @classmethod
    def read(cls, path: Path | Sequence[Path]) -> Columns:
        """From ``inputs.parquet``, or from parts of it; the other columns stay on disk.

        Raises:
            FileNotFoundError: no such file.
            pyarrow.ArrowInvalid: no Parquet file, or one without these columns; a ``ValueError``.
        """
        import pyarrow.compute as pc
        import pyarrow.dataset as ds

        data = ds.dataset(path if isinstance(path, Path) else [str(p) for p in path], format="parquet")

        def column(name: str) -> Any:
            """One at a time and on one thread: all together would take several times the memory."""
            return data.to_table(columns=[name], use_threads=False).column(0)

        def numbers(name: str, unknown: float) -> Array:
            return np.asarray(pc.fill_null(column(name), unknown).to_numpy(), dtype=np.float64)

        methods = column("method").dictionary_encode().combine_chunks()
        signs = np.array([contrast_sign(str(m)) for m in methods.dictionary.to_pylist()], dtype=np.int64)
        queries = np.asarray(column("queries").to_numpy(), dtype=np.int64)
        statuses = column("status").dictionary_encode().combine_chunks()
        named = column("group").dictionary_encode().combine_chunks()
        names = named.dictionary.to_pylist()
        order = {name: i for i, name in enumerate(sorted(names))}
        place = np.array([*(order[name] for name in names), -1], dtype=np.int32)
        return cls(
            np.asarray(column("index").to_numpy(), dtype=np.int64),
            np.array(statuses.dictionary.to_pylist(), dtype=np.str_)[statuses.indices.to_numpy()],
            queries,
            signs[methods.indices.to_numpy()] * np.maximum(queries - 2, 0),
            {
                n: IntervalArray(numbers(n, np.nan), numbers(f"{n}_lower", 0.0), numbers(f"{n}_upper", np.inf))
                for n in QUANTITY_NAMES
            },
            place[np.asarray(pc.fill_null(named.indices, -1).to_numpy())],
            tuple(sorted(names)),
            np.asarray(pc.fill_null(pc.cast(pc.equal(column("label"), column("predicted_class")), "int8"), -1).to_numpy()),
        )

    def where(self, mask: NDArray[Any]) -> Columns:
        """Some of the inputs, by a mask (n,) or by positions; ``groups`` keeps the names of all."""
        return Columns(
            self.index[mask],
            self.status[mask],
            self.queries[mask],
            self.contrasts[mask],
            {n: IntervalArray(c.value[mask], c.lower[mask], c.upper[mask]) for n, c in self.limits.items()},
            self.group[mask],
            self.groups,
            self.right[mask],
        )

    def most_sensitive(self, count: int) -> NDArray[np.int64]:
        """Positions of the inputs with the smallest margin radius; where none is measured, those with the largest norm.

        Ties go to the larger norm, then to the smaller ``index``; inputs with neither are left out.

        Returns:
            (``count``,) or fewer, the most sensitive first.
        """
        radius, norm = self.limits["margin_radius"].value, self.limits["spectral_norm"].value
        measured = np.flatnonzero(~np.isnan(radius) | ~np.isnan(norm))
        keys = (self.index, -np.nan_to_num(norm, nan=0.0), np.where(np.isnan(radius), np.inf, radius))
        return np.asarray(measured[np.lexsort([key[measured] for key in keys])][:count], dtype=np.int64)


def _right(s: Sensitivity) -> int:
    return -1 if s.label is None or s.predicted_class is None else int(s.label == s.predicted_class)
