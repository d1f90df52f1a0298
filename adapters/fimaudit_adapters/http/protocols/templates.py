"""A request document with places for rows, and the ways in which a document becomes a body."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError
from fimaudit_adapters.http.protocols.base import Body
from fimaudit_adapters.http.protocols.encoding import cells, dump, encoded_image, shaped, table_columns
from fimaudit_adapters.http.settings import Endpoint, places

__all__ = ["RowValues", "check_template", "encode_body", "fill"]

_IN_TEXT = re.compile(r"\{([^{}\"':,]+)\}")


class RowValues:
    """The rows of one request in the forms that a document may ask for.

    Args:
        rows: (B, \\*shape).
        endpoint: how a row is written.
        fixed: columns that do not change with the displacement, by name: one value, or a list of B.
    """

    def __init__(self, rows: NDArray[Any], endpoint: Endpoint, fixed: Mapping[str, Any] | None = None) -> None:
        self._rows, self._endpoint = rows, endpoint
        self._fixed = {**endpoint.constants, **(fixed or {})}
        self._number: Callable[[Any], Any] = _as_text if endpoint.numbers == "text" else lambda value: value

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def array(self) -> NDArray[Any]:
        """The rows as numbers, in the endpoint's shape."""
        return shaped(self._rows, self._endpoint)

    def row(self, at: int) -> Any:
        """One row: nested lists of numbers with the fixed columns in their places, or an image."""
        if self._endpoint.image is not None:
            return encoded_image(shaped(self._rows[at : at + 1], self._endpoint)[0], self._endpoint)
        if self._fixed or self._endpoint.table:
            return list(self.record(at).values())
        return self._number(shaped(self._rows[at : at + 1], self._endpoint)[0].tolist())

    def record(self, at: int) -> dict[str, Any]:
        """One row as ``{column: value}``, fixed columns among them, in the order of ``columns``."""
        names = self.names()
        values = iter(self._number(cells(self._rows[at : at + 1], self._endpoint)[0]))
        return {name: _one(self._fixed[name], at) if name in self._fixed else next(values) for name in names}

    def names(self) -> list[str]:
        """All columns; those of the rows are as many as their features."""
        said = self._endpoint.columns
        free = None if said is None else [name for name in said if name not in self._fixed]
        table_columns(self._rows, free)
        assert said is not None
        return [*said, *(name for name in self._fixed if name not in said)]

    def columns(self) -> dict[str, list[Any]]:
        """``{column: values}`` of all rows."""
        records = [self.record(at) for at in range(len(self))]
        return {name: [record[name] for record in records] for name in self.names()}

    def csv(self, at: int) -> str:
        """One row as a line of CSV without its end."""
        return _csv([self.row(at)]).rstrip("\n")

    def named(self, name: str, at: int) -> Any:
        """The value of a placeholder, or ``None`` where nothing has that name."""
        if name == "row":
            return self.row(at)
        if name == "index":
            return at
        if name == "csv":
            return self.csv(at)
        if name == "record":
            return self.record(at)
        if name == "rows":
            return [self.row(i) for i in range(len(self))]
        if name == "records":
            return [self.record(i) for i in range(len(self))]
        if name == "columns":
            return self.columns()
        if name == "names":
            return self.names()
        return self.record(at)[name] if name in (self._endpoint.columns or ()) or name in self._fixed else None


def fill(part: object, values: RowValues, at: int | None = None) -> Any:
    """The document with the rows in their places.

    Args:
        part: the document, or a part of it.
        values: the rows.
        at: the row that ``$row``, ``$record``, ``$index`` and ``{name}`` mean; the first outside of ``$each``.
    """
    if isinstance(part, dict):
        return _fill_mapping(part, values, at)
    if isinstance(part, list):
        out = []
        for value in part:
            if isinstance(value, str) and value.startswith("$") and value.endswith("..."):
                out += list(fill(value.removesuffix("..."), values, at))
            else:
                out.append(fill(value, values, at))
        return out
    if not isinstance(part, str):
        return part
    if part.startswith("$"):
        if part == "$csv" and at is None:
            return "\n".join(values.csv(i) for i in range(len(values)))
        found = values.named(part[1:], at or 0)
        if found is not None:
            return found

    def replaced(match: re.Match[str]) -> str:
        found = values.named(match[1], at or 0)
        if found is None:
            return match[0]
        if isinstance(found, bytes):
            raise TargetError("an image within text must be in base64: expected image: png-base64 or raw-base64")
        return found if isinstance(found, str) else dump(found).decode()

    return _IN_TEXT.sub(replaced, part)


def encode_body(endpoint: Endpoint, values: RowValues) -> Body:
    """Write the filled document as the endpoint takes it."""
    form = endpoint.body or _default_body(endpoint)
    document = fill(_default_document(endpoint, form), values)
    if form == "json":
        return Body(_json(document), method=endpoint.method)
    if form == "ndjson":
        lines = document if isinstance(document, list) else [document]
        return Body(
            b"\n".join(_json(line) for line in lines) + b"\n", {"Content-Type": "application/x-ndjson"}, endpoint.method
        )
    if form == "csv":
        return Body(_csv(document).encode(), {"Content-Type": "text/csv"}, endpoint.method)
    if form == "form":
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Body(urlencode(_pairs(document)).encode(), kind, endpoint.method)
    if form == "query":
        return Body(b"", {}, endpoint.method, urlencode(_pairs(document)))
    if form == "multipart":
        return _multipart(document, endpoint.method)
    if form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(values.array), allow_pickle=False)
        return Body(buffer.getvalue(), {"Content-Type": "application/x-npy"}, endpoint.method)
    if form == "text":
        text = document if isinstance(document, str) else dump(document).decode()
        return Body(text.encode(), {"Content-Type": "text/plain"}, endpoint.method)
    if not isinstance(document, bytes):
        raise TargetError("body: bytes sends one row as it is: expected image: png or raw and request: $row")
    kind = {"Content-Type": "image/png" if endpoint.image == "png" else "application/octet-stream"}
    return Body(document, kind, endpoint.method)


