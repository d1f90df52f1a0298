"""Some inputs out of one large file, without reading the rest: .npz, .npy, .parquet, WebDataset .tar, and image files."""

from __future__ import annotations

from fimaudit.data.array_shards import NpyShard, NpzShard
from fimaudit.data.csv_files import CSV_SUFFIXES, data_suffix, read_csv
from fimaudit.data.filesystems import open_file
from fimaudit.data.image_shards import ImageFilesShard, TarShard
from fimaudit.data.shard_reader import Decoding, Files, Reader
from fimaudit.data.table_inputs import TableShard
from fimaudit.data.table_shards import ParquetTable, WholeTable
from fimaudit.errors import DataError
from fimaudit.foreign_errors import translated

__all__ = ["SHARD_SUFFIXES", "open_shard"]

SHARD_SUFFIXES = (".npz", ".npy", ".parquet", ".tar")


def open_shard(path: str, decoding: Decoding, files: Files | None = None) -> Reader:
    """Open a shard by its ending, or the image files that stand for one.

    Raises:
        DataError: not such a file, or damaged.
    """
    if files is not None:
        return ImageFilesShard(files, decoding)
    suffix = data_suffix(path)
    with translated(DataError, f"could not read {path} as {suffix}"):
        file = open_file(path)
        try:
            if suffix == ".npz":
                return NpzShard(path, file)
            if suffix == ".npy":
                return NpyShard(path, file)
            if suffix == ".parquet":
                return TableShard(path, ParquetTable(file), decoding)
            if suffix in CSV_SUFFIXES:
                with file:
                    table = read_csv(file.read(), path, decoding.reading)
                return TableShard(path, WholeTable(table, written=True), decoding)
            return TarShard(path, file, decoding)
        except BaseException:
            file.close()
            raise
