"""Some inputs out of one large file, without reading the rest: .npz, .npy, .parquet, WebDataset .tar, and image files."""

from __future__ import annotations

import bisect
import io
import json
import math
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Row
from fimaudit.data.csv_files import CSV_SUFFIXES
from fimaudit.data.filesystems import open_file
from fimaudit.data.images import IMAGE_SUFFIXES, decode_image
from fimaudit.data.table_columns import ColumnFacts, join_columns, table_numbers
from fimaudit.data.table_reading import TableReading
from fimaudit.data.table_shards import CsvTable, ParquetTable, RowGroups, table_facts
from fimaudit.data.tables import labels_and_groups
from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = ["SHARD_SUFFIXES", "Decoding", "Files", "Reader", "cell_column", "open_shard"]

SHARD_SUFFIXES = (".npz", ".npy", ".parquet", ".tar")
#: Axes of an array in numpy.
MOST_AXES = 32
#: A file that broke off in copying is read as far as it goes; one that holds so much less than it says is no such file.
FEWEST_OF_A_TORN_FILE = 1000
#: Columns that hold labels beside arrays or images, the first that is there.
LABELS = ("y", "label")


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
        """Of a table: what it tells of its feature columns."""
        ...

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        """The inputs at these positions, in their order; rising positions are read fastest."""
        ...

    def close(self) -> None: ...


def open_shard(path: str, decoding: Decoding, files: Files | None = None) -> Reader:
    """Open a shard by its ending, or the image files that stand for one.

    Raises:
        DataError: not such a file, or damaged.
    """
    if files is not None:
        return _ImageFiles(files, decoding)
    suffix = PurePosixPath(path).suffix.lower()
    try:
        file = open_file(path)
        try:
            if suffix == ".npz":
                return _Npz(path, file)
            if suffix == ".npy":
                return _Npy(path, file)
            if suffix == ".parquet":
                return _Table(path, ParquetTable(file), decoding)
            if suffix in CSV_SUFFIXES:
                return _Table(path, CsvTable(path, file, decoding.reading), decoding)
            return _Tar(path, file, decoding)
        except BaseException:
            file.close()
            raise
    except DataError:
        raise
    except Exception as exc:
        what = " ".join(str(exc).split())[:200]
        raise DataError(f"could not read {path} as {suffix}: {type(exc).__name__}: {what}") from exc


