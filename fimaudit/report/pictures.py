"""Arrays as pictures inside the page: PNG data URIs, written with the standard library."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_picture", "heat_uri", "is_picture", "picture_uri"]

#: Longest side of an embedded picture, so that a page stays small; larger ones are averaged down.
LONGEST = 128
SMALLEST_SIDE = 4
CHANNELS = (1, 3)
#: Ends of the heat map: falls, nothing, rises (blue, white, red; distinct for people who see red and green alike).
COLD, MIDDLE, HOT = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 24, 43])


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape can be shown: (H, W), (C, H, W) or (H, W, C) with one or three channels."""
    return _layout(shape) is not None


def as_picture(x: NDArray[Any]) -> NDArray[np.float64] | None:
    """(H, W, C) floats, averaged down to at most ``LONGEST`` a side."""
    layout = _layout(x.shape)
    if layout is None:
        return None
    a = x.astype(np.float64)
    a = a[..., None] if layout == "HW" else np.moveaxis(a, 0, -1) if layout == "CHW" else a
    factor = -(-max(a.shape[:2]) // LONGEST)
    if factor > 1:
        h, w = (n // factor * factor for n in a.shape[:2])
        a = a[:h, :w].reshape(h // factor, factor, w // factor, factor, -1).mean(axis=(1, 3))
    return a


def picture_uri(x: NDArray[Any], lower: float | None, upper: float | None) -> str | None:
    """The input as a PNG, between its bounds or its own extremes."""
    a = as_picture(x)
    if a is None:
        return None
    low = float(a.min()) if lower is None else lower
    high = float(a.max()) if upper is None else upper
    span = high - low if high > low else 1.0
    return _uri(np.clip((a - low) / span * 255 + 0.5, 0, 255).astype(np.uint8))


def heat_uri(direction: NDArray[Any]) -> str | None:
    """A direction as a map from blue (falls) over white to red (rises), channels added up."""
    a = as_picture(direction)
    if a is None:
        return None
    flat = a.sum(axis=-1)
    top = float(np.abs(flat).max()) or 1.0
    t = (flat / top)[..., None]
    colour = np.where(t < 0, MIDDLE + (COLD - MIDDLE) * -t, MIDDLE + (HOT - MIDDLE) * t)
    return _uri((colour + 0.5).astype(np.uint8))


def _layout(shape: tuple[int, ...]) -> str | None:
    if len(shape) == 2 and min(shape) >= SMALLEST_SIDE:
        return "HW"
    if len(shape) != 3:
        return None
    if shape[0] in CHANNELS and min(shape[1:]) >= SMALLEST_SIDE:
        return "CHW"
    return "HWC" if shape[2] in CHANNELS and min(shape[:2]) >= SMALLEST_SIDE else None


def _uri(pixels: NDArray[np.uint8]) -> str:
    height, width, channels = pixels.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)])
    colour_type = 0 if channels == 1 else 2
    head = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
