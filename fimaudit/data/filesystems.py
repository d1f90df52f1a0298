"""Files here and behind URLs (``s3://``, ``gs://``, ``memory://``) under one name: listed, measured and opened."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from fimaudit.errors import DataError, MissingExtraError
from fimaudit.foreign_errors import translated

__all__ = ["FoundFiles", "find_files", "is_url", "open_file"]

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class FoundFiles:
    """A file: its path or URL, and its size in bytes."""

    path: str
    size: int


def is_url(spec: str) -> bool:
    """Whether ``spec`` names a place that fsspec opens.

    >>> is_url("s3://bucket/x.npz"), is_url("data/x.npz")
    (True, False)
    """
    return "://" in spec


def find_files(spec: str) -> list[FoundFiles]:
    """All files under a path, a folder (with its subfolders), a glob (``**`` too) or ``name-{000..099}.tar``, by name.

    Raises:
        DataError: the place cannot be listed.
        MissingExtraError: a URL without fsspec.
    """
    out = [found for one in _expanded(spec) for found in (_remote(one) if is_url(one) else _local(one))]
    return sorted(out, key=lambda found: found.path)


def open_file(path: str) -> IO[bytes]:
    """Open a file for reading at any place of it."""
    if not is_url(path):
        return open(path, "rb")
    place, inside = _file_system(path)
    opened: IO[bytes] = place.open(inside, "rb")
    return opened


def _local(spec: str) -> Iterator[FoundFiles]:
    if os.path.isdir(spec):
        spec = os.path.join(glob.escape(spec), "**")
    names = [spec] if os.path.exists(spec) else glob.glob(spec, recursive=True)
    for name in names:
        if os.path.isfile(name):
            yield FoundFiles(name, os.path.getsize(name))


def _remote(spec: str) -> Iterator[FoundFiles]:
    place, inside = _file_system(spec)
    listed = place.glob if any(sign in inside for sign in "*?[") else place.find
    with translated(DataError, f"cannot list {spec}"):
        try:
            details = listed(inside, detail=True)
        except FileNotFoundError:
            return
    for name, detail in details.items():
        if detail.get("type") == "file":
            yield FoundFiles(place.unstrip_protocol(name), int(detail.get("size") or 0))


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec  # type: ignore[import-untyped,unused-ignore]
    except ImportError as exc:
        raise MissingExtraError(f"reading {url}", "fsspec", "ray") from exc
    with translated(DataError, f"cannot read {url}"):
        try:
            place, inside = fsspec.core.url_to_fs(url)
        except ImportError as exc:  # the protocol's own package, which it names
            raise DataError(f"cannot read {url}: {exc}") from exc
    return place, inside


def _expanded(spec: str) -> Iterator[str]:
    """``a-{000..002}.tar`` as three names, as WebDataset writes them."""
    found = _BRACES.search(spec)
    if found is None:
        yield spec
        return
    first, last = int(found[1]), int(found[2])
    for number in range(first, last + 1):
        yield from _expanded(spec[: found.start()] + str(number).zfill(len(found[1])) + spec[found.end() :])