class _Array:
    """Rows of one array in .npy format, read by their place in a file."""

    def __init__(self, name: str, file: IO[bytes], size: int) -> None:
        began = file.tell()
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, by_column, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DataError(f"{name} holds an array of format {version}, expected 1.0 or 2.0; save it with numpy.save")
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects; expected numbers")
        if by_column and len(shape) > 1:
            raise DataError(f"{name} is stored column by column, so single inputs cannot be read; save it in C order")
        if not shape:
            raise DataError(f"expected {name} to hold (inputs, *shape), got a single number")
        self._file, self._start, self._dtype = file, file.tell(), dtype
        self.count, self._shape = int(shape[0]), tuple(int(n) for n in shape[1:])
        self._bytes = math.prod(self._shape) * dtype.itemsize
        self._held = size - (self._start - began)
        if min(shape) < 0 or len(shape) > MOST_AXES or self._bytes < 1:
            raise DataError(f"expected {name} to hold inputs of some numbers each, got shape {str(shape)[:80]} of {dtype}")
        if self.count > FEWEST_OF_A_TORN_FILE * (1 + self._held // self._bytes):
            raise DataError(f"{name} speaks of {self.count} inputs and holds {self._held // self._bytes}; copy it again")

    def row(self, position: int) -> NDArray[Any]:
        if (position + 1) * self._bytes > self._held:
            raise DataError("the file ends before this input")
        self._file.seek(self._start + position * self._bytes)
        data = self._file.read(self._bytes)
        if len(data) < self._bytes:
            raise DataError("the file ends before this input")
        return np.frombuffer(data, self._dtype).reshape(self._shape)


def _size(file: IO[bytes]) -> int:
    """Bytes of an open file, which is then at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


class _Npy:
    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._file, self._x = file, _Array(path, file, _size(file))
        self.count = self._x.count

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            try:
                yield Row(self._x.row(position))
            except DataError as exc:
                yield Row(None, reason=str(exc))

    def close(self) -> None:
        self._file.close()


class _Npz:
    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(file)
        members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        if "x" not in members:
            raise DataError(f"{path} holds {', '.join(members)[:200] or 'nothing'}; expected an array called x")
        self._x = _Array(path, self._member(members["x"]), members["x"].file_size)
        self.count = self._x.count
        self._y, self._group = (self._whole(path, members.get(name)) for name in ("y", "group"))

    def _member(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """The array's bytes: by place in the file itself where they are stored as they are, else unpacked in passing."""
        if info.compress_type != zipfile.ZIP_STORED:
            return self._archive.open(info)
        self._file.seek(info.header_offset)
        name, extra = struct.unpack("<HH", self._file.read(30)[26:30])
        self._file.seek(info.header_offset + 30 + name + extra)
        return self._file

    def _whole(self, path: str, info: zipfile.ZipInfo | None) -> list[Any] | None:
        if info is None:
            return None
        with self._archive.open(info) as member:
            values = np.lib.format.read_array(member, allow_pickle=False)
        if values.ndim == 0 or len(values) != self.count:
            raise DataError(f"{path} holds {self.count} inputs, but {values.shape} values in {info.filename}")
        return list(values.tolist())

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            y = None if self._y is None else self._y[position]
            group = None if self._group is None else str(self._group[position])
            try:
                yield Row(self._x.row(position), y, group)
            except (DataError, zipfile.BadZipFile, EOFError) as exc:
                yield Row(None, y, group, f"the file is damaged here ({exc})")

    def close(self) -> None:
        self._archive.close()
        self._file.close()


class _Table:
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
            what = " ".join(str(exc).split())[:200]
            raise DataError(f"{self._path} is damaged inside ({type(exc).__name__}: {what}); copy it again") from exc

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
            except DataError as exc:
                yield Row(None, reason=str(exc))
                continue
            except Exception as exc:  # pyarrow has many for a file that is damaged inside
                what = " ".join(str(exc).split())[:200]
                yield Row(None, reason=f"the file is damaged here ({type(exc).__name__}: {what})")
                continue
            at = position - int(self._table.starts[k])
            y = None if labels is None else labels[at]
            group = None if groups is None else str(groups[at])
            try:
                yield Row(self._input(x[at]), y, group)
            except (DataError, ValueError, TypeError) as exc:
                yield Row(None, y, group, str(exc))

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


@dataclass
class _Sample:
    """Members of one sample of a tar: where its input and its label lie."""

    input: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = field(default=None)


class _Tar:
    """WebDataset: files that share a name up to its first dot are one sample: ``a/0001.jpg`` and ``a/0001.cls``."""

    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, path: str, file: IO[bytes], decoding: Decoding) -> None:
        self._file, self._decoding = file, decoding
        self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
        found: dict[str, _Sample] = {}
        for member in self._tar:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            suffix = dot + ending.lower()
            sample = found.setdefault(f"{folder}/{stem}", _Sample())
            if suffix in (*IMAGE_SUFFIXES, ".npy"):
                sample.input = member
            elif suffix in (".cls", ".json"):
                sample.label = member if sample.label is None or suffix == ".cls" else sample.label
        self._samples = [sample for sample in found.values() if sample.input is not None]
        self.count = len(self._samples)

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            sample = self._samples[position]
            y: Any = None
            try:
                y = self._label(sample)
                yield Row(self._x(sample), y)
            except (DataError, ValueError, OSError, EOFError, MemoryError, RecursionError, tarfile.TarError) as exc:
                name = "" if sample.input is None else f"{sample.input.name}: "
                yield Row(None, y, reason=f"{name}{exc}")

    def _x(self, sample: _Sample) -> NDArray[Any]:
        assert sample.input is not None
        data = self._bytes(sample.input)
        if sample.input.name.lower().endswith(".npy"):
            try:
                return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
            except Exception as exc:  # numpy reads a header as Python, with every error of that
                raise DataError(f"it cannot be read as .npy ({type(exc).__name__})") from exc
        return decode_image(data, self._decoding.shape, self._decoding.dtype)

    def _label(self, sample: _Sample) -> Any:
        if sample.label is None:
            return None
        text = self._bytes(sample.label).decode("utf-8")
        if sample.label.name.endswith(".cls"):
            return int(text) if text.strip().lstrip("-").isdigit() else text.strip()
        parsed = json.loads(text)
        label = parsed.get("label") if isinstance(parsed, dict) else None
        return label if isinstance(label, int | float | str) else None

    def _bytes(self, member: tarfile.TarInfo) -> bytes:
        if member.issparse():  # a few bytes that stand for as many as they like
            raise DataError("the tar stores this file with holes in it; pack it without --sparse")
        opened = self._tar.extractfile(member)
        if opened is None:
            raise DataError("the tar holds no file here")
        return opened.read()

    def close(self) -> None:
        self._tar.close()
        self._file.close()


class _ImageFiles:
    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, files: Files, decoding: Decoding) -> None:
        self._files, self._decoding = files, decoding
        self.count = len(files.paths)

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for at in positions:
            path, y, group = self._files.paths[at], self._files.labels[at], self._files.groups[at]
            try:
                with open_file(path) as file:
                    data = file.read()
                yield Row(decode_image(data, self._decoding.shape, self._decoding.dtype), y, group)
            except (DataError, OSError) as exc:
                yield Row(None, y, group, f"{path}: {exc}")

    def close(self) -> None:
        """Nothing is held open."""
