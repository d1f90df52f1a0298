"""Reading inputs: .npz, .npy, .csv and .parquet to arrays, checked before the first query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.csv_files import data_suffix
from fimaudit.data.images import as_model_takes
from fimaudit.data.packed_files import checked_members
from fimaudit.data.table_reading import TableReading
from fimaudit.data.tables import Table, arrow_table, read_table, table_of
from fimaudit.errors import DataError
from fimaudit.foreign_errors import translated
from fimaudit.models.classes import ClassLabels, group_name
from fimaudit.models.columns import TableColumn
from fimaudit.models.packing import Packing
from fimaudit.space import Space

__all__ = [
    "InputSource",
    "Inputs",
    "Row",
    "check_inputs",
    "finite_or_missing",
    "fitting",
    "read_inputs",
    "real_text",
    "table_inputs",
]

SUFFIXES = (".npz", ".npy", ".csv", ".parquet", ".tsv")
NUMPY_STARTS = (b"PK", b"\x93NUMPY")
#: A packed .npz of a few megabytes may unpack to as many gigabytes; one of more than this is read as it is stored, or not.
MOST_UNPACKED = 4 * 2**30
#: Of Unicode; those from D800 to DFFF stand in pairs for others, and for nothing alone.
LAST_CHARACTER = 0x10FFFF


def fitting(x: NDArray[Any], space: Space) -> NDArray[Any]:
    """One input within the domain.

    Raises:
        DataError: another shape, not numbers, not finite, or out of bounds.
    """
    if x.shape != space.lower.shape:
        raise DataError(f"the input has shape {x.shape}, expected {space.lower.shape}")
    if x.dtype.kind not in "fiub":
        raise DataError(f"the input holds {x.dtype} values, expected real numbers")
    if not finite_or_missing(x):
        raise DataError("the input holds NaN or infinite values")
    if space.missing(x) is not None and not space.holding(x).features:
        raise DataError("every value of this input that may change is missing")
    admitted: NDArray[Any] = space.admit(x[None])[0]
    return admitted


def finite_or_missing(x: NDArray[Any]) -> bool:
    """Whether one input holds finite numbers; one of a table may have gaps (NaN), which are held."""
    if x.dtype.kind != "f" or bool(np.isfinite(x).all()):
        return True
    return x.ndim == 1 and not np.isinf(x).any()


@dataclass(frozen=True)
class Row:
    """One input as read: its array, or why there is none; its label as it stands in the data; what is held beside it."""

    x: NDArray[Any] | None
    y: Any = None
    group: str | None = None
    reason: str | None = None
    held: NDArray[np.float64] | None = None


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
        x: (n, \\*shape) numbers, finite; NaN where a table has gaps.
        y: (n,) labels, or (n, findings) where several do not exclude each other, if given: as they stand in the data, (n,)
            columns of the answer once they are checked.
        classes: names of all classes of the data, in the order in which labels that are positions count them.
        group: (n,) group names, if given.
        names: feature names of a table.
        source: where they came from, for the report.
        whole: names of a table's columns of integers or truth values.
        columns: of a table: what each column is.
        images: whether x holds decoded images, (n, H, W) or (n, H, W, 3), not yet as a model takes them.
        frame: whether it was a table in memory.
        packing, held: what further inputs of the model hold beside each of these: (n, held) numbers, and what they are.
    """

    x: NDArray[Any]
    y: NDArray[Any] | None = None
    group: NDArray[Any] | None = None
    names: tuple[str, ...] | None = None
    source: str = "array"
    whole: tuple[str, ...] = ()
    columns: tuple[TableColumn, ...] = ()
    images: bool = False
    frame: bool = False
    packing: Packing | None = None
    held: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()

    def for_model(self, shape: Sequence[int | None] | None, dtype: str) -> Inputs:
        """Decoded images as a model takes them."""
        return replace(self, x=np.stack([as_model_takes(one, shape, dtype) for one in self.x]), images=False)

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """See ``InputSource``."""
        for i in indices:
            y = None if self.y is None else np.asarray(self.y[i]).item()
            yield Row(self.x[i], y, None if self.group is None else str(self.group[i]))

    def fingerprint(self) -> str:
        """SHA-256 over shape, dtype and bytes of the inputs."""
        digest = hashlib.sha256(f"{self.x.shape} {self.x.dtype.str}".encode())
        digest.update(np.ascontiguousarray(self.x).view(np.uint8).data)
        if self.held is not None:
            digest.update(repr(self.packing).encode() + np.ascontiguousarray(self.held).view(np.uint8).tobytes())
        if any(column.coded for column in self.columns):  # equal numbers may stand for other words
            digest.update(repr([(c.name, c.kind, list(map(str, c.values))) for c in self.columns]).encode())
        return digest.hexdigest()

    def annotations(self) -> str | None:
        """SHA-256 over labels and groups; ``None`` where there are neither."""
        if self.y is None and self.group is None:
            return None
        digest = hashlib.sha256()
        for name, values in (("y", self.y), ("group", self.group)):
            if values is not None:
                digest.update(f"{name}{json.dumps(np.asarray(values).tolist(), default=str)}".encode())
        return digest.hexdigest()