def _fill_mapping(part: Mapping[str, Any], values: RowValues, at: int | None) -> Any:
    if set(part) == {"$each"}:
        return [fill(part["$each"], values, i) for i in range(len(values))]
    if set(part) == {"$json"}:
        return _json(fill(part["$json"], values, at)).decode()
    if set(part) == {"$base64"}:
        inner = fill(part["$base64"], values, at)
        raw = inner if isinstance(inner, bytes) else inner.encode() if isinstance(inner, str) else _json(inner)
        return base64.b64encode(raw).decode()
    return {key if "{" not in key else fill(key, values, at): fill(value, values, at) for key, value in part.items()}


def _default_body(endpoint: Endpoint) -> str:
    if endpoint.method == "GET":
        return "query"
    return "bytes" if endpoint.image in ("png", "raw") and endpoint.request is None else "json"


def _default_document(endpoint: Endpoint, form: str) -> Any:
    if endpoint.request is not None:
        return endpoint.request
    return "$row" if form in ("bytes", "text") else "$rows"


def _json(document: object) -> bytes:
    try:
        return dump(document)
    except TypeError:
        raise TargetError(
            "JSON holds no bare bytes: expected image: png-base64 or raw-base64, or body: multipart or bytes"
        ) from None


def _pairs(document: object) -> list[tuple[str, str]]:
    """Fields of a form or of a URL: a list repeats its field, another structure is written as JSON."""
    if not isinstance(document, dict):
        raise TargetError("a form or a query is made of fields: expected request to be a mapping, or $record")
    pairs = []
    for name, value in document.items():
        many = value if isinstance(value, list) and not any(isinstance(v, list | dict) for v in value) else [value]
        pairs += [(str(name), one if isinstance(one, str) else dump(one).decode()) for one in many]
    return pairs


def _csv(document: object) -> str:
    """Lines of values; records get a line of their names first."""
    if not isinstance(document, list) or not document:
        raise TargetError("CSV is made of rows: expected request: $rows, $records, or a list of {$each: [..]}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if all(isinstance(row, dict) for row in document):
        writer.writerow(document[0])
        document = [list(row.values()) for row in document]
    for row in document:
        flat = np.asarray(row).ravel().tolist() if isinstance(row, list) and row and isinstance(row[0], list) else row
        writer.writerow(
            ["" if value is None else value if isinstance(value, str) else dump(value).decode() for value in flat]
        )
    return text.getvalue()


def _multipart(document: object, method: str) -> Body:
    """Fields, and files: bytes, or ``{$file: .., name: .., type: ..}``. The boundary depends on the content alone."""
    if not isinstance(document, dict):
        raise TargetError("a multipart form is made of fields: expected request to be a mapping")
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes, str]] = {}
    for name, value in document.items():
        said = value if isinstance(value, dict) and "$file" in value else None
        content = said["$file"] if said is not None else value
        if said is None and not isinstance(content, bytes):
            fields[str(name)] = content if isinstance(content, str) else dump(content).decode()
            continue
        raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else _json(content)
        png = raw.startswith(b"\x89PNG")
        file = str(said.get("name", "row.png" if png else "row")) if said is not None else "row.png" if png else "row"
        kind = "image/png" if png else "application/octet-stream"
        files[str(name)] = (file, raw, str(said.get("type", kind)) if said is not None else kind)
    digest = hashlib.sha256(b"\0".join([json.dumps(fields).encode(), *(raw for _, raw, _ in files.values())]))
    headers = {"Content-Type": f"multipart/form-data; boundary=fimaudit-{digest.hexdigest()[:32]}"}
    if not files:  # httpx writes a form without files as another type
        files = {name: (None, text.encode(), None) for name, text in fields.items()}  # type: ignore[misc]
        fields = {}
    written = httpx.Request("POST", "http://localhost/", data=fields, files=files, headers=headers)
    return Body(written.read(), headers, method)


def _one(value: Any, at: int) -> Any:
    return value[at] if isinstance(value, list | tuple) else value


def _as_text(value: Any) -> Any:
    """Numbers as text, in lists of any depth.

    >>> _as_text([1.5, [2, 3.0]])
    ['1.5', ['2', '3.0']]
    """
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return value if value is None or isinstance(value, str) else repr(value)


def check_template(endpoint: Endpoint) -> None:
    """Refuse a document without a place for rows, and one whose placeholders ask for one row and for many.

    Raises:
        TargetError: see above.
    """
    found = places(endpoint.request, endpoint.all_columns)
    form = endpoint.body or _default_body(endpoint)
    if endpoint.request is not None and not found:
        raise TargetError(
            "the request document holds none of $rows, $row, $records, $record, $columns, $each, $csv or {row} as a value, "
            "so rows have no place to go"
        )
    if form == "npy" and endpoint.request not in (None, "$rows"):
        raise TargetError("body: npy sends the rows alone; leave request out")
