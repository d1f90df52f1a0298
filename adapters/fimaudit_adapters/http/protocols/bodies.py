"""The ways in which a filled request document becomes the body of a request, or its URL."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import msgpack
import numpy as np

from fimaudit.errors import TargetError
from fimaudit_adapters.http.protocols.base import Body
from fimaudit_adapters.http.protocols.encoding import as_csv, as_json, dump
from fimaudit_adapters.http.protocols.placeholders import IN_TEXT, OF_ONE, check_names, places
from fimaudit_adapters.http.protocols.templates import RowValues, fill
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["check_template", "encode_body"]


def encode_body(endpoint: Endpoint, values: RowValues) -> Body:
    """Write the filled document as the endpoint takes it."""
    form, url = endpoint.body or _default_body(endpoint), _filled_url(endpoint, values)
    if url is not None and endpoint.request is None:
        return Body(b"", {}, endpoint.method, url=url)
    content, query, kind = _written(endpoint, form, fill(_default_document(endpoint, form), values), values)
    return Body(content, {} if kind is None else {"Content-Type": kind}, endpoint.method, query, url)


def check_template(endpoint: Endpoint) -> None:
    """Refuse a document without a place for rows, and one whose placeholders ask for one row and for many.

    Raises:
        TargetError: see above.
    """
    found = places([endpoint.request, endpoint.url], endpoint.all_columns)
    form = endpoint.body or _default_body(endpoint)
    check_names(endpoint.request, endpoint.all_columns)
    unknown = [name for name in IN_TEXT.findall(endpoint.url) if name not in (*OF_ONE, *endpoint.all_columns)]
    if unknown:
        raise TargetError(f"{{{unknown[0][:60]}}} in the url is no column: expected {{row}}, {{csv}} or a column's name")
    if endpoint.request is not None and not found:
        raise TargetError(
            "the request document holds none of $rows, $row, $records, $record, $columns, $each, $csv or {row} as a value, "
            "so rows have no place to go"
        )
    if form == "npy" and endpoint.request not in (None, "$rows"):
        raise TargetError("body: npy sends the rows alone; leave request out")


def _written(endpoint: Endpoint, form: str, document: Any, values: RowValues) -> tuple[bytes, str, str | None]:
    """Content, further parameters of the URL, and the type of the content."""
    if form == "json":
        return as_json(document), "", "application/json"
    if form == "ndjson":
        lines = document if isinstance(document, list) else [document]
        return b"\n".join(as_json(line) for line in lines) + b"\n", "", "application/x-ndjson"
    if form == "csv":
        return as_csv(document, endpoint.separator).encode(), "", "text/csv"
    if form == "form":
        return urlencode(_pairs(document)).encode(), "", "application/x-www-form-urlencoded"
    if form == "query":
        return b"", urlencode(_pairs(document)), None
    if form == "multipart":
        return _multipart(document)
    if form == "msgpack":
        return msgpack.packb(document), "", "application/msgpack"
    if form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(values.array), allow_pickle=False)
        return buffer.getvalue(), "", "application/x-npy"
    if form == "text":
        return (document if isinstance(document, str) else dump(document).decode()).encode(), "", "text/plain"
    if not isinstance(document, bytes):
        raise TargetError("body: bytes sends one row as it is: expected image: png or raw and request: $row")
    return document, "", "image/png" if endpoint.image == "png" else "application/octet-stream"


def _filled_url(endpoint: Endpoint, values: RowValues) -> str | None:
    """The URL with the row in its places; ``None`` where it has none."""
    if not places(endpoint.url, endpoint.all_columns):
        return None

    def put(match: Any) -> str:
        found = values.named(match[1])
        return match[0] if found is None else quote(found if isinstance(found, str) else dump(found).decode(), safe=",")

    return IN_TEXT.sub(put, endpoint.url)


def _default_body(endpoint: Endpoint) -> str:
    if endpoint.method == "GET":
        return "query"
    return "bytes" if endpoint.image in ("png", "raw") and endpoint.request is None else "json"


def _default_document(endpoint: Endpoint, form: str) -> Any:
    if endpoint.request is not None:
        return endpoint.request
    return "$row" if form in ("bytes", "text") else "$rows"


def _pairs(document: object) -> list[tuple[str, str]]:
    """Fields of a form or of a URL: a list repeats its field, another structure is written as JSON."""
    if not isinstance(document, dict):
        raise TargetError("a form or a query is made of fields: expected request to be a mapping, or $record")
    pairs = []
    for name, value in document.items():
        many = value if isinstance(value, list) and not any(isinstance(v, list | dict) for v in value) else [value]
        pairs += [(str(name), one if isinstance(one, str) else dump(one).decode()) for one in many]
    return pairs


def _multipart(document: object) -> tuple[bytes, str, str]:
    """Fields, and files: bytes, or ``{$file: .., name: .., type: ..}``. The boundary depends on the content alone."""
    if not isinstance(document, dict):
        raise TargetError("a multipart form is made of fields: expected request to be a mapping")
    fields: dict[str, str] = {}
    files: dict[str, tuple[str | None, bytes, str | None]] = {}
    for name, value in document.items():
        said = value if isinstance(value, dict) and "$file" in value else {}
        content = said.get("$file", value)
        if not said and not isinstance(content, bytes):
            fields[str(name)] = content if isinstance(content, str) else dump(content).decode()
            continue
        raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else as_json(content)
        png = raw.startswith(b"\x89PNG")
        file = said.get("name", "row.png" if png else "row")  # null for a part with a type of its own that is no file
        kind = str(said.get("type", "image/png" if png else "application/octet-stream"))
        files[str(name)] = (None if file is None else str(file), raw, kind)
    digest = hashlib.sha256(b"\0".join([json.dumps(fields).encode(), *(raw for _, raw, _ in files.values())]))
    kind = f"multipart/form-data; boundary=fimaudit-{digest.hexdigest()[:32]}"
    if not files:  # httpx writes a form without files as another type
        files = {name: (None, text.encode(), None) for name, text in fields.items()}
        fields = {}
    written = httpx.Request("POST", "http://localhost/", data=fields, files=files, headers={"Content-Type": kind})
    return written.read(), "", kind
