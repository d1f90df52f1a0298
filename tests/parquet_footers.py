"""Parquet files whose footer says what they do not hold."""

from __future__ import annotations

import struct
from collections.abc import Callable


def thrift_integer(number: int) -> bytes:
    """The next field of a structure in Thrift's compact protocol, an integer of 64 bits that is not negative."""
    number, out = 2 * number, b"\x16"
    while number > 127:
        number, out = number >> 7, out + bytes([number & 127 | 128])
    return out + bytes([number])


def with_footer(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A Parquet file's bytes with another footer."""
    (length,) = struct.unpack("<i", content[-8:-4])
    footer = change(content[-8 - length : -8])
    assert footer != content[-8 - length : -8]
    return content[: -8 - length] + footer + struct.pack("<i", len(footer)) + b"PAR1"
