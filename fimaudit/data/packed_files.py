"""What a zip archive of somebody else's may make zipfile do, bounded before anything is unpacked."""

from __future__ import annotations

import zipfile

__all__ = ["checked_members", "unpacked"]

#: What numpy and fimaudit pack with. Of bzip2 and LZMA zipfile unpacks all that it has read at once, however little is asked
#: for and however small a member says that it is: a file of a megabyte becomes gigabytes.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def checked_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries of an archive, each there once and packed as numpy packs.

    Raises:
        ValueError: an entry that is there twice, of which readers take different ones; another way of packing.
    """
    entries, seen = archive.infolist(), set[str]()
    for entry in entries:
        if entry.filename in seen:
            raise ValueError(f"it holds {entry.filename[:80]!r} twice")
        seen.add(entry.filename)
        if entry.compress_type not in METHODS:
            raise ValueError(f"{entry.filename[:80]!r} is packed in a way that numpy does not write; pack it with deflate")
    return entries


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, of which no more are unpacked than it says that it has.

    Raises:
        BadZipFile: it is damaged, or its bytes are others than its checksum says.
        Exception: whatever else zipfile and zlib raise.
    """
    with archive.open(entry) as member:
        found = member.read(entry.file_size)  # without a number zlib may unpack 2 GiB at once
        member.read(1)  # comes to the end, where the checksum is compared
        return found
