"""Some rows of one array in a .npy or .npz file, read by their place in it."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import MOST_UNPACKED, Row, real_text
from fimaudit.data.packed_files import checked_members
from fimaudit.data.shard_reader import damage
from fimaudit.data.table_columns import ColumnFacts
from fimaudit.errors import DataError
from fimaudit.models.classes import group_name

__all__ = ["NpyShard", "NpzShard"]

#: Axes of an array in numpy.
MOST_AXES = 32
#: A file that broke off in copying is read as far as it goes; one that holds so much less than it says is no such file.
FEWEST_OF_A_TORN_FILE = 1000


class NpyShard:
    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._file, self._x = file, _Array(path, file, _size(file))
        self.count = self._x.count

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            try:
                yield Row(self._x.row(position))
            except Exception as exc:
                yield Row(None, reason=damage(exc))

    def close(self) -> None:
        self._file.close()


class NpzShard:
    facts: tuple[ColumnFacts, ...] = ()

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(file)
        members = {info.filename.removesuffix(".npy"): info for info in checked_members(self._archive)}
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
        if info.file_size > MOST_UNPACKED:
            raise DataError(
                f"{info.filename} of {path} unpacks to {info.file_size / 2**30:,.1f} GiB, too much for one a row"
            )
        with self._archive.open(info) as member:
            values = np.lib.format.read_array(member, allow_pickle=False)
        if values.ndim == 0 or len(values) != self.count:
            raise DataError(f"{path} holds {self.count} inputs, but {values.shape} values in {info.filename}")
        return list(real_text(values).tolist())

    def rows(self, positions: Sequence[int]) -> Iterator[Row]:
        for position in positions:
            y = None if self._y is None else self._y[position]
            group = None if self._group is None else group_name(self._group[position])
            try:
                yield Row(self._x.row(position), y, group)
            except Exception as exc:  # of zipfile, zlib and numpy
                yield Row(None, y, group, damage(exc))

    def close(self) -> None:
        self._archive.close()
        self._file.close()


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
            raise DataError(f"{name} names {self.count} inputs and holds {self._held // self._bytes}; copy it again")

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
