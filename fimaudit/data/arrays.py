"""Reading inputs: .npz, .npy, .csv and .parquet to arrays, checked before the first query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.errors import DataError

__all__ = ["InputSource", "Inputs", "Row", "check_inputs", "fitting", "read_inputs"]

SUFFIXES = (".npz", ".npy", ".csv", ".parquet")


def fitting(x: NDArray[Any], space: Space) -> NDArray[Any]:
    """One input within the domain.

    Raises:
        DataError: another shape, not numbers, not finite, or out of bounds.
    """
    if x.shape != space.lower.shape:
        raise DataError(f"the input has shape {x.shape}, expected {space.lower.shape}")
    if x.dtype.kind not in "fiub":
        raise DataError(f"the input holds {x.dtype} values, expected real numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError("the input holds NaN or infinite values")
    admitted: NDArray[Any] = space.admit(x[None])[0]
    return admitted


@dataclass(frozen=True)
class Row:
    """One input as read: its array, or why there is none."""

    x: NDArray[Any] | None
    y: int | None = None
    group: str | None = None
    reason: str | None = None


class InputSource(Protocol):
    """Inputs 0 to n - 1, read a few at a time; pickles, so that other processes can read them too."""

    def __len__(self) -> int: ...

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """The inputs at ``indices``, in their order; rising ones are read fastest."""
        ...


@dataclass(frozen=True)
class Inputs:
    """The inputs of an audit with what is known about each.

    Attributes:
        x: (n, \\*shape) numbers, finite.
        y: (n,) integer labels, if given.
        group: (n,) group names, if given.
        names: feature names of a table.
        source: where they came from, for the report.
        whole: names of a table's columns of integers or truth values.
    """

    x: NDArray[Any]
    y: NDArray[np.int64] | None = None
    group: NDArray[Any] | None = None
    names: tuple[str, ...] | None = None
    source: str = "array"
    whole: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """See ``InputSource``."""
        for i in indices:
            y = None if self.y is None else int(self.y[i])
            yield Row(self.x[i], y, None if self.group is None else str(self.group[i]))

    def fingerprint(self) -> str:
        """SHA-256 over shape, dtype and bytes of the inputs."""
        digest = hashlib.sha256(f"{self.x.shape} {self.x.dtype.str}".encode())
        digest.update(np.ascontiguousarray(self.x).view(np.uint8).data)
        return digest.hexdigest()

    def annotations(self) -> str | None:
        """SHA-256 over labels and groups; ``None`` where there are neither."""
        if self.y is None and self.group is None:
            return None
        digest = hashlib.sha256()
        for name, values in (("y", self.y), ("group", self.group)):
            if values is not None:
                digest.update(f"{name}{json.dumps(np.asarray(values).tolist())}".encode())
        return digest.hexdigest()


def read_inputs(path: str | Path) -> Inputs:
    """Read ``x`` (n, \\*shape), and where present ``y`` and ``group``, from a file.

    ``.npz`` holds arrays of these names, ``.npy`` is x alone, ``.csv`` and ``.parquet`` are tables with one feature a
    column (columns ``y`` and ``group`` are taken out).

    Raises:
        DataError: missing, unreadable, no x, or not numbers.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"no such data file: {file}; give a .npz with an array x, a .npy, a .csv or a .parquet")
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"expected data in {', '.join(SUFFIXES)}, got {file.name}")
    try:
        if suffix == ".npz":
            return _from_npz(file)
        if suffix == ".npy":
            return _from_npy(file)
        return _from_table(file, suffix)
    except DataError:
        raise
    except Exception as exc:
        what = " ".join(str(exc).split())[:200]
        raise DataError(f"could not read {file} as {suffix}: {type(exc).__name__}: {what}") from exc


