"""Rows as JSON values: tensors, table records, images as lossless PNG."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from fimaudit.errors import DataError, TargetError
from fimaudit.models.columns import column_cells
from fimaudit_adapters.http.protocols.base import Answer, Body, Reply, WireFormat
from fimaudit_adapters.http.settings import Endpoint

__all__ = [
    "BareBody",
    "as_csv",
    "as_json",
    "as_png",
    "cells",
    "dump",
    "encoded_image",
    "json_rows",
    "shaped",
    "table_columns",
    "table_records",
]

#: How far a pixel may lie from a whole level, in levels: float32 levels / 255 miss by 1e-5.
LEVEL_TOLERANCE = 1e-2


def dump(document: object) -> bytes:
    """Compact JSON; NaN and infinity are refused, which JSON cannot say.

    >>> dump({"x": [0.1, 1e-7, None]})
    b'{"x":[0.1,1e-07,null]}'
    """
    try:
        written = orjson.dumps(document)
        if b"null" not in written:  # which it writes for NaN too
            return written
    except TypeError:
        pass  # it is strict about names, text and large whole numbers
    try:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as exc:
        raise DataError("expected finite inputs: JSON cannot carry NaN or infinity") from exc


def as_json(document: object) -> bytes:
    """A filled request document as JSON.

    Raises:
        TargetError: an image stands in it as bare bytes.
    """
    try:
        return dump(document)
    except TypeError:
        raise TargetError(
            "JSON holds no bare bytes: expected image: png-base64 or raw-base64, or body: multipart or bytes"
        ) from None


def as_csv(document: object, separator: str = ",") -> str:
    """Lines of values; records get a line of their names first."""
    if not isinstance(document, list) or not document:
        raise TargetError("CSV is made of rows: expected request: $rows, $records, or a list of {$each: [..]}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", delimiter=separator)
    if all(isinstance(row, dict) for row in document):
        writer.writerow(document[0])
        document = [list(row.values()) for row in document]
    for row in document:
        flat = np.asarray(row).ravel().tolist() if isinstance(row, list) and row and isinstance(row[0], list) else row
        writer.writerow(
            ["" if value is None else value if isinstance(value, str) else dump(value).decode() for value in flat]
        )
    return text.getvalue()


def json_rows(rows: NDArray[Any], endpoint: Endpoint) -> list[Any]:
    """One JSON value a row: nested lists, or a PNG in base64."""
    if endpoint.image in ("png-base64", "raw-base64"):
        return [encoded_image(row, endpoint) for row in rows]
    return list(shaped(rows, endpoint).tolist())


def encoded_image(row: NDArray[Any], endpoint: Endpoint) -> bytes | str:
    """One row as PNG or raw little-endian bytes, or either in base64."""
    if endpoint.image in ("png", "png-base64"):
        raw = as_png(row, endpoint.pixel_max)
    else:
        raw = np.ascontiguousarray(row, dtype=row.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(raw).decode() if endpoint.image in ("png-base64", "raw-base64") else raw


def shaped(rows: NDArray[Any], endpoint: Endpoint) -> NDArray[Any]:
    """The rows in the shape that the endpoint was said to take."""
    if endpoint.input_shape is None or rows.shape[1:] == endpoint.input_shape:
        return rows
    try:
        return rows.reshape(len(rows), *endpoint.input_shape)
    except ValueError:
        raise DataError(f"expected rows of shape {endpoint.input_shape}, got {rows.shape[1:]}") from None


def cells(rows: NDArray[Any], endpoint: Endpoint) -> list[list[Any]]:
    """One list of values a row: numbers, and of a table whole numbers, truth values, text and ``None`` for gaps again."""
    flat = rows.reshape(len(rows), -1)
    if not endpoint.table:
        return list(flat.tolist())
    columns = [_plain(column_cells(column, flat[:, place])) for column, place in endpoint.table]
    return [list(row) for row in zip(*columns, strict=True)]


def _plain(values: NDArray[Any]) -> list[Any]:
    """Cells as JSON has them; a gap is ``None``."""
    return [
        None if one != one else one if isinstance(one, bool | int | float | str) else _text(one) for one in values.tolist()
    ]


def _text(value: Any) -> str:
    """Dates and times as ISO 8601 writes them."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def table_records(rows: NDArray[Any], endpoint: Endpoint) -> list[dict[str, Any]]:
    """One ``{column: value}`` object a row."""
    names = table_columns(rows, endpoint.columns)
    return [dict(zip(names, row, strict=True)) for row in cells(rows, endpoint)]


def table_columns(rows: NDArray[Any], columns: Sequence[str] | None) -> list[str]:
    """The column names, once their number fits the rows."""
    width = int(np.prod(rows.shape[1:]))
    if columns is None:
        raise DataError("this request needs column names; give them with --columns a,b,c or columns: in the endpoint file")
    if len(columns) != width:
        raise DataError(f"expected {width} column names for rows of {width} features, got {len(columns)}")
    return list(columns)


def as_levels(row: NDArray[Any], pixel_max: int) -> NDArray[np.uint8]:
    """Pixels as whole levels 0 to 255.

    Raises:
        DataError: outside the range, or between two levels (an 8-bit image cannot hold it).
    """
    wide = row.astype(np.float64) * (255.0 / pixel_max)
    levels = np.rint(wide)
    if not (levels.min() >= 0 and levels.max() <= 255):
        raise DataError(f"expected pixels from 0 to {pixel_max}, got {row.min():.6g} to {row.max():.6g}; see pixel_max")
    if np.abs(wide - levels).max() > LEVEL_TOLERANCE:
        raise DataError(
            "expected pixels on whole 8-bit levels, because they travel as PNG; "
            f"set the domain's quantum to {'1' if pixel_max == 255 else '1/255'}"
        )
    return levels.astype(np.uint8)


def as_png(row: NDArray[Any], pixel_max: int) -> bytes:
    """One image (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4 as PNG bytes, lossless."""
    from PIL import Image

    levels = as_levels(row, pixel_max)
    if levels.ndim == 3 and levels.shape[-1] not in (1, 3, 4) and levels.shape[0] in (1, 3, 4):
        levels = np.moveaxis(levels, 0, -1)
    if levels.ndim == 3 and levels.shape[-1] == 1:
        levels = levels[..., 0]
    if levels.ndim != 2 and not (levels.ndim == 3 and levels.shape[-1] in (3, 4)):
        raise DataError(f"expected an image (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got shape {row.shape}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


class BareBody:
    """A wire format whose request is nothing but one image: PNG or raw bytes; the answer is read by the format within."""

    most_rows: int | None = 1

    def __init__(self, inner: WireFormat, endpoint: Endpoint) -> None:
        self.url = inner.url
        self._inner, self._endpoint = inner, endpoint

    def encode(self, rows: NDArray[Any]) -> Body:
        if self._endpoint.image == "png":
            return Body(as_png(rows[0], self._endpoint.pixel_max), {"Content-Type": "image/png"})
        raw = shaped(rows, self._endpoint)[0]
        content = np.ascontiguousarray(raw, dtype=raw.dtype.newbyteorder("<")).tobytes()
        return Body(content, {"Content-Type": "application/octet-stream"})

    def decode(self, reply: Reply, rows: int) -> Answer:
        return self._inner.decode(reply, rows)