def read_inputs(path: str | Path, reading: TableReading | None = None) -> Inputs:
    """Read ``x`` (n, \\*shape), and where present ``y`` and ``group``, from a file.

    ``.npz`` holds arrays of these names, ``.npy`` is x alone, ``.csv`` and ``.parquet`` are tables with one feature a
    column (columns ``y`` and ``group``, or those that ``reading`` names, are taken out).

    Raises:
        DataError: missing, unreadable, no x, or not numbers.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"no such data file: {file}; give a .npz with an array x, a .npy, a .csv or a .parquet")
    suffix = data_suffix(file.name)
    if suffix not in SUFFIXES or file.is_dir():
        raise DataError(f"expected data in {', '.join(SUFFIXES)}, got {'the folder ' if file.is_dir() else ''}{file.name}")
    with translated(DataError, f"could not read {file} as {suffix}"):
        if suffix in (".npz", ".npy"):
            _check_start(file, suffix)
        if suffix == ".npz":
            return _from_npz(file)
        if suffix == ".npy":
            return _from_npy(file)
        reading = reading or TableReading()
        return _from_table(read_table(file, reading), reading, str(file))


def _check_start(file: Path, suffix: str) -> None:
    """Refuse what numpy would take for a pickle, and recommend to trust."""
    with open(file, "rb") as opened:
        start = opened.read(6)
    if not start.startswith(NUMPY_STARTS):
        found = f"is not a {suffix} file" if start else "is empty"
        raise DataError(f"{file} {found}; write it with numpy.{'savez' if suffix == '.npz' else 'save'}")


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
            raise DataError(
                f"{file} holds {', '.join(archive.files)[:200] or 'nothing'}; expected an array called x (and y, group): "
                f"numpy.savez({file.name!r}, x=..., y=...)"
            )
        unpacked = sum(info.file_size for info in checked_members(archive.zip))
        if unpacked > MOST_UNPACKED:
            raise DataError(
                f"{file} unpacks to {unpacked / 2**30:,.1f} GiB, more than the {MOST_UNPACKED // 2**30} that are held; "
                "save it with numpy.savez, unpacked, which is read a few inputs at a time"
            )
        x = archive["x"]
        y = archive["y"] if "y" in archive.files else None
        group = archive["group"] if "group" in archive.files else None
    return Inputs(x, y, group, source=str(file))


def table_inputs(x: Any, reading: TableReading) -> Inputs:
    """A table in memory: pandas, polars, Arrow, or a structured array.

    Raises:
        DataError: as ``read_inputs``.
    """
    table = table_of(arrow_table(x), reading, "the table")
    return replace(_from_table(table, reading, type(x).__name__), frame=True)


def _from_table(table: Table, reading: TableReading, source: str) -> Inputs:
    names = tuple(column.name for column in table.columns)
    whole = reading.whole(table.columns)
    return Inputs(table.x, table.y, table.group, names, source, whole, table.columns)


def check_inputs(inputs: Inputs, expected: Sequence[int | None] | None, labels: ClassLabels | None = None) -> Inputs:
    """Refuse what cannot be audited, before the first query; labels become columns of the answer.

    Args:
        inputs: as read.
        expected: the model's shape of one input, ``None`` where an axis or all of it is free.
        labels: how labels are matched with classes; they are columns' numbers when left out.

    Raises:
        DataError: empty, wrong shape, not numbers, infinite, NaN other than in a table, labels that match no class, labels
            or groups of another length.
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
        bad = [i for i, one in enumerate(x) if not finite_or_missing(one)]
        if bad:
            raise DataError(
                f"expected finite inputs, got NaN or infinite values in {len(bad)} of {len(x)} inputs "
                f"(first: input {bad[0]})"
            )
    with translated(DataError, "the labels y hold what is no label"):
        y = _labels(inputs.y, len(x), labels or ClassLabels())
    with translated(DataError, "the groups hold what is no text or number; save them as str"):
        group = _groups(inputs.group, len(x))
    return replace(inputs, x=x, y=y, group=group)


def _labels(y: Any, count: int, classes: ClassLabels) -> NDArray[np.int64] | None:
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count:
        raise DataError(f"expected one label for each of {count} inputs, got y of shape {labels.shape}")
    return classes.positions(real_text(labels).tolist())


def _groups(given: Any, count: int) -> NDArray[np.str_] | None:
    if given is None:
        return None
    group = np.asarray(given)
    if group.shape != (count,):
        raise DataError(f"expected one group for each of {count} inputs, got shape {group.shape}")
    if group.dtype.kind in "fO":
        group = np.array([group_name(one) for one in group.tolist()])
    return real_text(group.astype(str))


def real_text(values: NDArray[Any]) -> NDArray[Any]:
    """The values of a file, refused where they are text with characters that there are not: numpy takes any bytes.

    Raises:
        ValueError: so it is.
    """
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        codes = np.ascontiguousarray(values).view(values.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max() > LAST_CHARACTER or bool(((codes >= 0xD800) & (codes <= 0xDFFF)).any()):
            raise ValueError("it is no Unicode text")
    return values