def _from_npy(file: Path) -> Inputs:
    with open(file, "rb") as opened:
        x = np.load(opened, allow_pickle=False)
        if not isinstance(x, np.ndarray):
            raise DataError(f"{file} is a .npz archive; give it that ending")
    return Inputs(x, source=str(file))


def _from_npz(file: Path) -> Inputs:
    with open(file, "rb") as opened:
        archive = np.load(opened, allow_pickle=False)
        if not hasattr(archive, "files"):
            raise DataError(f"{file} is not a .npz archive; expected one that holds an array x")
        if "x" not in archive.files:
            raise DataError(f"{file} holds {', '.join(archive.files) or 'nothing'}; expected an array called x")
        x = archive["x"]
        y = archive["y"] if "y" in archive.files else None
        group = archive["group"] if "group" in archive.files else None
    return Inputs(x, y, group, source=str(file))


def _from_table(file: Path, suffix: str) -> Inputs:
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.csv.read_csv(file) if suffix == ".csv" else pyarrow.parquet.read_table(file)
    columns = [name for name in table.column_names if name not in ("y", "group")]
    if not columns:
        raise DataError(f"{file} has no feature columns")
    features, whole = [], []
    for name in columns:
        values = table.column(name).to_numpy()
        if values.dtype.kind not in "fiub":
            raise DataError(
                f"column {name!r} of {file.name} holds {values.dtype} values, expected numbers; "
                "encode it as the model was trained, or leave it out"
            )
        if values.dtype.kind in "iub":
            whole.append(name)
        features.append(values.astype(np.float64))
    y = table.column("y").to_numpy() if "y" in table.column_names else None
    group = np.asarray(table.column("group").to_pylist()) if "group" in table.column_names else None
    return Inputs(np.stack(features, axis=1), y, group, tuple(columns), str(file), tuple(whole))


def check_inputs(inputs: Inputs, expected: Sequence[int | None] | None) -> Inputs:
    """Refuse what cannot be audited, before the first query.

    Args:
        inputs: as read.
        expected: the model's shape of one input, ``None`` where an axis or all of it is free.

    Raises:
        DataError: empty, wrong shape, not numbers, NaN or infinite, labels or groups of another length.
    """
    x = np.asarray(inputs.x)
    if x.dtype.kind not in "fiub":
        raise DataError(f"expected x to hold real numbers, got dtype {x.dtype}")
    if x.ndim < 2:
        raise DataError(f"expected x of shape (inputs, *shape of one input), got {x.shape}; add the axis of inputs first")
    if x.size == 0:
        raise DataError(f"expected at least one input, got x of shape {x.shape}")
    if expected is not None:
        wanted = tuple(expected)
        fits = len(wanted) == x.ndim - 1 and all(
            w is None or w == have for w, have in zip(wanted, x.shape[1:], strict=False)
        )
        if not fits:
            shown = "(" + ", ".join("any" if w is None else str(w) for w in wanted) + ")"
            raise DataError(f"the model takes inputs of shape {shown}, but x holds inputs of shape {x.shape[1:]}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = np.unique(np.argwhere(~np.isfinite(x))[:, 0])
        raise DataError(
            f"expected finite inputs, got NaN or infinite values in {len(bad)} of {len(x)} inputs (first: input {bad[0]})"
        )
    y = _labels(inputs.y, len(x))
    group = None if inputs.group is None else np.asarray(inputs.group).astype(str)
    if group is not None and group.shape != (len(x),):
        raise DataError(f"expected one group for each of {len(x)} inputs, got shape {group.shape}")
    return Inputs(x, y, group, inputs.names, inputs.source, inputs.whole)


def _labels(y: Any, count: int) -> NDArray[np.int64] | None:
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise DataError(f"expected one label for each of {count} inputs, got y of shape {labels.shape}")
    if labels.dtype.kind not in "iubf" or not np.array_equal(labels, labels.astype(np.int64)):
        raise DataError(f"expected integer labels in y, got {labels.dtype} values")
    return labels.astype(np.int64)
