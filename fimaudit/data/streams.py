"""Data that need not fit in memory: files by folder, glob or URL, numbered through, and read a few inputs at a time."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import SUFFIXES, Inputs, Row, check_inputs, finite_or_missing, read_inputs
from fimaudit.data.csv_files import CSV_SUFFIXES, data_suffix
from fimaudit.data.filesystems import FoundFiles, find_files, is_url, open_file
from fimaudit.data.held_beside import HeldBeside
from fimaudit.data.images import IMAGE_SUFFIXES, require_decoder
from fimaudit.data.shard_reader import Decoding, Files
from fimaudit.data.shards import SHARD_SUFFIXES, open_shard
from fimaudit.data.table_columns import ColumnFacts, join_columns
from fimaudit.data.table_inputs import cell_column
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import DataError
from fimaudit.models.classes import ClassLabels
from fimaudit.models.columns import TableColumn
from fimaudit.models.packing import Packing
from fimaudit.statistics.spread import evenly_spread

__all__ = ["Shard", "ShardFacts", "Stream", "Surveyor", "first_size", "look_at", "open_data", "survey"]

TABLE_SUFFIXES = (".parquet", *CSV_SUFFIXES)
#: One file of at most this many bytes is read whole and checked whole before the start.
WHOLE_BYTES = 256 * 2**20
#: Domain and pilot look at all inputs up to this many bytes, and at so many of a larger set, spread evenly.
REFERENCE_BYTES = 16 * 2**20
REFERENCE_LEAST, REFERENCE_MOST = 64, 10_000
#: Image files that stand for one shard.
FILES_A_SHARD = 1000
#: Files are counted side by side: behind a network it is the waiting that takes the time.
COUNTERS = 16
SIZES_FILE = "sizes.json"

#: Looks into each shard, in order.
Surveyor = Callable[[Sequence["Shard"], TableReading], Iterable["ShardFacts"]]


@dataclass(frozen=True)
class Shard:
    """A file of inputs, or image files that stand for one.

    Attributes:
        path: path or URL; of a folder where ``files`` are given.
        size: bytes.
        files: the image files.
    """

    path: str
    size: int
    files: Files | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class ShardFacts:
    """What is known of a file: how many inputs it holds and, of a table, what is known of its columns."""

    count: int
    columns: tuple[ColumnFacts, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Inputs 0 to n - 1 in files; what is read, and where, does not depend on who reads it. Pickles small.

    Attributes:
        source: what the user gave.
        shards: the files in order of their names.
        counts: inputs of each.
        decoding: what the model takes, where files hold images, how tables are read, and what their columns are.
        classes: names of a folder's folders, each of which is a class.
        held: what further inputs of the model hold beside each of these.
    """

    source: str
    shards: tuple[Shard, ...]
    counts: tuple[int, ...]
    decoding: Decoding = field(default_factory=Decoding)
    classes: tuple[str, ...] = ()
    held: HeldBeside | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def columns(self) -> tuple[TableColumn, ...]:
        """Of tables, without those that are held by another input of the model."""
        taken = () if self.held is None else self.held.places
        return tuple(column for place, column in enumerate(self.decoding.columns) if place not in taken)

    @property
    def packing(self) -> Packing | None:
        """What rows hold behind the audited numbers."""
        return None if self.held is None else self.held.packing

    @property
    def names(self) -> tuple[str, ...] | None:
        """Feature names of tables."""
        return tuple(column.name for column in self.columns) or None

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of columns of whole numbers."""
        return self.decoding.reading.whole(self.columns)

    @cached_property
    def starts(self) -> list[int]:
        """Index of each shard's first input, and the number of inputs at the end."""
        return [0, *np.cumsum(self.counts).tolist()]

    @property
    def images(self) -> bool:
        """Whether any file holds encoded images."""
        return any(shard.files is not None or shard.name.lower().endswith(".tar") for shard in self.shards)

    def for_model(self, shape: Sequence[int | None] | None, dtype: str) -> Stream:
        """The same inputs, decoded to what a model takes."""
        return replace(self, decoding=replace(self.decoding, shape=None if shape is None else tuple(shape), dtype=dtype))

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """The inputs at ``indices``, in their order; a file that cannot be read gives each of its inputs the reason."""
        numbers = ((bisect.bisect_right(self.starts, i) - 1, int(i)) for i in indices)
        for at, of_shard in groupby(numbers, key=lambda pair: pair[0]):
            positions = [index - self.starts[at] for _, index in of_shard]
            for position, row in zip(positions, self._of_shard(at, positions), strict=True):
                yield row if self.held is None or row.x is None else self._beside(self.starts[at] + position, row)

    def _beside(self, index: int, row: Row) -> Row:
        assert self.held is not None
        x, held = self.held.split(index, np.asarray(row.x))
        if not np.isfinite(held).all():
            return Row(None, row.y, row.group, "a value to hold beside this input is missing or infinite")
        return replace(row, x=x, held=held)

    def reference(self) -> NDArray[np.int64]:
        """Indices of the inputs that stand for all in the pilot and the domain: all of a small set, else spread evenly."""
        first = next(self.rows([0]))
        size = 8 if first.x is None else max(1, first.x.nbytes)
        return evenly_spread(len(self), max(REFERENCE_LEAST, min(REFERENCE_MOST, REFERENCE_BYTES // size)))

    def manifest(self) -> str:
        """SHA-256 over the files' names, sizes and counts: what makes two runs read the same data, without reading it."""
        listed = [
            [shard.path, shard.size, count, None if shard.files is None else shard.files.paths]
            for shard, count in zip(self.shards, self.counts, strict=True)
        ]
        beside = [] if self.held is None else [repr(self.packing), hashlib.sha256(self.held.values.tobytes()).hexdigest()]
        return hashlib.sha256(json.dumps([*listed, *beside]).encode()).hexdigest()

    def _of_shard(self, at: int, positions: list[int]) -> Iterator[Row]:
        shard = self.shards[at]
        try:
            reader = open_shard(shard.path, self.decoding, shard.files)
        except (DataError, OSError) as exc:
            yield from (Row(None, reason=str(exc)) for _ in positions)
            return
        try:
            if reader.count == self.counts[at]:
                yield from reader.rows(positions)
                return
            why = f"{shard.path} holds {reader.count} inputs now and held {self.counts[at]} at the start"
            yield from (Row(None, reason=why) for _ in positions)
        finally:
            reader.close()


def first_size(data: Inputs | Stream) -> int:
    """How many numbers the first input holds; 1 where it is unknown."""
    first = next(data.rows([0]), None) if len(data) else None
    return max(1, first.x.size) if first is not None and first.x is not None else 1


def look_at(
    stream: Stream,
    expected: Sequence[int | None] | None,
    classes: ClassLabels | None = None,
    *,
    labelled: bool = True,
) -> tuple[Inputs, NDArray[np.int64]]:
    """The inputs that stand for all of a stream, checked against the model, and their positions.

    Args:
        stream: decoded for the model (``Stream.for_model``).
        expected: the model's shape of one input, ``None`` where an axis or all of it is free.
        classes: how labels are matched.
        labelled: whether labels are looked at too.

    Raises:
        DataError: none of them can be read, or they do not fit the model.
    """
    numbers = stream.reference()
    rows = list(stream.rows(numbers.tolist()))
    readable = [row.x.shape for row in rows if row.x is not None]
    if not readable:
        raise DataError(f"none of {len(rows)} inputs tried at {stream.source} can be read; the first: {rows[0].reason}")
    shape = max(set(readable), key=readable.count)  # a few odd ones fail on their own later
    kept = [i for i, row in enumerate(rows) if row.x is not None and row.x.shape == shape and _usable(row.x)]
    if not kept:
        raise DataError(f"none of {len(rows)} inputs tried at {stream.source} holds finite numbers")
    x = np.stack([np.asarray(rows[i].x) for i in kept])
    y, group = ([getattr(rows[i], name) for i in kept] for name in ("y", "group"))
    labels = None if None in y or not labelled else np.array(y, dtype=object)
    groups = None if None in group else np.array(group)
    held = None if stream.held is None else np.stack([np.asarray(rows[i].held) for i in kept])
    found = Inputs(
        x, labels, groups, stream.names, stream.source, stream.whole, stream.columns, packing=stream.packing, held=held
    )
    return check_inputs(found, expected, classes), numbers[kept]


def _usable(x: NDArray[Any]) -> bool:
    return x.dtype.kind in "iubf" and finite_or_missing(x)


def open_data(
    spec: str | Path, surveyor: Surveyor | None = None, reading: TableReading | None = None, most_bytes: int = WHOLE_BYTES
) -> Inputs | Stream:
    """One file that fits in memory as ``Inputs``; anything else as a ``Stream``.

    Args:
        spec: a file (.npz, .npy, .csv, .parquet, .tar), a folder of images or of such files, a glob, or a URL of these
            (``s3://bucket/train-*.parquet``; needs fsspec and the protocol's package).
        surveyor: looks into the files; in threads of this process when left out.
        reading: how tables are read.
        most_bytes: of a file that is read into memory whole.

    Raises:
        DataError: nothing there, files of several kinds, or unreadable.
    """
    text, reading = str(spec), reading or TableReading()
    file = Path(text)
    suffix = data_suffix(file.name)
    single = not is_url(text) and suffix in SUFFIXES and not any(sign in text for sign in "*?[{")
    if single and not file.exists():
        return read_inputs(file, reading)  # says so
    whole = single and (suffix in CSV_SUFFIXES or file.stat().st_size <= most_bytes)
    if whole and not (suffix == ".parquet" and _holds_whole_inputs(file)):
        return read_inputs(file, reading)
    found = _data_files(text)
    if not found:
        if not is_url(text) and file.is_file():
            return read_inputs(file)  # refuses the ending
        kinds = ", ".join((*SHARD_SUFFIXES, *CSV_SUFFIXES))
        raise DataError(f"no data at {text}: expected {kinds} or images, as a file, a folder, a glob or a URL")
    several = sorted({_kind(f.path) for f in found})
    if len(several) > 1:
        raise DataError(f"{text} holds files of several kinds ({', '.join(several)}); give a glob of one kind")
    kind = several[0]
    shards = _image_shards(text, found) if kind == "images" else [Shard(f.path, f.size) for f in found]
    if kind in ("images", ".tar"):
        require_decoder()
    listed = None if kind in TABLE_SUFFIXES else _counts_beside_files(shards)
    found_in = [ShardFacts(n) for n in listed] if listed else list((surveyor or _in_threads)(shards, reading))
    counts = [facts.count for facts in found_in]
    kept = [(shard, count) for shard, count in zip(shards, counts, strict=True) if count]
    if not kept:
        raise DataError(f"expected at least one input, got none in {len(shards)} files at {text}")
    folders = {label for shard in shards for label in (shard.files.labels if shard.files is not None else ())}
    named = tuple(sorted(str(label) for label in folders if label is not None))
    parts = [facts.columns for facts in found_in if facts.count]
    how = Decoding(reading=reading, columns=join_columns(parts, reading.categorical))
    return Stream(text, tuple(s for s, _ in kept), tuple(n for _, n in kept), how, named)


def _data_files(spec: str) -> list[FoundFiles]:
    """Files that hold inputs; CSV only where there are no others, beside which it lists labels and the like."""
    files = find_files(spec)
    for endings in ((*SHARD_SUFFIXES, *IMAGE_SUFFIXES), CSV_SUFFIXES):
        found = [f for f in files if data_suffix(f.path) in endings]
        if found:
            return found
    return []


def _holds_whole_inputs(file: Path) -> bool:
    """Whether a Parquet file's cells are arrays or images, not features."""
    import pyarrow.parquet as pq

    try:
        return cell_column(pq.read_schema(file)) is not None
    except Exception:  # reading it will say what is wrong
        return False


def survey(shard: Shard, reading: TableReading) -> ShardFacts:
    """How many inputs a shard holds, from its head or, of a tar, from its members' headers; and of a table, its columns."""
    if shard.files is not None:
        return ShardFacts(len(shard.files.paths))
    reader = open_shard(shard.path, Decoding(reading=reading))
    try:
        return ShardFacts(reader.count, reader.facts if reader.count else ())
    finally:
        reader.close()


def _in_threads(shards: Sequence[Shard], reading: TableReading) -> Iterable[ShardFacts]:
    with ThreadPoolExecutor(COUNTERS) as pool:
        return list(pool.map(lambda shard: survey(shard, reading), shards))


def _counts_beside_files(shards: Sequence[Shard]) -> list[int] | None:
    """Counts from ``sizes.json`` beside the files ({"a-000.tar": 1000}), which spares reading every tar's headers."""
    if any(shard.files is not None for shard in shards):
        return None
    folder = shards[0].path.rpartition("/")[0]
    try:
        with open_file(f"{folder}/{SIZES_FILE}" if folder else SIZES_FILE) as file:
            parsed = json.loads(file.read())
        return [int(parsed[shard.name]) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kind(path: str) -> str:
    suffix = data_suffix(path)
    return "images" if suffix in IMAGE_SUFFIXES else suffix


def _image_shards(spec: str, found: Sequence[FoundFiles]) -> list[Shard]:
    """Image files in order; in a folder of folders each folder is a class, by its name, and a group."""
    parents = [PurePosixPath(f.path).parent for f in found]
    folders = sorted(set(parents))
    classes = {p: int(p.name) if p.name.isdigit() else p.name for p in folders} if len(folders) > 1 else {}
    shards = []
    for first in range(0, len(found), FILES_A_SHARD):
        part, of = found[first : first + FILES_A_SHARD], parents[first : first + FILES_A_SHARD]
        files = Files(
            tuple(f.path for f in part),
            tuple(classes.get(p) for p in of),
            tuple(p.name if p in classes else None for p in of),
        )
        shards.append(Shard(spec, sum(f.size for f in part), files))
    return shards
