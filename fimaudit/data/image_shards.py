"""Some images out of a WebDataset .tar, or out of image files that stand for one shard."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Row
from fimaudit.data.filesystems import open_file
from fimaudit.data.images import IMAGE_SUFFIXES, decode_image
from fimaudit.data.shard_reader import Decoding, Files, damage
from fimaudit.data.table_columns import ColumnFacts
from fimaudit.errors import DataError
from fimaudit.foreign_errors import translated

__all__ = ["ImageFilesShard", "TarShard"]


class TarShard:
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
            except Exception as exc:  # of tarfile, json, numpy and Pillow
                name = "" if sample.input is None else f"{sample.input.name[:200]}: "
                yield Row(None, y, reason=f"{name}{damage(exc)}")

    def _x(self, sample: _Sample) -> NDArray[Any]:
        assert sample.input is not None
        data = self._bytes(sample.input)
        if sample.input.name.lower().endswith(".npy"):
            with translated(DataError, "it cannot be read as .npy"):
                return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
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


class ImageFilesShard:
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
            except Exception as exc:
                yield Row(None, y, group, f"{path}: {damage(exc)}")

    def close(self) -> None:
        """Nothing is held open."""


@dataclass
class _Sample:
    """Members of one sample of a tar: where its input and its label lie."""

    input: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = None
